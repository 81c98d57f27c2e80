"""Private answers: status, history, backups, check, plan, help. Nouns in, text out; pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence

from bot.errors import Refusal
from bot.evidence import Archive, Duty, Listed, size
from bot.model import ENDS, Plan, Run, State, View
from bot.place import Right
from handlers import story
from handlers.blocks import listing
from handlers.text import code, fenced, safe, short, when

_ROOM = 2500
_LEFT_OUT = "and {} more"


def help_(command: str, targets: Collection[str]) -> str:
    """Short, by example."""
    named = ", ".join(code(each, 40) for each in sorted(targets)) or "none is rolled back from here"
    return "\n".join(
        (
            "*Take a migration back.* REV is the one that stays; everything above it is undone.",
            f"`{command} 0004 sev high because orders fail`   `{command} -1`   `{command} shop base`",
            f"`{command} plan -1`  what it would do, changing nothing",
            f"`{command} reapply 0005 sev high because the fix is out`  forward again, with what was archived put back",
            f"`{command} restore BACKUP`  `{command} tables orders from BACKUP`  `{command} pitr 2026-01-17 10:00 UTC`  when a downgrade can't do it",
            f"`{command} restore BACKUP in place`  drops the database first, for a server without room for two",
            f"`{command} stamp 0004`  write down where the database stands; no script runs",
            f"`{command} status`  `abort`  `report`  of the newest run here, or of a RUN",
            f"`{command} note traffic is normal again`  for the report; in a run's thread just write",
            f"`{command} history`  `backups`  `check`  can it be rolled back right now",
            f"Databases here: {named}. Nothing runs before the people whose role it is approved.",
        )
    )


def status(view: View, link: str) -> str:
    run = view.run
    lines = [f"*{safe(run.target)}: {safe(story.way(run), 100)} · {story.state(run)}* · {code(run.id)}", story.asking(run)]
    if run.state is State.REFUSED and run.refusal:
        lines.append(f"{safe(run.refusal.get('message', ''), 500)} {safe(run.refusal.get('next', ''), 300)}")
    if run.plan and run.state not in ENDS:
        lines += [] if run.state in {State.PLANNING, State.REHEARSING} else [story.tried(view)]
        lines.append(f"{story.losses(run.plan)} {story.expected(run.plan)}")
    lines += [story.seat_line(seat) for seat in view.seats]
    if view.until and run.state is State.AWAITING_APPROVAL:
        lines.append(f"Waits until {when(view.until)}.")
    lines += [story.step_line(step) for step in view.steps if step.state != "waiting"]
    if link:
        lines.append(link)
    return listing(lines, _ROOM, _LEFT_OUT)


def plan(made: Plan) -> str:
    """What a run would do."""
    steps = ", ".join(code(step.name, 40) for step in made.steps)
    return "\n".join(
        (
            f"*This would {story.undoing(made)}.* {story.losses(made)} Nothing was changed.",
            _copy(made),
            listing(story.undone_lines(made), 1200, _LEFT_OUT),
            f"Destroyed (loss class {made.loss_class}):",
            listing(story.loss_lines(made), 1200, _LEFT_OUT) or "nothing that reading the scripts found",
            f"Steps ({made.strategy}): {steps}",
            f"{story.expected(made)} Digest {code(short(made.digest()))}.",
            *(f"• {safe(remark, 300)}" for remark in made.remarks[:8]),
        )
    )


def _copy(made: Plan) -> str:
    """A plan alone is never tried; whether a run would be."""
    if made.rehearse:
        return "A run tries it on a copy first, and counts there what it destroys."
    return f"A run could not try it on a copy: {safe(made.rehearsal.why if made.rehearsal else '', 300)}"


def history(target: str, runs: Sequence[Run]) -> str:
    if not runs:
        return f"{code(target)} was never rolled back from here."
    lines = [f"{when(run.created)} {code(run.id)} {safe(story.way(run), 100)} *{story.state(run)}*" for run in runs]
    return f"*{safe(target)}, newest first*\n" + listing(lines, _ROOM, _LEFT_OUT)


def backups(target: str, kept: Sequence[Listed], archives: Sequence[tuple[Archive, dt.datetime]] = ()) -> str:
    """Copies of the whole database, then archives: what downgrades destroyed, and until when it can be put back."""
    if not kept and not archives:
        return f"There is no backup of {code(target)} that Backout made. Every run takes one before it changes anything."
    parts = [f"*Backups of {safe(target)}, newest first*", listing(map(_backup, kept), _ROOM // 2, _LEFT_OUT) or "none"]
    if archives:
        parts += [f"*Archives of {safe(target)}, newest first*", listing((_archive(*each) for each in archives), _ROOM // 2, _LEFT_OUT)]
    return "\n".join(parts)


def _archive(made: Archive, until: dt.datetime) -> str:
    return f"{code(made.file.name, 120)}, {story.kept(made)}, kept until {when(until)}; it comes back with {story.put_it_back(made)}"


def check(target: str, reasons: Sequence[Refusal], rights: Sequence[Right] = (), duties: Sequence[Duty] = ()) -> str:
    refused = [f"• may not {safe(one.name, 80)}: {code(one.missing, 300)}" for one in rights if not one.works]
    limits = "\n*What Backout's role may not do, so that plans leave it out*\n" + listing(refused, _ROOM, _LEFT_OUT) if refused else ""
    return _ready(target, reasons) + limits + "".join(f"\n{_duty(one)}" for one in duties)


def _duty(one: Duty) -> str:
    what = "Scheduled backup" if one.kind == "backup" else "Drill"
    return f"{what} {when(one.at)}: {'' if one.ok else '*FAILED.* '}{safe(one.says, 400)}"


def _ready(target: str, reasons: Sequence[Refusal]) -> str:
    if not reasons:
        return f"*{safe(target)} can be rolled back right now.*"
    lines = [f"• {safe(each.message, 400)} *Next:* {safe(each.next, 300)} ({code(each.code)})" for each in reasons]
    return f"*{safe(target)} can't be rolled back right now.*\n" + listing(lines, _ROOM, _LEFT_OUT)


def report(markdown: str, link: str) -> str:
    whole = f"\nThe whole of it is in the thread: {link}" if link else ""
    return fenced(markdown[:3000], 6000) + (whole if len(markdown) > 3000 or link else "")


def _backup(kept: Listed) -> str:
    if kept.file is None:
        return f"{safe(kept.name)}: {safe(kept.refused, 300)}"
    told = [code(kept.name, 120), f"at revision {code(kept.revision or '?', 40)}", size(kept.file.size)]
    told += ["a clone beside it"] if kept.file.format == "clone" else []
    told += [f"from {when(kept.made)}"] if kept.made else []
    if kept.keep_until is not None:
        told += [f"restored whole {when(kept.proven)}" if kept.proven else "not restored yet", f"kept until {when(kept.keep_until)}"]
    else:
        of = f" of database {code(kept.database, 60)}" if kept.database else ""
        told += [f"made by others{of} ({safe(kept.file.format)}, PostgreSQL {safe(kept.postgres or '?', 20)})"]
    told += [f"sha256 {code(kept.file.sha256[:12])}"] if kept.file.sha256 else []
    told += [f"*can't be used*: {safe(kept.refused, 200)}"] if kept.refused else []
    return ", ".join(told)
