"""The work behind the gate: down or up to an absolute revision, watched while it runs, and judged by its frames when it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bot.errors import ProgramMissing, StepFailed
from bot.keeping import Work
from bot.running import Program
from bot.tools.alembic_program import HelperProgram
from bot.tools.alembic_words import failure, refusal
from bot.tools.frames import Frame
from bot.tools.watched import LOCK_TIMEOUT, Op, Watched, fence_of


@dataclass(frozen=True)
class Order:
    """What the tool is told. `scripts` None: whatever lies there is run, so nothing of it was planned."""

    op: Op
    to: str
    from_: tuple[str, ...]
    scripts: Mapping[str, str] | None


class Move:
    """One attempt at an order, once."""

    def __init__(self, helper: HelperProgram, order: Order, work: Work) -> None:
        self._helper, self._order, self._work = helper, order, work
        self._trace = helper.trace()
        self._watched = Watched(order.op, helper.settings, helper.database, work, self._trace)

    async def carry_out(self) -> Mapping[str, Any]:
        """Raises StepFailed and OutcomeUnknown with the same facts."""
        await self._watched.carry_out(self._talk, self._judge, "env.py")
        return self._trace.facts()

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
            "settings": self._helper.settings.of_session(work.application),
        }
        try:
            await self._helper.talk(request, work.application, self._trace, self._take)
        except ProgramMissing as error:  # cannot come after the program has spoken
            raise self._watched.nothing(f"The tool can't be started: {error}.", "Look at tool.python and tool.directory.") from error

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
        found = ready["found_schema"] or (plan.version_table_schema if self._order.op == "stamp" else None)
        if (ready["table"], found) != (plan.version_table, plan.version_table_schema or found):
            return "env.py uses another version table than when the plan was made."
        return ""

    # -------------------------------------------------------------- how it ended

    def _judge(self) -> None:
        """Raise what the end means. The exit code is not looked at."""
        trace, clean, op = self._trace, self._helper.clean, self._order.op
        end = trace.end
        if trace.objection:
            raise self._watched.nothing(trace.objection, "Ask for a new plan.")
        if end is not None and end["k"] == "refused":
            why = refusal(end, clean)
            if trace.begun:
                raise self._watched.unknown(f"The {op} was stopped in the middle. {why.message}")
            raise self._watched.nothing(why.message, why.next)
        if not trace.begun:
            why = failure(end or {}, self._helper.last_lines(trace), clean)
            told = why.message if end is None or end["k"] == "failed" else "env.py ended without running the migrations."
            raise self._watched.nothing(told, why.next)
        if end is None:
            raise self._watched.unknown(f"The tool was lost in the middle of the {op}: it ended without its last word.")
        if trace.lost:
            raise self._watched.unknown(f"The tool lost its connection in the middle of the {op}: {clean(end.get('message', ''))}.")
        if end["k"] == "failed":
            raise self._failed(end)

    def _failed(self, end: Frame) -> StepFailed:
        trace, clean, op = self._trace, self._helper.clean, self._order.op
        told = [f"{op}() of {end['revision']} failed" if end["revision"] else f"The {op} failed"]
        told[0] += f": {clean(end['message'])} ({clean(end['where'])})."
        following = "Look at the error, then retry, restore, or leave it."
        if end["sqlstate"] == LOCK_TIMEOUT:
            told = [f"{op}() of {end['revision']} {self._watched.waited()}, and gave up (lock timeout, {clean(end['where'])})."]
            following = "End that session or wait for it, then retry."
        told.append(self._watched.committed())
        error = {"message": clean(end["message"]), **{key: end[key] for key in ("type", "sqlstate", "where", "revision")}}
        error["trace"] = [clean(place) for place in end["trace"]]
        return StepFailed(" ".join([*told, following]), trace.facts() | {"error": error})
