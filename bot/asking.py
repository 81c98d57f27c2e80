"""The product, as the channel and the command line may use it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bot.errors import Refusal
from bot.evidence import Duty, Listed
from bot.model import Person, Plan, Request, Run, View
from bot.place import Right
from bot.strategy import Strategy


class Rollbacks(Protocol):
    """The product, as the channel and the command line may use it (bot/rollback/flow.py).

    Everything raises Denied (not yours) or Refusal (Backout would not), whose sentences are for the asking person alone; both are journaled.
    """

    async def request(self, request: Request) -> Run:
        """Start a run: stored, planned in the background. Raises Refusal(run_in_progress, unknown_target, ...)."""

    async def preview(self, target: str, rev: str, strategy: Strategy = "downgrade") -> Plan:
        """What a run would do; changes nothing."""

    async def approve(self, run: str, digest: str, by: Person) -> None: ...
    async def withdraw(self, run: str, by: Person) -> None: ...
    async def may_reject(self, run: str, digest: str, by: Person) -> None:
        """Asked before the form for the reason is opened."""

    async def reject(self, run: str, digest: str, by: Person, reason: str) -> None: ...
    async def cancel(self, run: str, by: Person) -> None: ...
    async def decide(self, run: str, decision: str, by: Person) -> None:
        """`decision`: retry, restore, leave or escalate."""

    async def end_sessions(self, run: str, by: Person) -> None:
        """End the sessions that are in the downgrade's way now; for whoever may decide."""

    async def may_enter(self, run: str, by: Person) -> None:
        """Asked before the form for the address of a recovered server is opened; for the requester and whoever may decide."""

    async def enter(self, run: str, address: str, by: Person) -> None:
        """Where a provider recovered the instant that a run waits for: looked at, then kept in memory alone. Returns when it was taken."""

    async def note(self, run: str, text: str, by: Person) -> None: ...
    async def tick(self, run: str, items: Sequence[str], by: Person) -> None:
        """The checklist's and the questions' boxes that are ticked now."""

    async def view(self, run: str) -> View: ...
    async def newest(self, *, channel: str | None = None, target: str | None = None) -> str | None:
        """The newest open run there, else the newest."""

    async def history(self, target: str, limit: int = 20) -> tuple[Run, ...]: ...
    async def backups(self, target: str) -> tuple[Listed, ...]:
        """Every backup there is of it, Backout's own first, then others'; newest first."""

    async def duties(self, target: str) -> tuple[Duty, ...]:
        """How the last scheduled backup and the last drill went."""

    async def check(self, target: str) -> tuple[Refusal, ...]:
        """What stands in the way of a rollback right now; empty when ready."""

    async def rights(self, target: str) -> tuple[Right, ...]:
        """What Backout's role may do on the target's server; plans offer only what works. Raises Refusal (unreachable, wrong_credentials)."""

    async def report(self, run: str) -> str:
        """The post-mortem as Markdown: the same bytes every time once the run has ended."""


class People(Protocol):
    """The command line's proof of who sits there."""

    def prove(self, user: str, token: str | None) -> Person:
        """Raises Denied."""
