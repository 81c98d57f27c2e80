"""What is done at its time, unasked: a backup, and a drill, which restores the newest one elsewhere and takes it down by one revision.

A drill is a rehearsal for which nobody asks: production is read and nothing else. The channel hears of it when it fails, and once when it is well
again. It gives way to a run of its target.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, NoReturn

from bot.durable import TargetParts, World
from bot.errors import BackoutError, JournalDown, Refusal, StepFailed
from bot.evidence import BackupFile, Duty, Rehearsal, size
from bot.model import OPEN, Attempt, AttemptState, Plan
from bot.ports import Chat, Clock, Journal
from bot.rollback import plan as planning
from bot.rollback import sample
from bot.rollback.rehearse import rehearse
from bot.words import span

log = logging.getLogger(__name__)

Kind = Literal["backup", "drill"]
_LOOK = 1.0  # seconds between two looks whether a run of the target began
_NOBODY = "scheduled"  #: in place of a run, where a backup belongs to none


class Duties:
    """`due` is called often, and does whatever has come due since; a time that passed while nobody lived is made up once."""

    def __init__(self, targets: Mapping[str, TargetParts], journal: Journal, chat: Chat, clock: Clock, command: str) -> None:
        self._targets, self._journal, self._chat, self._clock, self._command = targets, journal, chat, clock, command
        self._since = clock.now()

    async def due(self) -> None:
        for target in self._targets.values():
            last = {one.kind: one for one in await self._journal.duties(target.name)}
            works: dict[Kind, Callable[[TargetParts], Awaitable[str]]] = {"backup": self._back_up, "drill": self._drill}
            for kind, work in works.items():
                before = last.get(kind)
                if kind in target.schedules and target.schedules[kind](before.at if before else self._since) <= self._clock.now():
                    await self._do(target, kind, work, before)
                elif before is not None and not before.told:
                    await self._tell(target, before)

    async def _do(self, target: TargetParts, kind: Kind, work: Callable[[TargetParts], Awaitable[str]], before: Duty | None) -> None:
        if await self._journal.find(target=target.name, states=sorted(OPEN), limit=1):
            return  # its time comes again as soon as the run has ended
        at, ok = self._clock.now(), True
        try:
            says = await self._unless_needed(target, work(target))
        except JournalDown:
            raise
        except _GaveWay:
            return
        except Refusal as refusal:
            ok, says = False, f"{refusal.message} {refusal.next}"
        except BackoutError as error:
            ok, says = False, str(error)
        news = not ok or (before is not None and not before.ok)
        done = Duty(kind=kind, at=at, ok=ok, says=says, told=not news)
        await self._journal.note_duty(target.name, done)
        if news:
            await self._tell(target, done)

    async def _unless_needed(self, target: TargetParts, work: Awaitable[str]) -> str:
        """A run of the target must not wait for it: it may need the same server for its copy. Raises _GaveWay."""
        doing = asyncio.ensure_future(work)
        try:
            while not doing.done():
                await asyncio.wait({doing}, timeout=_LOOK)
                if not doing.done() and await self._journal.find(target=target.name, states=sorted(OPEN), limit=1):
                    raise _GaveWay
            return doing.result()
        finally:
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)

    async def _tell(self, target: TargetParts, duty: Duty) -> None:
        what = "scheduled backup" if duty.kind == "backup" else "drill"
        text = f"The {what} of {target.name} is well again: {duty.says}" if duty.ok else f"The {what} of {target.name} FAILED. {duty.says}"
        follows = "" if duty.ok else f" A rollback may fail the same way: look at it with {self._command} check {target.name}."
        told = [await self._chat.announce(channel, text + follows) for channel in target.channels[:1]]
        log.log(logging.INFO if duty.ok else logging.ERROR, "%s", text)
        if all(told):
            await self._journal.note_duty(target.name, duty.model_copy(update={"told": True}))

    # ------------------------------------------------------------------ the two

    async def _back_up(self, target: TargetParts) -> str:
        """Raises Refusal, StepFailed, OutcomeUnknown."""
        work = await self._work(target, await _reading(target))
        for why in await target.database.objections(None):
            raise StepFailed(f"No backup was made: {why} It is tried again at its next time.")
        file = await target.backup.take(f"{target.name}-{self._clock.now():%Y%m%d-%H%M%S}.dump", work)
        await self._journal.keep_backup(target.name, _NOBODY, work.plan.from_, file, self._clock.now() + target.keep)
        return f"{file.name}, {size(file.size)}, read back to the last byte"

    async def _drill(self, target: TargetParts) -> str:
        """Raises Refusal, StepFailed, OutcomeUnknown."""
        plan = await planning.make(target, "-1", self._journal, command=self._command)
        if plan.rehearsal is not None and not plan.rehearse:
            raise StepFailed(f"It can't be tried on a copy: {plan.rehearsal.why}")
        work = await self._work(target, plan)
        if sample.wanted(work):
            return _told(await rehearse(work), "Sampled rows, since it is too large to be restored whole.")
        newest = next((one for one in await self._journal.backups(target.name) if one["file"].format == "custom" and not one["file"].theirs), None)
        if newest is None:
            raise StepFailed("There is no backup to restore. Write backups.schedule, or make one with a run.")
        file: BackupFile = newest["file"]
        if newest["revision"] != plan.from_:
            raise StepFailed(
                f"The newest backup, {file.name}, is of {newest['revision']}, and the database stands at {plan.from_}. "
                "Make one after each deploy, or let backups.schedule come before drill.schedule."
            )
        now = self._clock.now()
        facts = {"file": file.model_dump(mode="json")}
        taken = Attempt(step="back_up", attempt=1, state=AttemptState.DONE, executor=_NOBODY, began=now, ended=now, facts=facts)
        work.earlier = {"back_up": taken}
        return _told(await rehearse(work), f"{file.name} was restored.")

    async def _work(self, target: TargetParts, plan: Plan) -> World:
        name = "d" + secrets.token_hex(3)
        return _Unasked(
            target=target, plan=plan, run=name, step="rehearse", attempt=1, earlier={}, former=(), journal=self._journal, clock=self._clock,
            web=_NONE, replan=_never, verification=_never, health=_never, health_now=_never, counted_again=_never, rehearsal=_never,
            copy_tried=_never, instant_tried=_never, address=_never, tables_tried=_never, stamp_tried=_never, changed=_never, rehearsing=True,
        )  # fmt: skip


class _GaveWay(Exception):
    """A run of the target began."""


class _Unasked(World):
    """Work that no run stands for: nothing of it is remembered."""

    async def may_begin(self) -> bool:
        return True

    async def ending(self) -> bool:
        return False

    async def remember(self, **facts: Any) -> None: ...

    async def progress(self, text: str) -> None: ...


async def _never(*_: Any) -> NoReturn:
    raise AssertionError("a drill is a rehearsal, and nothing else")


_NONE: Any = None


async def _reading(target: TargetParts) -> Plan:
    """Where the database stands, as far as a backup has to know it."""
    await target.database.examine()
    history = await target.tool.read()
    identity = await target.database.identity()
    await target.backup.ready(identity.version)
    stands = ", ".join(history.current) or "base"
    return Plan(
        target=target.name, from_=stands, to=stands, undone=(), steps=(), identity=identity, version_table=history.version_table,
        version_table_schema=history.version_table_schema, version_query=history.version_query,
    )  # fmt: skip


def _told(found: Rehearsal, how: str) -> str:
    """Raises StepFailed where the copy showed what a card would warn of."""
    if not found.done:
        raise StepFailed(f"It could not be tried on a copy: {found.why}")
    if found.expected == "differs":
        raise StepFailed(f"On the copy the downgrade did another thing than its scripts say: {'; '.join(found.findings[:3])}")
    restored = f" in {span(found.seconds['restore'])}" if "restore" in found.seconds else ""
    return f"{how.rstrip('.')}{restored}, and the newest migration was taken back there in {span(found.seconds.get('move', 0.0))}."
