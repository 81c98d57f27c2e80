"""One attempt at moving a database, whatever tool does it: its deadline, its line for the card, and its sessions' end when it ends badly."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal
from urllib.parse import quote

from bot.errors import BackoutError, OutcomeUnknown, StepFailed
from bot.keeping import Work
from bot.place import Connect
from bot.ports import Database
from bot.process import redact
from bot.tools.bounds import Bounds, spelled
from bot.tools.trace import Trace

Op = Literal["downgrade", "upgrade", "stamp"]
LOCK_TIMEOUT = "55P03"  #: sqlstate


class Watched:
    """`trace` is what is known of the work so far."""

    def __init__(self, op: Op, bounds: Bounds, database: Database, work: Work, trace: Trace) -> None:
        self._op, self._bounds, self._database, self._work, self._trace = op, bounds, database, work, trace

    async def carry_out(self, talk: Callable[[tuple[int, int]], Awaitable[None]], judge: Callable[[], None], waits: str) -> None:
        """`talk` does it, handed the challenge; `judge` raises what its end means; `waits` is what to look at when it does not end.

        Once it was told to begin, every end but success ends the attempt's sessions.
        """
        async with self._database.challenge() as challenge:
            try:
                async with asyncio.timeout(self._bounds.deadline.total_seconds()):
                    await self._beside_a_watch(talk, challenge)
                judge()
            except asyncio.CancelledError:
                with suppress(BackoutError):
                    await self._stop()
                raise
            except TimeoutError:
                await self._stop()
                told = f"The {self._op} did not end within {spelled(self._bounds.deadline)}; it was stopped."
                raise (self.unknown(told) if self._trace.begun else self.nothing(told, f"Look at what {waits} waits for, then retry.")) from None
            except BackoutError:
                await self._stop()
                raise

    async def _stop(self) -> None:
        """A killed tool leaves a backend that may execute later (F4): see every session of this attempt gone.

        Not when it had not begun: then sessions of that name are a twin's, which may be at work.
        """
        if not self._trace.begun:
            return
        try:
            await asyncio.shield(self._database.end_sessions(self._work.application))
        except BackoutError as error:
            raise self.unknown(f"The tool ended, but its sessions could not be seen gone: {str(error).rstrip('.')}.") from error

    async def _beside_a_watch(self, talk: Callable[[tuple[int, int]], Awaitable[None]], challenge: tuple[int, int]) -> None:
        watching = asyncio.create_task(self._watch())
        try:
            await talk(challenge)
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self) -> None:
        """Progress at most once a second, and who is in the way of a statement that takes long. Never stops the work."""
        trace = self._trace
        patience = min(2.0, self._bounds.lock_timeout.total_seconds() / 2)
        told = ""
        while True:
            await asyncio.sleep(min(1.0, patience / 2))
            with suppress(BackoutError):
                if trace.waiting >= patience:
                    trace.blocked_by(await self._database.blockers(self._work.application))
                if trace.begun and trace.says() != told:
                    told = trace.says()
                    await self._work.progress(told)

    # -------------------------------------------------------------- how it ended

    def committed(self) -> str:
        """After a failure, what stays of it."""
        trace = self._trace
        if trace.facts()["one_transaction"] and not trace.commits:
            return "Its one transaction was rolled back."
        done = ", ".join(trace.revisions) or "no revision"
        word = "undone" if self._op == "downgrade" else "applied"
        return f"Not all of it was in one transaction: {trace.commits} had been committed, {done} was {word}."

    def waited(self) -> str:
        """After a lock timeout."""
        return f"waited {spelled(self._bounds.lock_timeout)} for {self._trace.blockers() or 'a lock that somebody else held'}"

    def nothing(self, told: str, following: str) -> StepFailed:
        return StepFailed(f"{told} Nothing was executed. {following}", self._trace.facts())

    def unknown(self, told: str) -> OutcomeUnknown:
        look = "Nobody can say how far it came: look at the revision and the schema before anything else."
        return OutcomeUnknown(f"{told} {look}", self._trace.facts())


def fence_of(work: Work) -> tuple[int, int]:
    """Two signed 32-bit keys of this very attempt."""
    raw = hashlib.sha256(f"{work.run}\n{work.step}\n{work.attempt}".encode()).digest()
    return int.from_bytes(raw[:4], "big", signed=True), int.from_bytes(raw[4:8], "big", signed=True)


def cleaning(connect: Connect) -> Callable[[str], str]:
    """A text without that connection's secrets, and without what a JSON column can't hold."""
    secrets = tuple({connect.password, quote(connect.password, safe="")} - {""})
    return lambda text: redact(text, secrets).replace("\x00", "").encode("utf-8", "replace").decode()
