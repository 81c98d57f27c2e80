"""Plans that bring a whole copy back: a backup, an instant, or the restore point of a run that failed. The copy takes the database's place,
which is kept beside it under another name; nothing is destroyed before a rule or a person removes that.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from bot.durable import TargetParts
from bot.errors import Refusal
from bot.evidence import BackupFile, Listed, Rehearsal
from bot.model import History, Plan, PlanStep, Revision, Run
from bot.moment import parse_moment, told
from bot.ports import Journal
from bot.rollback import pace, route
from bot.rollback.listing import listed, of_the_provider
from bot.steps.csv_beside import is_csv
from bot.steps.publish import published
from bot.steps.replace import dropped
from bot.steps.restore_beside import INCOMING
from bot.steps.restore_point import is_clone, taken
from bot.strategy import UNREAD
from bot.words import many


async def restore(target: TargetParts, rev: str, journal: Journal, command: str) -> Plan:
    """BACKUP by its name or the beginning of one. Raises Refusal(unknown_backup, ambiguous_backup, and what stands in the way of a swap)."""
    file, kept = await chosen(target, rev, journal, command)
    if is_csv(file):
        way = f"Bring them back with {command} tables TABLE from {file.name}."
        raise Refusal("foreign_backup", f"{file.name} has the rows of one table, and no database.", way)
    when = f" of {kept.made:%Y-%m-%d %H:%M} UTC" if kept.made else ""
    return await _plan(target, journal, file, kept.revision or UNREAD, "restore", f"{kept.name}{when}")


async def pitr(target: TargetParts, rev: str, journal: Journal, command: str) -> Plan:
    """TIME is an instant with its zone. What it leads to is only known when it was recovered, which is the trial. Raises Refusal."""
    if target.pitr is None and target.provider is None:
        raise Refusal(
            "no_point_in_time", f"{target.name} has no archive to recover an instant from.",
            f"Name one under targets.{target.name}.backups.pitr, or who recovers it under backups.provider, or restore a backup: "
            f"{command} backups {target.name}.",
        )  # fmt: skip
    if target.rehearsal.where is None:
        raise Refusal(
            "no_point_in_time", f"An instant is recovered on a server beside, and {target.rehearsal.why_not}", "Allow it under rehearsal.server."
        )
    point = parse_moment(rev)
    if target.pitr is None:
        return await _by_the_provider(target, journal, point)
    covered = await target.pitr.window()
    if not covered.since <= point < covered.until:
        raise Refusal(
            "pitr_outside_window", f"What is archived reaches from {told(covered.since)} to {told(covered.until)}, and {told(point)} is not in it.",
            "Choose an instant inside, let the server archive what it has (SELECT pg_switch_wal()), or take another way back.",
        )  # fmt: skip
    plan = await _plan(target, journal, None, UNREAD, "pitr", f"what it was at {told(point)}")
    known = f"What is archived reaches from {told(covered.since)} to {told(covered.until)}."
    return plan.model_copy(update={"point": point.isoformat(), "remarks": (*plan.remarks, known)})


async def _by_the_provider(target: TargetParts, journal: Journal, point: dt.datetime) -> Plan:
    """Nothing is archived where Backout could recover it. What is in the future, is by the clock of the database. Raises Refusal."""
    provider = target.provider
    if provider is None:
        raise Refusal("no_point_in_time", f"{target.name} has no provider who could recover an instant.", "Name one under backups.provider.")
    plan = await _plan(target, journal, None, UNREAD, "pitr", f"what it was at {told(point)}")
    ((asked,),) = (await target.database.ask("SELECT pg_catalog.clock_timestamp()")).rows
    now = dt.datetime.fromisoformat(asked).replace(microsecond=0)
    if point >= now:
        raise Refusal("pitr_in_the_future", f"{told(point)} is in the future; it is {told(now)}.", "Choose an instant that is over.")
    hours = provider.within.total_seconds() / 3600
    said = f"{provider.kind} recovers it, as a person asks them to. Backout waits up to {hours:g} h for the address, and looks before it asks."
    step = PlanStep(name="recover", params={"provider": provider.kind})
    return plan.model_copy(update={"point": point.isoformat(), "rehearse": (step,), "remarks": (*plan.remarks, said)})


async def instead(target: TargetParts, run: Run, by: str) -> Plan:
    """Back to the restore point of a run whose step failed, while its writers are still stopped. Raises Refusal(no_restore_point)."""
    file = way_back(run)
    if run.plan is None or file is None:
        raise Refusal("no_restore_point", "This run has no restore point to go back to.", "Restore a backup with a run of its own.")
    if is_clone(file):
        for refusal in await target.database.may_swap(file):
            if not refusal.warning:
                raise refusal
    else:
        await may_make_beside(target)
    stopped = target.platform.stops
    said = "nobody wrote since" if stopped else "what was written since goes with the old database"
    names = [*([] if is_clone(file) else ["restore_beside"]), *(["stop_writers"] if stopped else []), "swap", "verify"]
    publishing, _ = await published(target)
    return run.plan.model_copy(update={
        "strategy": "restore", "from_": await standing(target, run.plan) or UNREAD,
        "to": run.plan.from_, "undone": (), "rehearse": (), "steps": (*steps_of(names), *publishing, *steps_of(["start_writers"])),
        "foreseen": (), "loss": (), "source": file, "archive": None,
        "rehearsal": Rehearsal(done=True, server=f"the restore point itself, {file.name}"), "options": (), "loss_class": "none",
        "remarks": (f"<@{by}> chose to go back to the restore point: {said}. The database as it is now is kept beside it.",),
    })  # fmt: skip


def way_back(run: Run) -> BackupFile | None:
    """The newest copy of how the database was: what a swap kept, else the restore point. None when it is in its place already, or the run ends."""
    if run.ending is not None:
        return None
    swapped = run.last_attempt("swap")
    if swapped is not None:
        return BackupFile(**swapped.facts["kept"]) if swapped.state == "done" else None
    replaced = run.last_attempt("replace")
    if run.plan is not None and run.plan.way.at_provider and not any(a.step == "deploy_backup" and a.facts.get("deploying") for a in run.attempts):
        return None  # nothing was done to the database
    if run.plan is not None and run.plan.way.in_place and (replaced is None or (replaced.state != "done" and dropped(run) is None)):
        return None  # the database itself is still there
    return taken(run.last_attempt("restore_point"))


def went_back(run: Run) -> bool:
    """The plan is of a person who chose what this run had kept, instead of what was asked for."""
    if run.plan is None:
        return False
    kept = [file.name for a in run.attempts if a.step == "restore_point" and a.round != run.round and (file := taken(a))]
    chosen_ = "restore" if run.plan.way.at_provider else run.plan.strategy  # it is asked for by the same word
    return chosen_ != run.request.strategy or (run.plan.source is not None and run.plan.source.name in kept)


async def chosen(target: TargetParts, name: str, journal: Journal, command: str) -> tuple[BackupFile, Listed]:
    """The backup of that name, or the only one whose name begins so. What others made is read to its last byte. Raises Refusal."""
    known = [one for one in await listed(target, journal) if one.file and not one.name.endswith(INCOMING) and one.file.format != "schema"]
    found = [one for one in known if one.name == name] or [one for one in known if one.name.startswith(name)]
    shown = ", ".join(one.name for one in (found or known)[:5]) or "there is none"
    if not found and (kept := [one for one in await of_the_provider(target) if one.made and one.name.startswith(name)]):
        raise Refusal("provider_restores", f"{kept[0].name} is the provider's, who bring back the whole server and nothing less.", kept[0].refused)
    if not found:
        told = f"There is no backup {route.shown(name)} of {target.name}. Newest first: {shown}."
        raise Refusal("unknown_backup", told, f"Look with {command} backups {target.name}.")
    if len(found) > 1:
        raise Refusal("ambiguous_backup", f"{route.shown(name)} could be one of {many(len(found), 'backup')}: {shown}.", "Write more of its name.")
    file = found[0].file
    if file is not None and file.foreign:
        seen = await target.backup.inspect(file.name)
        file = seen.file
        if seen.refused:
            raise Refusal("copy_condemned", f"{file.name} is no way back: {seen.refused}", "Choose another backup.")
    if file is None:
        raise Refusal("unknown_backup", f"{found[0].name} can't be looked at: {found[0].refused}", "Mend that, or choose another backup.")
    return file, found[0]


async def _plan(target: TargetParts, journal: Journal, source: BackupFile | None, to: str, strategy: str, what: str) -> Plan:
    await target.database.examine()
    for refusal in (*await target.platform.ready(), *await target.runner.ready()):
        if not refusal.warning:
            raise refusal
    cloned = source is not None and is_clone(source)
    notes = []
    if source is not None and is_clone(source):
        for refusal in await target.database.may_swap(source):
            if not refusal.warning:
                raise refusal
            notes.append(f"{refusal.message} {refusal.next}")
    else:
        await may_make_beside(target)
    history, remark = await history_of(target)
    from_ = current(history) if history else UNREAD
    moved = between(history, from_, to) if history else ()
    identity = await target.database.identity()
    await target.backup.ready(identity.version)
    stopped = ["stop_writers"] if target.platform.stops else []
    app = await pace.application(target, strategy, journal)
    names = [
        "check_preconditions",
        *([] if cloned else ["restore_beside"]),
        *stopped,
        "swap",
        "verify",
    ]
    publishing, said = await published(target)
    back = pace.back(target, app, code=bool(history and history.code_follows))
    steps = (*steps_of(names), *publishing, *steps_of(back, roll_back_application={"former": app}))
    tried = cloned or target.rehearsal.where is not None
    return Plan.model_validate({
        "target": target.name, "strategy": strategy, "from_": from_, "to": to, "undone": route.undone_of(moved), "identity": identity,
        "steps": steps, "rehearse": (PlanStep(name="recover" if strategy == "pitr" else "try_copy"),) if tried else (),
        "rehearsal": None if tried else Rehearsal(done=False, why=target.rehearsal.why_not), "source": source,
        "version_table": history.version_table if history else "alembic_version",
        "version_table_schema": history.version_table_schema if history else None,
        "version_query": history.version_query if history else None, "verify": tuple(one.name for one in target.verify),
        "one_transaction": True, "expected_seconds": await pace.expected(target.name, steps, [one.revision for one in moved], journal),
        "remarks": (f"{target.name} becomes {what}; the database as it is now is kept beside it.", *remark, *notes, *said, *pace.remarks(target)),
    })  # fmt: skip


async def may_make_beside(target: TargetParts) -> None:
    """Raises Refusal(no_database_beside)."""
    if why := await target.database.may_make_beside():
        raise Refusal("no_database_beside", f"A copy can't be restored beside {target.name}: {why}", "Give Backout's role that right.")


async def history_of(target: TargetParts) -> tuple[History | None, tuple[str, ...]]:
    """A database that is broken can't always be read by its tool: a restore must be possible all the same."""
    try:
        return await target.tool.read(), ()
    except Refusal as refusal:
        return None, (f"The migration tool can't read the database as it is: {refusal.message}",)


def current(history: History) -> str:
    return ", ".join(history.current) or route.BASE


def between(history: History, from_: str, to: str) -> tuple[Revision, ...]:
    """The migrations that are in the database and not in the copy, where the history tells."""
    with suppress(Refusal):
        return route.route(to, history)[2]
    return ()


async def standing(target: TargetParts, plan: Plan) -> str | None:
    with suppress(Refusal):
        return ", ".join(await target.database.heads(*plan.version)) or route.BASE
    return None


def steps_of(names: Sequence[str], **params: dict[str, Any]) -> tuple[PlanStep, ...]:
    return tuple(PlanStep(name=name, params=params.get(name, {})) for name in names)
