"""The plan on a copy: restored from the very backup, moved by the application's own scripts, measured, compared, thrown away.

What can't be tried is said (`done=False`); what the copy proved wrong is a Refusal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from bot.durable import World
from bot.errors import FenceLost, OutcomeUnknown, Refusal, StepFailed
from bot.evidence import BackupFile, Locked, Loss, PutBack, Ran, Rehearsal, Snapshot
from bot.model import Plan
from bot.ports import Database, MigrationTool, Scratch
from bot.rollback import compare, hold, loss
from bot.steps.move import heads
from bot.steps.put_back import put_archive_back, says

_COPY, _BEFORE, _BUILT = "backout_copy", "backout_before", "backout_built"
_STATEMENTS = 100
_SENTENCES = 20


async def rehearse(world: World) -> Rehearsal:
    """Within the target's time budget. Raises Refusal(rehearsal_failed, empty_downgrade)."""
    within = world.target.rehearsal.within
    try:
        async with asyncio.timeout(within.total_seconds()):
            return await _tried(world)
    except TimeoutError:
        return Rehearsal(done=False, why=f"it did not end within {within.total_seconds():.0f} s (rehearsal.within)")
    except (OutcomeUnknown, FenceLost) as error:
        return Rehearsal(done=False, why=str(error))
    except StepFailed as error:
        return Rehearsal(done=False, why=error.message)
    except Refusal as refusal:
        if refusal.code != "rehearsal_impossible":
            raise
        return Rehearsal(done=False, why=f"{refusal.message} {refusal.next}")


async def _tried(world: World) -> Rehearsal:
    target, plan = world.target, world.plan
    scratches = target.rehearsal.where
    if scratches is None:
        return Rehearsal(done=False, why=target.rehearsal.why_not)
    backed_up = world.earlier["back_up"]
    file = BackupFile(**backed_up.facts["file"])
    seconds = {"back_up": backed_up.seconds or 0.0}
    now = world.clock.monotonic
    async with scratches.open(world) as scratch:
        began = now()
        await world.progress("restoring the copy")
        await scratch.create(_COPY)
        ignored = await target.backup.restore(file, scratch.superuser(_COPY), scratch.version, world)
        cut = await scratch.cut_off(_COPY)
        await scratch.clone(_COPY, _BEFORE)
        seconds["restore"] = round(now() - began, 1)
        copy = _Copy(world, scratch, *scratch.at(_COPY))
        before = await copy.database.snapshot(count=False)
        began = now()
        facts = await copy.move()
        seconds["move"] = round(now() - began, 1)
        after = await copy.database.snapshot(count=False)
        await world.progress("comparing every row with the copy as it was")
        losses = plan.data(await copy.database.lost_since(scratch.superuser(_BEFORE), world.progress))
        attributed = loss.attributed(losses, plan.foreseen, [each.revision for each in plan.undone])
        expected, findings = await copy.expected(before, after)
        put_back = await copy.put_back()
        began = now()
        forward, forward_says = await copy.forward(before)
        if plan.strategy == "downgrade":
            seconds["back again"] = round(now() - began, 1)
        production = await target.database.snapshot(count=False)
    return _evidence(
        facts, done=True, server=scratch.says, partial=(*scratch.partial, *_said(ignored), *cut), size=file.size, seconds=seconds,
        loss=attributed, expected=expected, findings=findings, forward=forward, forward_says=forward_says, put_back=put_back, backup=file,
        locks=await _sizes(target.database, facts, attributed), concerns=hold.concerns(production.objects, attributed),
    )  # fmt: skip


class _Copy:
    """The copy, and what is done to it."""

    def __init__(self, world: World, scratch: Scratch, database: Database, tool: MigrationTool) -> None:
        self._world, self._scratch, self._plan = world, scratch, world.plan
        self.database, self._tool = database, tool

    async def move(self) -> Mapping[str, Any]:
        """The plan's exact move. Raises Refusal(rehearsal_failed)."""
        plan, forward = self._plan, self._plan.strategy == "reapply"
        await self._world.progress(f"{'upgrade' if forward else 'downgrade'} of the copy")
        try:
            if forward:
                facts = await self._up(self._tool, plan)
            else:
                facts = await self._tool.downgrade(plan.to, self._world)
        except OutcomeUnknown as error:
            raise _failed(plan, error.message) from error
        except StepFailed as error:
            raise _failed(plan, error.message) from error
        stands = await self.database.heads(plan.version_table, plan.version_table_schema)
        if stands != heads(plan.to):
            raise _failed(plan, f"the tool reported success, but the copy stands at {', '.join(stands) or 'base'}, not at {plan.to}.")
        return facts

    async def _up(self, tool: MigrationTool, plan: Plan) -> Mapping[str, Any]:
        scripts = {each.revision: each.sha256 for each in plan.undone}
        lower, upper = (plan.from_, plan.to) if plan.strategy == "reapply" else (plan.to, plan.from_)
        return await tool.upgrade(upper, self._world, from_=heads(lower), scripts=scripts)

    async def expected(self, before: Snapshot, after: Snapshot) -> tuple[str, tuple[str, ...]]:
        """The move's change against the change between two databases built from nothing (databases.md F17). Raises Refusal(empty_downgrade)."""
        plan = self._plan
        actual = self._change(before, after)
        lower, upper = (plan.to, plan.from_) if plan.strategy == "downgrade" else (plan.from_, plan.to)
        try:
            below, above = await self._built(lower, upper)
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

    async def _built(self, lower: str, upper: str) -> tuple[Snapshot, Snapshot]:
        """A database that is built from nothing, as it is at the one revision and then at the other."""
        await self._scratch.create(_BUILT)
        try:
            database, tool = self._scratch.at(_BUILT)
            seen, stands = [], "base"
            for revision in (lower, upper):
                await self._world.progress(f"building {revision} from nothing")
                if revision != "base":
                    await tool.upgrade(revision, self._world, from_=heads(stands), scripts=None)
                stands = revision
                seen.append(await database.snapshot(count=False))
            return seen[0], seen[1]
        finally:
            await self._scratch.drop(_BUILT)

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
            await self._up(self._tool, self._plan)
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


async def _sizes(database: Database, facts: Mapping[str, Any], losses: tuple[Loss, ...]) -> tuple[Locked, ...]:
    """The tables that are locked, with how big they are in production."""
    found = [Locked(table=one["table"], mode=one["mode"], held=one.get("held")) for one in facts.get("locks", ())]
    sizes = await database.sizes([one.table for one in found])
    return tuple(one.model_copy(update={"bytes": sizes[one.table][0], "rows": sizes[one.table][1]} if one.table in sizes else {}) for one in found)
