"""Plans for a server that has no room for two databases: the database is dropped, and the copy restored into its place. Asked for in words alone.

Nothing stands between a bad copy and a lost database but the trial in this run, and nothing is the way back but the restore point in the store: where
one of the two can't be had, it is refused.
"""

from __future__ import annotations

from bot.durable import TargetParts
from bot.errors import Refusal
from bot.evidence import BackupFile, LossClass, Rehearsal
from bot.model import Plan, PlanStep, Run
from bot.ports import Journal
from bot.rollback import pace, plan_copies, route
from bot.steps.csv_beside import is_csv
from bot.steps.publish import again, published
from bot.steps.restore_point import is_clone
from bot.strategy import UNREAD


async def restore(target: TargetParts, rev: str, journal: Journal, command: str) -> Plan:
    """BACKUP by its name or its beginning. Raises Refusal (in_place_writers, in_place_untried, in_place_consumers, and what `restore` raises)."""
    file, kept = await plan_copies.chosen(target, rev, journal, command)
    _refuse_source(target, file, command)
    if not target.platform.stops:
        raise Refusal(
            "in_place_writers", f"Nobody who writes to {target.name} is stopped (platform: none), so what they write would be in no dump, and lost.",
            f"Name under targets.{target.name}.platform what stops them, or restore beside it: {command} restore {file.name}.",
        )  # fmt: skip
    if target.rehearsal.where is None:
        raise untried(target.name, target.rehearsal.why_not)
    await target.database.examine()
    notes = await _may(target)
    history, remark = await plan_copies.history_of(target)
    from_ = plan_copies.current(history) if history else UNREAD
    to = kept.revision or UNREAD
    moved = plan_copies.between(history, from_, to) if history else ()
    identity = await target.database.identity()
    await target.backup.ready(identity.version)
    app = await pace.application(target, "in_place", journal)
    back = pace.back(target, app, code=bool(history and history.code_follows))
    params: dict[str, dict[str, object]] = {"restore_point": {"method": "dump"}, "roll_back_application": {"former": app}}
    names = ("check_preconditions", "stop_writers", "restore_point", "replace", "verify")
    publishing, said = await published(target)
    steps = (*plan_copies.steps_of(names, **params), *publishing, *plan_copies.steps_of(back, **params))
    when = f" of {kept.made:%Y-%m-%d %H:%M} UTC" if kept.made else ""
    return Plan.model_validate({
        "target": target.name, "strategy": "in_place", "from_": from_, "to": to, "undone": route.undone_of(moved), "identity": identity,
        "steps": steps, "rehearse": (PlanStep(name="try_copy"),), "source": file, "loss_class": LossClass.HIGH,
        "version_table": history.version_table if history else "alembic_version",
        "version_table_schema": history.version_table_schema if history else None,
        "version_query": history.version_query if history else None, "verify": tuple(one.name for one in target.verify), "one_transaction": True,
        "expected_seconds": await pace.expected(target.name, steps, [one.revision for one in moved], journal),
        "remarks": (*_said(target, f"{file.name}{when}"), *remark, *notes, *said, *pace.remarks(target)),
    })  # fmt: skip


def untried(target: str, why: str) -> Refusal:
    return Refusal(
        "in_place_untried", f"{target} would be dropped for a copy that nobody has seen restored: {why.rstrip('.') or 'it was not tried'}.",
        "See to it that it can be tried (rehearsal in backout.yml), or restore it beside the database, which keeps what is there.",
    )  # fmt: skip


async def instead(target: TargetParts, run: Run, by: str) -> Plan:
    """Back to the dump of the restore point, into the place of whatever this run left there. Raises Refusal(no_restore_point)."""
    plan, file = run.plan, plan_copies.way_back(run)
    if plan is None or file is None:
        raise Refusal("no_restore_point", "This run has dropped nothing, so there is nothing to go back to.", "Retry, or leave it as it is.")
    if not await target.backup.usable(file):
        raise Refusal("no_restore_point", f"{file.name} is gone, or is not what it was when it was made.", "Retry, or leave it and restore by hand.")
    there = await target.database.replacing.stands() is not None
    now = (
        f"What is called {target.name} now is dropped first"
        if there
        else f"There is no database {target.name} now, and who rejects this leaves it so"
    )
    names = ("stop_writers", "replace", "verify")
    return plan.model_copy(update={
        "from_": await plan_copies.standing(target, plan) or UNREAD, "to": plan.from_, "undone": (), "rehearse": (),
        "steps": (*plan_copies.steps_of(names), *again(plan), PlanStep(name="start_writers")),
        "foreseen": (), "loss": (), "source": file, "archive": None,
        "rehearsal": Rehearsal(done=True, server=f"the restore point itself, {file.name}"), "options": (), "loss_class": LossClass.HIGH,
        "remarks": (f"{now}.", f"<@{by}> chose to go back to the restore point: nobody wrote since. It is restored into the database's place.",),
    })  # fmt: skip


def _refuse_source(target: TargetParts, file: BackupFile, command: str) -> None:
    if is_csv(file):
        way = f"Bring them back with {command} tables TABLE from {file.name}."
        raise Refusal("foreign_backup", f"{file.name} has the rows of one table, and no database.", way)
    if is_clone(file):
        raise Refusal(
            "in_place_untried", f"{file.name} is a database beside {target.name}, so there is room for both, and nothing has to be dropped for it.",
            f"Put it in the place: {command} restore {file.name}.",
        )  # fmt: skip


async def _may(target: TargetParts) -> list[str]:
    """What will be different, in sentences. Raises Refusal."""
    notes = []
    for refusal in (*await target.platform.ready(), *await target.runner.ready()):
        if not refusal.warning:
            raise refusal
    for refusal in await target.database.replacing.in_the_way():
        if not refusal.warning:
            raise refusal
        notes.append(f"{refusal.message} {refusal.next}")
    if why := await target.database.may_dump():
        raise Refusal("no_restore_point", f"There would be no way back: no dump of {target.name} can be made. {why}", "Do that, then ask again.")
    return notes


def _said(target: TargetParts, what: str) -> tuple[str, ...]:
    """The decision first."""
    name, point = target.name, target.backup.where(f"{target.name}-RUN.dump")
    return (
        f"{name} is DROPPED before {what} is restored into its place: until that is done there is no database {name}.",
        f"The only way back is the dump that is taken after the writers stopped and before the drop: {point}.",
    )
