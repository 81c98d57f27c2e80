"""What is written behind the command's name, to the letter of docs/contract.md. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from bot.errors import UsageError
from bot.model import Severity
from bot.strategy import Strategy, restoring

#: what makes a run; "rollback" is no verb: it is meant when none is written
REQUESTS = frozenset({"rollback", "reapply", "restore", "tables", "pitr", "stamp"})
#: what is asked for is not a revision, and may have several words
_THINGS: Mapping[str, str] = {"tables": "T[,T] from BACKUP", "pitr": "TIME"}
_ON_RUNS = frozenset({"status", "abort", "report"})
_ON_TARGETS = frozenset({"history", "backups", "check"})
VERBS = frozenset({"plan", "note", "help"}) | (REQUESTS - {"rollback"}) | _ON_RUNS | _ON_TARGETS

_QUOTES = ('""', "''", "“”", "‘’", "„“", "«»")
_STEPS_BACK = re.compile(r"[-–—](\d+)")


@dataclass(frozen=True)
class Command:
    """A command as it was meant. `verb` is "rollback" when none was written; what was not written is None."""

    verb: str
    target: str | None = None
    rev: str | None = None
    reason: str | None = None
    severity: Severity | None = None
    run: str | None = None
    #: all words behind the verb, for `note`
    text: str = ""


def parse(text: str, targets: Collection[str], command: str = "/rollback") -> Command:
    """Read the words behind the command. Raises UsageError, which says what could be written instead."""
    words = text.split()
    verb = words[0].lower() if words else ""
    if verb not in VERBS:
        return _request("rollback", words, targets, command)
    rest = words[1:]
    if verb in _ON_RUNS:
        return Command(verb, run=_at_most_one(verb, rest, "RUN", command))
    if verb in _ON_TARGETS:
        return Command(verb, target=_known(_at_most_one(verb, rest, "TARGET", command), targets))
    if verb in REQUESTS:
        return _request(verb, rest, targets, command)
    if verb == "plan":
        return _plan(rest, targets, command)
    if verb == "note" and not rest:
        raise UsageError(f"A note needs words: {command} note traffic is back to normal")
    return Command(verb, text=" ".join(rest))


def asked(command: Command) -> tuple[Strategy, str]:
    """What a request asks for, and of which revision, backup, tables or instant."""
    if command.verb == "restore":
        return restoring(command.rev or "")
    return "downgrade" if command.verb == "rollback" else cast("Strategy", command.verb), command.rev or ""


def example(verb: str) -> str:
    """What could be asked for."""
    return {"reapply": "0005", "restore": "BACKUP", "tables": "orders from BACKUP", "pitr": "2026-01-17T10:00:00Z"}.get(verb, "0004")


def revision(word: str) -> str:
    """A REV as the product takes it: every dash is a minus. Raises UsageError for -0."""
    if found := _STEPS_BACK.fullmatch(word):
        if int(found[1]) < 1:
            raise UsageError("-0 undoes nothing. -1 undoes the newest migration, -2 the newest two.")
        return f"-{int(found[1])}"
    return word


def _request(verb: str, words: Sequence[str], targets: Collection[str], command: str) -> Command:
    target = words[0] if len(words) > 1 and words[0] in targets else None
    rest = list(words[1:] if target else words)
    rev = None
    if verb in _THINGS:
        rev = " ".join(_until_clause(rest)) or None
        rest = rest[len(rev.split()) if rev else 0 :]
    elif rest and not _begins_clause(rest):
        word = rest.pop(0)
        rev = word if verb == "restore" else revision(word)
        if verb == "restore" and restoring(" ".join([word, *rest[:2]]))[0] == "in_place":
            rev, rest = f"{word} in place", rest[2:]
    return _clauses(Command(verb, target=target, rev=rev), rest, command)


def _plan(words: Sequence[str], targets: Collection[str], command: str) -> Command:
    target = words[0] if len(words) > 1 and words[0] in targets else None
    rest = words[1:] if target else words
    if len(rest) != 1:
        raise UsageError(f"A plan needs one revision, the one that stays applied: {command} plan {target or '[TARGET]'} 0004")
    return Command("plan", target=target, rev=revision(rest[0]))


def _until_clause(words: Sequence[str]) -> list[str]:
    end = next((place for place in range(len(words)) if _begins_clause(words[place:])), len(words))
    return list(words[:end])


def _begins_clause(words: Sequence[str]) -> bool:
    first = words[0].lower()
    return first == "because" or (first == "sev" and len(words) > 1)


def _clauses(command: Command, words: Sequence[str], name: str) -> Command:
    rest = list(words)
    while rest:
        clause = rest.pop(0).lower()
        if clause == "because":
            if len(rest) > 1 and rest[-2].lower() == "sev" and _severity(rest[-1]):
                command = _with_severity(command, rest[-1])
                rest = rest[:-2]
            return replace(command, reason=_unquoted(" ".join(rest)) or None)
        if clause != "sev":
            raise UsageError(f"“{clause[:40]}” is one word too many. Write the reason behind “because”: {_example(command, name)}")
        command = _with_severity(command, rest.pop(0) if rest else "")
    return command


def _with_severity(command: Command, word: str) -> Command:
    severity = _severity(word)
    if severity is None:
        raise UsageError(f"“sev” is followed by one of {', '.join(Severity)}: sev high")
    if command.severity not in {None, severity}:
        raise UsageError(f"Two severities: {command.severity} and {severity}. Write one.")
    return replace(command, severity=severity)


def _severity(word: str) -> Severity | None:
    return next((each for each in Severity if each == word.lower()), None)


def _unquoted(text: str) -> str:
    return text[1:-1].strip() if len(text) > 1 and text[0] + text[-1] in _QUOTES else text


def _at_most_one(verb: str, words: Sequence[str], what: str, command: str) -> str | None:
    if len(words) > 1:
        raise UsageError(f"{verb} takes one word at most: {command} {verb} [{what}]")
    return words[0] if words else None


def _known(target: str | None, targets: Collection[str]) -> str | None:
    if target is not None and target not in targets:
        raise UsageError(f"There is no target {target[:40]}. There is: {', '.join(sorted(targets)) or 'none'}.")
    return target


def _example(command: Command, name: str) -> str:
    target = f"{command.target} " if command.target else ""
    verb = "" if command.verb == "rollback" else f"{command.verb} "
    return f"{name} {verb}{target}{(command.rev or '0004')[:40]} sev high because orders fail"
