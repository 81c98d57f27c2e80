"""The work behind the gate: down or up to an absolute revision, watched while it runs, and judged by its frames when it ended."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from bot.errors import BackoutError, OutcomeUnknown, ProgramMissing, StepFailed
from bot.keeping import Work
from bot.running import Program
from bot.tools.alembic_program import HelperProgram, spelled
from bot.tools.alembic_words import failure, refusal
from bot.tools.frames import Frame

_LOCK_TIMEOUT = "55P03"


@dataclass(frozen=True)
class Order:
    """What the tool is told. `scripts` None: whatever lies there is run, so nothing of it was planned."""

    op: Literal["downgrade", "upgrade"]
    to: str
    from_: tuple[str, ...]
    scripts: Mapping[str, str] | None


class Move:
    """One attempt at an order, once."""

    def __init__(self, helper: HelperProgram, order: Order, work: Work) -> None:
        self._helper, self._order, self._work = helper, order, work
        self._settings, self._database = helper.settings, helper.database
        self._trace = helper.trace()

    async def carry_out(self) -> Mapping[str, Any]:
        """Raises StepFailed and OutcomeUnknown with the same facts. Once it was told to begin, every end but success ends the attempt's sessions."""
        async with self._database.challenge() as challenge:
            try:
                async with asyncio.timeout(self._settings.deadline.total_seconds()):
                    await self._talk(challenge)
                self._judge()
            except asyncio.CancelledError:
                with suppress(BackoutError):
                    await self._stop()
                raise
            except TimeoutError:
                await self._stop()
                told = f"The {self._order.op} did not end within {spelled(self._settings.deadline)}; it was stopped."
                following = "Look at what env.py waits for, then retry."
                raise (self._unknown(told) if self._trace.begun else self._nothing(told, following)) from None
            except BackoutError:
                await self._stop()
                raise
        return self._trace.facts()

    async def _stop(self) -> None:
        """A killed tool leaves a backend that may execute later (F4): see every session of this attempt gone.

        Not when it had not begun: then sessions of that name are a twin's, which may be at work.
        """
        if not self._trace.begun:
            return
        try:
            await asyncio.shield(self._database.end_sessions(self._work.application))
        except BackoutError as error:
            raise self._unknown(f"The tool ended, but its sessions could not be seen gone: {str(error).rstrip('.')}.") from error

    async def _talk(self, challenge: tuple[int, int]) -> None:
        order, work = self._order, self._work
        request = {
            "op": order.op,
            "to": order.to,
            "from": list(order.from_),
            "scripts": None if order.scripts is None else dict(order.scripts),
            "challenge": challenge,
            "fence": fence_of(work),
            "measure": work.rehearsing,
            "settings": self._helper.bounds(work.application),
        }
        watching = asyncio.create_task(self._watch())
        try:
            await self._helper.talk(request, work.application, self._trace, self._take)
        except ProgramMissing as error:  # cannot come after the program has spoken
            raise self._nothing(f"The tool can't be started: {error}.", "Look at tool.python and tool.directory.") from error
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _take(self, frame: Frame, program: Program) -> None:
        self._trace.take(frame)
        if frame["k"] == "ready":
            await self._decide(frame, program)

    async def _decide(self, ready: Frame, program: Program) -> None:
        """The last moment at which nothing has happened."""
        self._trace.objection = self._objection(ready)
        if not self._trace.objection:
            await self._work.remember(pid=program.pid, backend=ready["backend"])
            if await self._work.may_begin():
                self._trace.begun = True
                await program.send(b"go\n")
        await program.close_stdin()

    def _objection(self, ready: Frame) -> str:
        """Why env.py is not as it was when the plan was made; empty when it is."""
        plan = self._work.plan
        if self._order.scripts is None:
            return ""
        if plan.one_transaction and not ready["one_transaction"]:
            return f"env.py would not use one transaction for the whole {self._order.op} any more, as it did when the plan was made."
        if (ready["table"], ready["found_schema"]) != (plan.version_table, plan.version_table_schema or ready["found_schema"]):
            return "env.py uses another version table than when the plan was made."
        return ""

    async def _watch(self) -> None:
        """Progress at most once a second, and who is in the way of a statement that takes long. Never stops the work."""
        trace = self._trace
        patience = min(2.0, self._settings.lock_timeout.total_seconds() / 2)
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

    def _judge(self) -> None:
        """Raise what the end means. The exit code is not looked at."""
        trace, clean, op = self._trace, self._helper.clean, self._order.op
        end = trace.end
        if trace.objection:
            raise self._nothing(trace.objection, "Ask for a new plan.")
        if end is not None and end["k"] == "refused":
            why = refusal(end, clean)
            if trace.begun:
                raise self._unknown(f"The {op} was stopped in the middle. {why.message}")
            raise self._nothing(why.message, why.next)
        if not trace.begun:
            why = failure(end or {}, self._helper.last_lines(trace), clean)
            told = why.message if end is None or end["k"] == "failed" else "env.py ended without running the migrations."
            raise self._nothing(told, why.next)
        if end is None:
            raise self._unknown(f"The tool was lost in the middle of the {op}: it ended without its last word.")
        if trace.lost:
            raise self._unknown(f"The tool lost its connection in the middle of the {op}: {clean(end.get('message', ''))}.")
        if end["k"] == "failed":
            raise self._failed(end)

    def _failed(self, end: Frame) -> StepFailed:
        trace, clean, op = self._trace, self._helper.clean, self._order.op
        told = [f"{op}() of {end['revision']} failed" if end["revision"] else f"The {op} failed"]
        told[0] += f": {clean(end['message'])} ({clean(end['where'])})."
        following = "Look at the error, then retry, restore, or leave it."
        if end["sqlstate"] == _LOCK_TIMEOUT:
            waited = f"waited {spelled(self._settings.lock_timeout)} for {trace.blockers() or 'a lock that somebody else held'}"
            told = [f"{op}() of {end['revision']} {waited}, and gave up (lock timeout, {clean(end['where'])})."]
            following = "End that session or wait for it, then retry."
        facts = trace.facts()
        if facts["one_transaction"] and not trace.commits:
            told.append("Its one transaction was rolled back.")
        else:
            done = ", ".join(trace.revisions) or "no revision"
            word = "undone" if op == "downgrade" else "applied"
            told.append(f"Not all of it was in one transaction: {trace.commits} had been committed, {done} was {word}.")
        error = {"message": clean(end["message"]), **{key: end[key] for key in ("type", "sqlstate", "where", "revision")}}
        error["trace"] = [clean(place) for place in end["trace"]]
        return StepFailed(" ".join([*told, following]), facts | {"error": error})

    def _nothing(self, told: str, following: str) -> StepFailed:
        return StepFailed(f"{told} Nothing was executed. {following}", self._trace.facts())

    def _unknown(self, told: str) -> OutcomeUnknown:
        look = "Nobody can say how far it came: look at the revision and the schema before anything else."
        return OutcomeUnknown(f"{told} {look}", self._trace.facts())


def fence_of(work: Work) -> tuple[int, int]:
    """Two signed 32-bit keys of this very attempt."""
    raw = hashlib.sha256(f"{work.run}\n{work.step}\n{work.attempt}".encode()).digest()
    return int.from_bytes(raw[:4], "big", signed=True), int.from_bytes(raw[4:8], "big", signed=True)
