"""The plan on a copy: restored from the very backup, moved by the application's own scripts, measured, compared, thrown away.

What can't be tried is said (`done=False`); what the copy proved wrong is a Refusal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bot.durable import World
from bot.errors import FenceLost, OutcomeUnknown, Refusal, StepFailed
from bot.evidence import BackupFile, Locked, Loss, PutBack, Ran, Rehearsal, Snapshot
from bot.finishing import both
from bot.model import Plan
from bot.ports import Database, Scratch
from bot.rollback import compare, hold, loss, sample
from bot.rollback.ahead import Ahead, Built, opened
from bot.running import MigrationTool
from bot.steps.move import heads
from bot.steps.put_back import put_archive_back, says

_COPY, _BEFORE = "backout_copy", "backout_before"
_STATEMENTS = 100
_DENIED = "42501"  # insufficient_privilege
_SENTENCES = 20


@dataclass
class _Measured:
    """How far it came, also when it was refused in the middle."""

    server: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    #: the tool's, of the move
    facts: Mapping[str, Any] = field(default_factory=dict)


async def rehearse(world: World, ahead: Ahead | None = None) -> Rehearsal:
    """Within the target's time budget. Raises Refusal(rehearsal_failed, empty_downgrade), whose facts are what was measured until then."""
    within = world.target.rehearsal.within
    measured = _Measured()
    try:
        async with asyncio.timeout(within.total_seconds()):
            return await _tried(world, measured, ahead)
    except TimeoutError:
        return Rehearsal(done=False, why=f"it did not end within {within.total_seconds():.0f} s (rehearsal.within)")
    except (OutcomeUnknown, FenceLost) as error:
        return Rehearsal(done=False, why=str(error))
    except StepFailed as error:
        return Rehearsal(done=False, why=error.message)
    except Refusal as refusal:
        if refusal.code != "rehearsal_impossible":
            so_far = _evidence(
                measured.facts, done=False, why=refusal.message, server=measured.server, seconds=measured.seconds, locks=_locked(measured.facts)
            )
            refusal.facts = {"rehearsal": so_far.model_dump(mode="json")}
            raise
        return Rehearsal(done=False, why=f"{refusal.message} {refusal.next}")


async def _tried(world: World, measured: _Measured, ahead: Ahead | None) -> Rehearsal:
    target, plan, seconds = world.target, world.plan, measured.seconds
    scratches = target.rehearsal.where
    if scratches is None:
        return Rehearsal(done=False, why=target.rehearsal.why_not)
    now, sampled = world.clock.monotonic, sample.wanted(world)
    async with opened(world, scratches, ahead, sampled=sampled) as (scratch, built):
        measured.server = scratch.says
        copy = _Copy(world, scratch, *scratch.at(_COPY))
        filled = await _filled(world, scratch, copy.tool, seconds, sampled=sampled)
        before = await copy.database.snapshot(count=False)
        began = now()
        try:
            facts = measured.facts = await copy.move(measured)
        finally:
            seconds["move"] = round(now() - began, 1)
        after = await copy.database.snapshot(count=False)
        await copy.tool.prepare()
        losses, (expected, findings) = await both(copy.losses(before, sampled=sampled), copy.expected(before, after, built))
        attributed = loss.attributed(losses, plan.foreseen, [each.revision for each in plan.undone])
        put_back = await copy.put_back() if not sampled else ()
        began = now()
        forward, forward_says = await copy.forward(before)
        if plan.strategy == "downgrade":
            seconds["back again"] = round(now() - began, 1)
        production = await target.database.snapshot(count=False)
    return _evidence(
        facts, done=True, server=scratch.says, partial=filled.told(scratch), size=filled.file.size if filled.file else None, seconds=seconds,
        loss=attributed, expected=expected, findings=findings, forward=forward, forward_says=forward_says, put_back=put_back, backup=filled.file,
        sampled=filled.sampled,
        locks=await _sizes(target.database, facts), concerns=hold.concerns(production.objects, attributed),
    )  # fmt: skip


@dataclass(frozen=True)
class _Filled:
    """What is in the copy. `sampled` rows, or None: the whole of `file`."""

    said: tuple[str, ...]
    cut: tuple[str, ...]
    file: BackupFile | None = None
    sampled: int | None = None

    def told(self, scratch: Scratch) -> tuple[str, ...]:
        """What makes it less than a proof, a sample before all."""
        said = (*scratch.partial, *self.said) if self.sampled is None else (*self.said, *scratch.partial)
        return (*said, *self.cut)


async def _filled(world: World, scratch: Scratch, tool: MigrationTool, seconds: dict[str, float], *, sampled: bool) -> _Filled:
    """The copy, cut off, and its clone as it was before. Raises StepFailed, Refusal, OutcomeUnknown."""
    now = world.clock.monotonic
    began, file, rows = now(), None, None
    await world.progress("restoring the copy")
    await scratch.create(_COPY)
    if sampled:
        rows, said = await sample.fill(world, scratch, _COPY)
        if world.plan.archive:
            said += ("putting the archive back was not tried: its rows need not be among the sampled ones",)
    else:
        backed_up = world.earlier["back_up"]
        seconds["back_up"], file = backed_up.seconds or 0.0, BackupFile(**backed_up.facts["file"])
        said = _said(await world.target.backup.restore(file, scratch.superuser(_COPY), scratch.version, world, owners=scratch.owners))
        await world.journal.prove_backup(world.target.name, file.name)
    await tool.prepare()
    cut = await scratch.cut_off(_COPY)
    await scratch.clone(_COPY, _BEFORE)
    seconds["restore"] = round(now() - began, 1)
    return _Filled(said, cut, file, rows)


class _Copy:
    """The copy, and what is done to it."""

    def __init__(self, world: World, scratch: Scratch, database: Database, tool: MigrationTool) -> None:
        self._world, self._scratch, self._plan = world, scratch, world.plan
        self.database, self.tool = database, tool

    async def move(self, measured: _Measured) -> Mapping[str, Any]:
        """The plan's exact move. Raises Refusal(rehearsal_failed)."""
        plan, forward = self._plan, self._plan.strategy == "reapply"
        await self._world.progress(f"{'upgrade' if forward else 'downgrade'} of the copy")
        try:
            if forward:
                facts = await self._up(self.tool, plan)
            else:
                facts = await self.tool.downgrade(plan.to, self._world)
        except StepFailed as error:  # also when nobody can say: a copy has no other end
            measured.facts = error.facts
            if not self._scratch.owners and error.facts.get("error", {}).get("sqlstate") == _DENIED:
                raise Refusal(
                    "rehearsal_impossible",
                    f"Not rehearsed: it needs more than a role has that may do nothing but in the copy. {error.message}",
                    "Set rehearsal.server to throwaway or to another server.",
                ) from error
            raise _failed(plan, error.message) from error
        stands = await self.database.heads(*plan.version)
        if stands != heads(plan.to):
            raise _failed(plan, f"the tool reported success, but the copy stands at {', '.join(stands) or 'base'}, not at {plan.to}.")
        return facts

    async def _up(self, tool: MigrationTool, plan: Plan) -> Mapping[str, Any]:
        scripts = {each.revision: each.sha256 for each in plan.undone}
        lower, upper = (plan.from_, plan.to) if plan.strategy == "reapply" else (plan.to, plan.from_)
        return await tool.upgrade(upper, self._world, from_=heads(lower), scripts=scripts)

    async def losses(self, before: Snapshot, *, sampled: bool) -> tuple[Loss, ...]:
        """What the move destroyed, by every row of the copy as it was."""
        await self._world.progress("comparing every row with the copy as it was")
        before_it, counted = self._scratch.superuser(_BEFORE), self._scratch.counted
        losses = self._plan.data(await self.database.lost_since(before_it, self._world.progress, sampled=sampled, counted=counted))
        return await sample.counted(self._world, losses, before.objects) if sampled else losses

    async def expected(self, before: Snapshot, after: Snapshot, built: Built) -> tuple[str, tuple[str, ...]]:
        """The move's change against the change between two databases built from nothing (databases.md F17). Raises Refusal(empty_downgrade)."""
        plan = self._plan
        actual = self._change(before, after)
        try:
            below, above = await built()
        except (StepFailed, Refusal) as error:
            return "unverifiable", (f"The history can't be built from nothing, so the schema can't be compared with it: {error}"[:400],)
        wanted = self._change(above, below) if plan.strategy == "downgrade" else self._change(below, above)
        findings = (*compare.findings(wanted, actual), *compare.along(wanted, actual))
        if compare.did_nothing(actual) and not compare.did_nothing(wanted) and plan.strategy == "downgrade":
            raise Refusal(
                "empty_downgrade",
                f"On a copy the downgrade reported success, and yet {'; '.join(findings[:3])}.",
                "Restore from before the migration, or fix forward. Or write the downgrade, then ask again.",
            )
        return ("differs" if compare.findings(wanted, actual) else "same"), findings[:_SENTENCES]

    def _change(self, before: Snapshot, after: Snapshot) -> compare.Change:
        return compare.change(before, after, leave_out=self._plan.versions)

    async def put_back(self) -> tuple[str, ...]:
        """A reapply brings its archive back; on the copy first."""
        if self._plan.strategy != "reapply":
            return ()
        await self._world.progress("putting the archive back on the copy")
        done: list[PutBack] = await put_archive_back(self._world.on(self.database))
        return tuple(says(one) for one in done)

    async def forward(self, before: Snapshot) -> tuple[str, str]:
        """After a downgrade: does the way forward work, and does it lead to where it was?"""
        if self._plan.strategy == "reapply":
            return "not tried", ""
        await self._world.progress("up again on the copy")
        try:
            await self._up(self.tool, self._plan)
        except (StepFailed, Refusal) as error:
            return "fails", f"Up again fails: {error}"[:400]
        differs = compare.back_again(before, await self.database.snapshot(count=False), leave_out=self._plan.versions)
        return ("differs", "Up again leads elsewhere: " + "; ".join(differs[:5])) if differs else ("works", "")


def _failed(plan: Plan, why: str) -> Refusal:
    return Refusal(
        "rehearsal_failed",
        f"On a copy, {'going forward' if plan.strategy == 'reapply' else 'the downgrade'} from {plan.from_} to {plan.to} does not work: {why}",
        "Mend the script, or take another way: restore from before the migration, or fix forward. Production was not touched.",
    )


def _evidence(facts: Mapping[str, Any], **known: Any) -> Rehearsal:
    statements = tuple(Ran(**{key: one.get(key) for key in Ran.model_fields}) for one in facts.get("statements", ())[:_STATEMENTS])
    return Rehearsal(
        statements=statements,
        statements_total=facts.get("statements_total", 0),
        statements_sha256=facts.get("statements_sha256", ""),
        one_transaction=bool(facts.get("one_transaction")) and facts.get("transactions", 0) <= 1 and facts.get("connections", 1) <= 1,
        **known,
    )


def _said(ignored: tuple[str, ...]) -> tuple[str, ...]:
    """pg_restore is judged by its error list (databases.md F18)."""
    return tuple(f"restoring the copy left something out: {one}"[:300] for one in ignored[:_SENTENCES])


async def _sizes(database: Database, facts: Mapping[str, Any]) -> tuple[Locked, ...]:
    """The tables that are locked, with how big they are in production."""
    found = _locked(facts)
    sizes = await database.sizes([one.table for one in found])
    return tuple(one.model_copy(update={"bytes": sizes[one.table][0], "rows": sizes[one.table][1]} if one.table in sizes else {}) for one in found)


def _locked(facts: Mapping[str, Any]) -> tuple[Locked, ...]:
    """TimescaleDB's own tables are nobody's, and a chunk is named only where nothing else is locked like it."""
    every = [Locked(table=one["table"], mode=one["mode"], held=one.get("held")) for one in facts.get("locks", ())]
    known = {one.mode for one in every if not one.table.startswith("_timescaledb_")}
    return tuple(
        one for one in every if not one.table.startswith("_timescaledb_") or ("_internal." in one.table and one.mode not in known)
    )  # fmt: skip
