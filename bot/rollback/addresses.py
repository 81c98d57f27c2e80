"""Addresses of servers that a provider recovered. They hold passwords: they live in memory, from the one who enters one to the step that waits."""

from __future__ import annotations

import asyncio
import re
from typing import NamedTuple

from bot.address import parse_url
from bot.durable import TargetParts
from bot.errors import ConfigError, Refusal
from bot.model import AttemptState, Plan, Run, State
from bot.place import Connect

STEP = "recover"  #: the step that waits
FACT = "waits"  #: of its attempt, as long as it does: whose recovery, and until when
_MAYBE = (None, "allow", "prefer")
_RESOLVED = re.compile(r"\(?(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])\)?|\([\da-f]*(?::[\da-f]*){2,7}\)|port \d+", re.IGNORECASE)
_LOOK = 0.1  # seconds
_SOON = 10.0  # seconds that a step gets to begin its waiting, e.g. after a restart


class Wanted(NamedTuple):
    """`until` is ISO 8601."""

    provider: str
    until: str


def wanted(run: Run) -> Wanted | None:
    """What the run waits for now; None when it doesn't."""
    last = run.last_attempt(STEP)
    if run.state is not State.REHEARSING or last is None or last.state is not AttemptState.INTENDED or not last.facts.get(FACT):
        return None
    return Wanted(**last.facts[FACT])


class Addresses:
    """Those that runs of this process wait for."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[Connect]] = {}

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def of(self, run: str) -> Connect:
        """Wait for it. One step of a run waits at a time."""
        waiting: asyncio.Future[Connect] = asyncio.get_running_loop().create_future()
        self._waiting[run] = waiting
        try:
            return await waiting
        finally:
            del self._waiting[run]

    async def expected(self, run: str) -> bool:
        """Does a step of this process wait for it, now or in a moment?"""
        for _ in range(round(_SOON / _LOOK)):
            if self._waits(run):
                return True
            await asyncio.sleep(_LOOK)
        return False

    def give(self, run: str, address: Connect) -> bool:
        """False when nobody waits any more."""
        if not self._waits(run):
            return False
        self._waiting[run].set_result(address)
        return True

    def _waits(self, run: str) -> bool:
        return run in self._waiting and not self._waiting[run].done()


def parsed(text: str) -> Connect:
    """Raises Refusal(address_unreadable), which shows nothing of it."""
    try:
        return parse_url(re.sub(r"^<?(\S+?)>?$", r"\1", text.strip()))
    except ConfigError as error:
        raise Refusal("address_unreadable", str(error), "Enter the address again.") from None


async def examined(target: TargetParts, plan: Plan, address: Connect) -> None:
    """Is it a server that the copy can be taken from? Raises Refusal: address_of_production, address_unfit, or why it can't be entered or read."""
    there = target.elsewhere(address)
    async with target.database.challenge() as lock:
        seen = await there.looked_at(lock)
    if seen.same:
        raise Refusal(
            "address_of_production", f"That address leads to {target.name} itself, as it is now.",
            "Enter the address of the server that was recovered.",
        )  # fmt: skip
    if seen.in_recovery:
        raise Refusal(
            "address_unfit", "That server is a standby, or is still being recovered: it goes on changing.",
            "Wait until its recovery has ended, then enter it again.",
        )  # fmt: skip
    major, ours = seen.version // 10000, plan.identity.version // 10000
    if major > ours:
        raise Refusal(
            "address_unfit", f"That server is PostgreSQL {major}, and production is {ours}: what is dumped there could not be restored here.",
            f"Let PostgreSQL {ours} be recovered.",
        )  # fmt: skip
    # Where there is TLS, most providers insist on it: a pg_dump without it is told of now, and not by its failing.
    under_tls = seen.encrypted and address.sslmode in _MAYBE
    await target.backup.of(address.model_copy(update={"sslmode": "require"}) if under_tls else address).ready(plan.identity.version)
    await there.heads(*plan.version)


def concealed(text: str, address: Connect) -> str:
    """Words of a program or a server, without the address in them."""
    for part in (address.password, address.host, address.user):
        text = re.sub(rf"(?<!\w){re.escape(part)}(?!\w)", "***", text) if part else text
    return _RESOLVED.sub("***", text)  # libpq also says what the name was resolved to
