"""Live revision + wanted revision + what would be lost -> a frozen plan, or the refusal that stands in the way. Changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass

from bot.durable import TargetParts
from bot.errors import ProgramFailed, Refusal, StepFailed
from bot.evidence import Loss, LossClass, Rehearsal
from bot.model import History, Plan, PlanStep, Revision
from bot.place import Identity
from bot.ports import Journal
from bot.rollback import loss, options, pace, plan_at_provider, plan_copies, plan_in_place, plan_stamp, plan_tables, route, sample
from bot.strategy import Strategy
from bot.words import many

REHEARSE = ("back_up", "rehearse")
_SEVERAL = "It is not sure to be one transaction: if the run is interrupted in the middle of it, a person decides."


async def make(target: TargetParts, rev: str, journal: Journal, *, strategy: Strategy = "downgrade", command: str = "/rollback") -> Plan:
    """Everything that can be known before the rehearsal. `rev` is what was asked for: a revision, a backup, an instant, tables.

    Raises Refusal, also planning_failed for what the server or a program said no to.
    """
    try:
        return await _MAKERS[strategy](target, rev, journal, command)
    except (StepFailed, ProgramFailed) as error:
        raise Refusal(
            "planning_failed", f"The plan could not be made. {error}".rstrip(".") + ".", "Mend what the message names, then ask again."
        ) from error


async def _downgrade(target: TargetParts, rev: str, journal: Journal, command: str) -> Plan:
    seen = await _looked(target)
    from_, to, undone = route.route(rev, seen.history, command=command)
    losses = loss.read_loss(undone)
    await _queries_run(target, losses)
    return await _plan(
        target, seen, journal, undone, strategy="downgrade", from_=from_, to=to, foreseen=losses, loss=losses,
        loss_class=loss.loss_class(losses), one_transaction=_one_transaction(seen.history, undone),
    )  # fmt: skip


async def _reapply(target: TargetParts, rev: str, journal: Journal, command: str) -> Plan:
    seen = await _looked(target)
    from_, to, applied = route.forward(rev, seen.history, command=command)
    await _queries_run(target, ())
    known = [kept for kept, _ in await journal.archives(target.name) if kept.lower == from_ and kept.upper in {each.revision for each in applied}]
    plan = await _plan(
        target, seen, journal, applied, strategy="reapply", from_=from_, to=to,
        archive=known[0].run if known else None,
    )  # fmt: skip
    if not known:
        plan = plan.model_copy(update={"remarks": (*plan.remarks, f"There is no archive of what was lost when {target.name} went back to {from_}.")})
    return plan


@dataclass(frozen=True)
class _Seen:
    """What target and server say, whatever the way. `remarks` are the server's own; `rehearse` is empty where no copy may be made, with `why_not`."""

    history: History
    identity: Identity
    method: str
    rehearse: tuple[PlanStep, ...]
    why_not: str
    remarks: tuple[str, ...]


async def _looked(target: TargetParts) -> _Seen:
    """The tool takes the longest to say where it stands, so everything else is asked meanwhile; what stands in the way is said first."""
    reading = asyncio.ensure_future(target.tool.read())
    try:
        await target.database.examine()
        for refusal in (*await target.platform.ready(), *await target.runner.ready()):
            if not refusal.warning:
                raise refusal
        identity = await target.database.identity()
        await target.backup.ready(identity.version)
        method = await _method(target)
        rehearse, why_not = await _rehearsed(target)
        remarks = await target.database.remarks()
        return _Seen(await reading, identity, method, rehearse, why_not, remarks)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _method(target: TargetParts) -> str:
    """How the restore point is made. Raises Refusal(no_restore_point)."""
    if target.platform.stops and not await target.database.may_clone():
        return "clone"
    if why := await target.database.may_dump():
        raise Refusal(
            "no_restore_point", f"There would be no restore point: no clone can be made, and no dump. {why}",
            "Do that, or let the platform stop the writers, so that a clone can be made.",
        )  # fmt: skip
    return "dump"


async def _plan(target: TargetParts, seen: _Seen, journal: Journal, moved: tuple[Revision, ...], **known: object) -> Plan:
    history = seen.history
    former = await pace.application(target, str(known["strategy"]), journal)
    steps = _steps(target, str(known["strategy"]), seen.method, former, code=history.code_follows and known["strategy"] == "downgrade")
    return Plan.model_validate({
        "target": target.name,
        "identity": seen.identity,
        "undone": route.undone_of(moved),
        "steps": steps,
        "rehearse": seen.rehearse,
        "rehearsal": None if seen.rehearse else Rehearsal(done=False, why=seen.why_not),
        "version_table": history.version_table,
        "version_table_schema": history.version_table_schema,
        "version_query": history.version_query,
        "verify": tuple(one.name for one in target.verify),
        "expected_seconds": await pace.expected(target.name, steps, [one.revision for one in moved], journal),
        "remarks": (*history.remarks, *_remarks(target, seen.method), *seen.remarks),
        **known,
    })  # fmt: skip


def _steps(target: TargetParts, strategy: str, method: str, former: Mapping[str, object], *, code: bool) -> tuple[PlanStep, ...]:
    there = ["archive", "downgrade", *(["reconcile"] if method == "clone" else [])] if strategy == "downgrade" else ["upgrade", "put_back"]
    stops = ["stop_writers"] if target.platform.stops else []
    names = ["check_preconditions", *stops, "restore_point", *there, "verify", *pace.back(target, former, code=code)]
    params: dict[str, dict[str, object]] = {"restore_point": {"method": method}, "roll_back_application": {"former": former}}
    return tuple(PlanStep(name=name, params=params.get(name, {})) for name in names)


async def _rehearsed(target: TargetParts) -> tuple[tuple[PlanStep, ...], str]:
    """The steps of the rehearsal: with a sample where only the size is in the way; none when no copy may be made now, and why not."""
    if target.rehearsal.where is None:
        return (), target.rehearsal.why_not
    if not await target.database.objections(target.rehearsal.max_size):
        return tuple(PlanStep(name=name) for name in REHEARSE), ""
    found = await target.database.objections(None)
    return ((), " ".join(found)) if found else ((sample.STEP,), "")


async def with_evidence(target: TargetParts, plan: Plan, rehearsal: Rehearsal, journal: Journal) -> Plan:
    """The plan that people are asked about: what the copy showed, and the other ways beside it."""
    known: dict[str, object] = {"rehearsal": rehearsal}
    if rehearsal.done:
        known |= {
            "loss": rehearsal.loss,
            "loss_class": LossClass.HIGH if plan.way.in_place else loss.loss_class(rehearsal.loss),
            "one_transaction": rehearsal.one_transaction,
            "remarks": (*plan.remarks, *(await _writes(target, plan, rehearsal))),
        }
        if not plan.way.by_tool and rehearsal.stands:
            known["to"] = rehearsal.stands
        if rehearsal.backup and (plan.point or (plan.source and plan.source.foreign)):  # it is a backup of ours from now on
            known["source"] = rehearsal.backup
    else:
        known["loss"] = loss.resolved(plan.foreseen, await target.database.names())
    made = plan.model_copy(update=known)
    if not made.one_transaction:
        made = made.model_copy(update={"remarks": (*made.remarks, _SEVERAL)})
    in_the_way = await _in_the_way(target, made)
    return made.model_copy(update={"options": await options.side_by_side(target, made, journal), "remarks": (*made.remarks, *in_the_way)})


async def _in_the_way(target: TargetParts, plan: Plan) -> list[str]:
    """Which sessions it would wait for now; none when they are all thrown out first."""
    there = () if target.platform.stops else await target.database.holders(plan.tables)
    told = [f"{one.pid} ({one.user or 'unknown'}{f', for {one.age:.0f} s' if one.age is not None else ''}): {one.query[:100]}" for one in there[:3]]
    more = f" and {len(there) - 3} more" if len(there) > 3 else ""
    return [f"It would wait now for {many(len(there), 'session')}: {'; '.join(told)}{more}."] if there else []


async def _writes(target: TargetParts, plan: Plan, rehearsal: Rehearsal) -> list[str]:
    """Writes since the migration, where the database can tell (databases.md F20)."""
    if plan.strategy != "downgrade":
        return []
    tables = list(dict.fromkeys(one.table for one in rehearsal.loss if one.table))
    found = await target.database.written_since(plan.version_table, plan.version_table_schema, tables[:10])
    by_answer: dict[str, list[str]] = {}
    for table, says in found.items():
        by_answer.setdefault(says, []).append(table)
    return [f"Written since {plan.from_} to {', '.join(tables)}: {says}." for says, tables in by_answer.items()]


async def _queries_run(target: TargetParts, losses: Iterable[Loss]) -> None:
    """A verification that can't run, or can't run after the downgrade, would turn a good rollback red at the worst moment."""
    for one in target.verify:
        try:
            await target.database.ask(one.sql)
        except StepFailed as error:
            if "timeout" in error.message:
                raise Refusal(
                    "verification_waits",
                    f"The verification {one.name!r} could not run now: {error.message} Somebody holds a lock, or it is too slow.",
                    "Look who holds the table with pg_stat_activity, then ask again.",
                ) from error
            raise Refusal(
                "verification_broken",
                f"The verification {one.name!r} does not run now: {error.message}",
                "Mend its sql in backout.yml.",
            ) from error
        if one.expected != "same":
            continue
        gone = next((each for each in losses if each.kind in ("table", "column") and _mentions(one.sql, each.name)), None)
        if gone is not None:
            raise Refusal(
                "verification_not_at_both",
                f"The verification {one.name!r} expects the same result before and after, but reads {gone.name}, which {gone.revision} takes away.",
                "Write it so that it runs at both revisions, or give it another expect.",
            )


def _mentions(sql: str, name: str) -> bool:
    word = name.rsplit(".", 1)[-1].strip('"')
    padded = "".join(c if c.isalnum() or c in "_$" else " " for c in sql).casefold()
    return word.casefold() in padded.split()


def _one_transaction(history: History, undone: tuple[Revision, ...]) -> bool:
    return (history.one_transaction or len(undone) == 1) and loss.surely_one_transaction(undone)


def _remarks(target: TargetParts, method: str) -> list[str]:
    clone = ["The restore point is a clone: nobody can connect while it is made."] if target.platform.stops and method == "clone" else []
    return [*clone, *pace.remarks(target)]


async def _restore(target: TargetParts, rev: str, journal: Journal, command: str) -> Plan:
    """A copy of ours or of others in the store takes the database's place; one of the provider's takes the server's."""
    maker = plan_at_provider.restore if await plan_at_provider.meant(target, rev, journal) else plan_copies.restore
    return await maker(target, rev, journal, command)


_MAKERS: Mapping[Strategy, Callable[[TargetParts, str, Journal, str], Awaitable[Plan]]] = {
    "downgrade": _downgrade,
    "reapply": _reapply,
    "restore": _restore,
    "at_provider": plan_at_provider.restore,
    "in_place": plan_in_place.restore,
    "pitr": plan_copies.pitr,
    "tables": plan_tables.tables,
    "stamp": plan_stamp.stamp,
}
