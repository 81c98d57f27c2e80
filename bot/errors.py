"""Every error that Backout raises on purpose.

BackoutError
├── Refusal          Backout would not: a code, what happened, what to do next
├── Denied           a person may not; told to that person alone
├── UsageError       words that can't be read as a command
├── ConfigError      backout.yml or the environment; names the key
├── StepFailed       a step ended red; carries its evidence
│   └── OutcomeUnknown   nobody can say whether the effect happened: a person decides
├── FenceLost        the server, or our lock on it, is no longer the one we proved
├── TransitionRefused    the journal would not make an illegal change of state
├── JournalDown      the journal can't be reached
├── ProgramFailed    a program ended badly, or could not be started
│   └── ProgramMissing
└── ChatError        the channel would not take a message; the run goes on
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class BackoutError(Exception):
    """The root: everything below is told to people; anything else is a bug of ours."""


class Refusal(BackoutError):
    """Backout would not. `code` is stable (docs/contract.md), `message` says what happened and what it means, `next` what to do."""

    def __init__(self, code: str, message: str, next: str, *, warning: bool = False) -> None:  # noqa: A002  the contract's word
        super().__init__(message)
        #: what was measured until then, small and JSON
        self.facts: dict[str, Any] = {}
        self.warning = warning
        self.code = code
        self.message = message
        self.next = next


class Denied(BackoutError):
    """This person may not do this. The sentence is for that person alone."""


class UsageError(BackoutError):
    """The words can't be read as a command; the sentence says what could be written instead."""


class ConfigError(BackoutError):
    """The configuration or the environment is wrong; the sentence names the key and what to write."""


class StepFailed(BackoutError):
    """A step ended red. `facts` is its evidence, small and JSON."""

    def __init__(self, message: str, facts: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.facts: dict[str, Any] = dict(facts or {})


class OutcomeUnknown(StepFailed):
    """A broken connection, a timeout, a terminated session: nobody can say whether it happened."""


class FenceLost(BackoutError):
    """The server or our lock on it changed under us: nothing goes on by itself."""


class TransitionRefused(BackoutError):
    """The journal refuses a change of state that the table in model.py does not have."""


class JournalDown(BackoutError):
    """The journal can't be reached, so nothing may be done."""


class ProgramFailed(BackoutError):
    """A program ended badly. `output` is redacted and capped."""

    def __init__(self, message: str, *, code: int | None = None, output: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.output = output


class ProgramMissing(ProgramFailed):
    """A program can't be found or started."""


class ChatError(BackoutError):
    """The channel would not take a message."""
