"""Plans that let the provider put one of its own backups in the place of the WHOLE server: every database on it, roles and passwords too.

It can't be tried first. The way back is a dump in the backup store, since a clone would lie on the server that goes, and the volume that is kept.
"""

from __future__ import annotations

import datetime as dt

from bot.durable import TargetParts
from bot.errors import Refusal, StepFailed
from bot.evidence import Listed, LossClass, Rehearsal
from bot.keeping import Provider, Restoring
from bot.model import Plan, PlanStep
from bot.moment import told
from bot.ports import Journal
from bot.rollback import newer, pace, plan_copies, route
from bot.strategy import UNREAD
from bot.words import many

_DATABASES = """SELECT datname FROM pg_catalog.pg_database WHERE NOT datistemplate AND datallowconn ORDER BY datname <> pg_catalog.current_database(),
 datname"""
_FOLLOWERS = """SELECT 'session', coalesce(application_name, pid::text) FROM pg_catalog.pg_stat_replication
 UNION ALL SELECT 'slot', slot_name::text FROM pg_catalog.pg_replication_slots WHERE NOT temporary"""
_WHY = "the provider restores its backups in the server's place only, so nobody can look at this one before"
_NAMED = 5


async def meant(target: TargetParts, name: str, journal: Journal) -> bool:
    """A backup of the provider's, which they bring back when they are asked from here; what Backout itself keeps by that name comes first."""
    if target.provider is None or target.provider.restoring is None or not name.strip():
        return False
    if any(str(one["name"]).startswith(name) for one in await journal.backups(target.name)):
        return False
    try:
        return any(one.made and one.name.startswith(name) for one in await target.provider.backups())
    except (StepFailed, Refusal):
        return False  # the list says why


async def restore(target: TargetParts, name: str, journal: Journal, command: str) -> Plan:
    """BACKUP by its id or its beginning. Raises Refusal: unknown_backup, provider_backup_expired, at_provider_writers, at_provider_door, ..."""
    provider, restoring = _provider(target)
    all_ = await provider.backups()
    chosen = _chosen(target, name, all_, command)
    _refuse_platform(target, provider.kind)
    await target.database.examine()
    for refusal in (*await target.platform.ready(), *await target.runner.ready(), *await restoring.refuse(target.database.tool)):
        if not refusal.warning:
            raise refusal
    await _refuse_expired(target, chosen)
    await _refuse_followers(target)
    if why := await target.database.may_dump():
        raise Refusal("no_restore_point", f"There would be no way back: no dump of {target.name} can be made. {why}", "Do that, then ask again.")
    history, remark = await plan_copies.history_of(target)
    identity = await target.database.identity()
    await target.backup.ready(identity.version)
    app = await pace.application(target, "at_provider", journal)
    params: dict[str, dict[str, object]] = {
        "stage_backup": {"provider": provider.kind, "backup": chosen.name, "made": chosen.made.isoformat() if chosen.made else ""},
        "restore_point": {"method": "dump"}, "roll_back_application": {"former": app},
    }  # fmt: skip
    back = pace.back(target, app, code=bool(history and history.code_follows))
    names = ["check_preconditions", "stop_writers", "restore_point", "stage_backup", "deploy_backup", "verify", *back]
    steps = tuple(PlanStep(name=each, params=params.get(each, {})) for each in names)
    return Plan.model_validate({
        "target": target.name, "strategy": "at_provider", "from_": plan_copies.current(history) if history else UNREAD, "to": UNREAD, "undone": (),
        "identity": identity, "steps": steps, "rehearse": (), "rehearsal": Rehearsal(done=False, why=_WHY), "loss_class": LossClass.HIGH,
        "version_table": history.version_table if history else "alembic_version",
        "version_table_schema": history.version_table_schema if history else None,
        "version_query": history.version_query if history else None, "verify": tuple(one.name for one in target.verify), "one_transaction": True,
        "expected_seconds": await pace.expected(target.name, steps, [], journal),
        "remarks": (*await _said(target, provider.kind, chosen, all_), *remark, *pace.remarks(target), *await target.database.remarks()),
    })  # fmt: skip


def _provider(target: TargetParts) -> tuple[Provider, Restoring]:
    if target.provider is None or target.provider.restoring is None:
        raise Refusal("provider_restores", f"Nobody is named who could bring a backup of {target.name} back.", "Look at backups.provider.")
    return target.provider, target.provider.restoring


def _chosen(target: TargetParts, name: str, all_: tuple[Listed, ...], command: str) -> Listed:
    known = [one for one in all_ if one.made]
    found = [one for one in known if one.name == name] or [one for one in known if one.name.startswith(name)]
    shown = ", ".join(one.name for one in (found or known)[:5]) or "there is none"
    if not found:
        said = f"The provider has no backup {route.shown(name)} of {target.name} any more. Newest first: {shown}."
        raise Refusal("unknown_backup", said, f"Look with {command} backups {target.name}.")
    if len(found) > 1:
        raise Refusal("ambiguous_backup", f"{route.shown(name)} could be one of {many(len(found), 'backup')}: {shown}.", "Write more of its name.")
    return found[0]


async def _refuse_expired(target: TargetParts, chosen: Listed) -> None:
    """By the clock of the database."""
    ((asked,),) = (await target.database.ask("SELECT pg_catalog.clock_timestamp()")).rows
    if chosen.keep_until is not None and chosen.keep_until <= dt.datetime.fromisoformat(asked):
        raise Refusal(
            "provider_backup_expired", f"{chosen.name} was kept until {told(chosen.keep_until.replace(microsecond=0))}; the provider may remove it "
            "any moment, also while it is copied.", "Choose a newer backup.",
        )  # fmt: skip


async def _refuse_followers(target: TargetParts) -> None:
    """Standbys and consumers read on from where they were, on a server that was never there."""
    there = [f"{row[0]} {row[1]}" for row in (await target.database.ask(_FOLLOWERS)).rows]
    if there:
        raise Refusal(
            "at_provider_followers", f"Who follows this server would be left behind by one that goes back: {', '.join(there[:4])}.",
            "Let the provider do it, who makes its replicas anew; or end them and drop their slots, then ask again.",
        )  # fmt: skip


def _refuse_platform(target: TargetParts, provider: str) -> None:
    if not target.platform.stops:
        raise Refusal(
            "at_provider_writers", f"Nobody who writes to {target.name} is stopped (platform: none), so what they write until the server goes would "
            "be in no dump, and lost.", f"Name under targets.{target.name}.platform what stops them.",
        )  # fmt: skip
    if "database" in target.platform.kind.split(" + "):
        raise Refusal(
            "at_provider_door", f"The door of {target.name} is closed in the server itself, and {provider} would put another one in its place: "
            "nobody could open it with what was written down.", "Stop what writes by its services alone, or restore a dump of Backout's own.",
        )  # fmt: skip


async def _said(target: TargetParts, provider: str, chosen: Listed, all_: tuple[Listed, ...]) -> tuple[str, ...]:
    """The decision first."""
    made = chosen.made or dt.datetime.min.replace(tzinfo=dt.UTC)
    when, who = told(made.replace(microsecond=0)), provider.capitalize()
    there = [str(row[0]) for row in (await target.database.ask(_DATABASES)).rows]
    after = [one.name for one in all_ if one.made and one.made > made]
    return (
        f"The WHOLE server goes back to {when}, roles and passwords too. Databases on it now: {_few(there)}.",
        f"Gone from the service is what was written since. {await newer.since(target.database, made)}",
        *([f"{who} may remove the backups that are newer: {_few(after)}."] if after else []),
        f"The way back: a dump of {target.name} alone, taken after the writers stopped; and the former volume, which {who} keeps, mounted nowhere.",
    )


def _few(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
