"""After a failed step: every way there really is now, each with what it loses, how long it takes, and how sure that is."""

from __future__ import annotations

from bot.durable import TargetParts
from bot.errors import Refusal
from bot.evidence import size
from bot.model import AttemptState, Run
from bot.moment import told
from bot.ports import Journal
from bot.rollback import plan_copies
from bot.steps.restore_beside import INCOMING
from bot.steps.restore_point import is_clone
from bot.words import span

_BACKUPS = 2  # besides the restore point


async def ways_out(target: TargetParts, run: Run, journal: Journal, command: str) -> list[str]:
    """Sentences, the nearest way first. Nothing is promised that was not looked at."""
    return [
        *_restore_point(target, run),
        *_no_room(target, run, command),
        *await _backups(target, run, journal, command),
        *await _instants(target, command),
    ]


def _restore_point(target: TargetParts, run: Run) -> list[str]:
    file = plan_copies.way_back(run)
    if file is None:
        return []
    taken = run.last_attempt("swap") or run.last_attempt("restore_point")
    when = f" of {taken.ended:%H:%M:%S} UTC" if taken is not None and taken.ended else ""
    loses = "loses nothing: nobody has written since" if target.platform.stops else "loses what was written since"
    if is_clone(file):
        return [f"Restore: the restore point{when}; {loses}; seconds, since it is a database beside this one."]
    took = run.plan.rehearsal.seconds.get("restore") if run.plan and run.plan.rehearsal else None
    place = "; in place too, so what has the name by then is dropped" if run.plan and run.plan.way.in_place else ""
    time = f"about {span(took)}, as on the copy" if took else "time not measured"
    return [f"Restore: the restore point{when}, {size(file.size)}; {loses}; {time}{place}."]


def _no_room(target: TargetParts, run: Run, command: str) -> list[str]:
    """Two databases don't fit: the copy fits where the database is."""
    last = run.last_attempt("restore_beside")
    source = run.plan.source if run.plan else None
    full = last is not None and last.state is AttemptState.FAILED and "No space left" in last.summary
    if not full or source is None or not target.platform.stops or target.rehearsal.where is None:
        return []
    return [
        f"{command} restore {target.name} {source.name} in place (a run of its own, after Leave): the database is dropped first, "
        "and the way back is a dump taken right before. It asks for the seats of a high loss."
    ]


async def _backups(target: TargetParts, run: Run, journal: Journal, command: str) -> list[str]:
    own = plan_copies.way_back(run)
    known = [
        one for one in await journal.backups(target.name)
        if not str(one["name"]).endswith(INCOMING) and one["file"].format != "schema" and (own is None or one["name"] != own.name)
    ]  # fmt: skip
    said = []
    for one in known[:_BACKUPS]:
        proven = f"restored whole {one['proven']:%Y-%m-%d %H:%M} UTC" if one["proven"] else "never restored yet"
        said.append(
            f"{command} restore {target.name} {one['name']} (a run of its own, after Leave): revision {one['revision']}; "
            f"loses everything since {one['made']:%Y-%m-%d %H:%M} UTC; {proven}."
        )
    return said


async def _instants(target: TargetParts, command: str) -> list[str]:
    if target.pitr is None and target.provider is not None:
        return [f"{command} pitr {target.name} TIME (a run of its own, after Leave): {target.provider.kind} recovers the instant beside."]
    if target.pitr is None:
        return []
    try:
        covered = await target.pitr.window()
    except Refusal as refusal:
        return [f"Point in time: not possible now. {refusal.message}"]
    return [f"{command} pitr {target.name} TIME (a run of its own, after Leave): any instant from {told(covered.since)} to {told(covered.until)}."]
