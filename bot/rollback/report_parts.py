"""The post-mortem's parts about the data: what was lost, where its archive is, how to go back. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from bot.evidence import Archive, BackupFile, Loss, PutBack, Rehearsal, size
from bot.model import Attempt, AttemptState, CodeSeen, Plan, Run, View
from bot.rollback import proof
from bot.rollback.markup import code, plain
from bot.steps.replace import dropped
from bot.steps.stage_backup import asked_for
from bot.words import many

_SHOWN = 50
_LOG_LINES = 20
_DIFFERENCE = 100  # lines of it
_BAD_LINE = re.compile(r"\b(error|exception|fatal|panic|traceback)\b", re.IGNORECASE)


def lost(view: View) -> Iterator[str]:
    """As it was found after the downgrade, else as the copy showed it, else as the scripts say."""
    run, plan = view.run, view.run.plan
    yield "## What was lost"
    yield ""
    name = moving(plan)
    done = run.last_attempt(name)
    if plan is not None and plan.way.in_place and any(a.step == name for a in run.attempts):
        yield from _dropped(run, plan)
    elif plan is not None and plan.way.at_provider and any(a.step == name for a in run.attempts):
        yield from _replaced(run, plan)
    elif plan is None or done is None:
        yield f"Nothing: the {plan.way.noun if plan else name} did not begin."
    elif not plan.way.by_tool:
        yield from _missing(plan, done)
    else:
        yield from _lost(run, plan, done)
    yield ""


def _lost(run: Run, plan: Plan, done: Attempt) -> Iterator[str]:
    source, losses = _known(run, plan)
    if done.state is not AttemptState.DONE:
        yield f"The {done.step} ended as {done.state}: this is what it would have destroyed, {source}."
    elif losses:
        yield f"{source[0].upper()}{source[1:]}."
    yield ""
    yield from proof.lost(losses, plan.rehearsal or Rehearsal(done=False))
    if more := facts(run, "reconcile").get("more"):
        yield ""
        yield f"**More is gone than the copy had shown:** {', '.join(plain(each) for each in more)}."
    yield ""
    yield f"Loss class: {plan.loss_class}."


def _missing(plan: Plan, done: Attempt) -> Iterator[str]:
    """A copy took the place: what it lacks lies in the database that was kept."""
    if not plan.way.swaps:
        yield f"Nothing: {plain(done.summary)}."
        return
    ended = "is not in the live database any more" if done.state is AttemptState.DONE else "would not have been there any more"
    yield f"Nothing is destroyed: the database as it was is kept. This {ended}, as far as the look at the copy tells:"
    yield ""
    yield from proof.lost(plan.loss, plan.rehearsal or Rehearsal(done=False))


def _dropped(run: Run, plan: Plan) -> Iterator[str]:
    """Where nothing is kept beside it, the dump has what the copy lacks."""
    tries = [a for a in run.attempts if a.step == "replace"]
    oids = list(dict.fromkeys(a.facts["dropping"] for a in tries if a.facts.get("dropping") is not None))
    if not oids:
        yield f"Nothing: the database was not dropped. {plain(tries[-1].summary)}"
        return
    named = ", then ".join(f"OID {each}" for each in oids)
    yield f"{plain(plan.identity.database)} ({named}) was dropped; what it held is in the dump of the restore point."
    if dropped(run) is not None:
        yield ""
        yield f"Nothing took its place: {plain(tries[-1].summary)}"
    yield ""
    yield "This is not in the copy, as far as the look at it tells:"
    yield ""
    yield from proof.lost(plan.loss, plan.rehearsal or Rehearsal(done=False))


def _replaced(run: Run, plan: Plan) -> Iterator[str]:
    """The whole server went back, and nobody counted what was written since."""
    tries = [a for a in run.attempts if a.step == "deploy_backup"]
    if not any(a.facts.get("deploying") or a.state is AttemptState.DONE for a in tries):
        yield f"Nothing: the backup was not deployed. {plain(tries[-1].summary)}"
        return
    wanted = asked_for(plan)
    yield (
        f"Whatever was written since {plain(wanted['made'])} is gone from the service, in every database on the server: the backup "
        f"{code(wanted['backup'])} of {plain(wanted['provider'])} took its place. It can't be said how much that is."
    )
    yield ""
    yield f"{way_back(run)}The former volume is kept by {plain(wanted['provider'])}, mounted nowhere; newer backups of it may be gone."


def at_the_provider(run: Run) -> Iterator[str]:
    """What people still do over there."""
    done = facts(run, "deploy_backup")
    if done:
        yield f"- [ ] Write the volume's instance {code(done['instance'])} as {code('backups.provider.volume')} in backout.yml."
        yield f"- [ ] Delete the former volume {code(done['was'])} at the provider when nobody needs it any more."
    if left := facts(run, "start_writers").get("left"):
        yield f"- [ ] {plain(left)}"


def way_back(run: Run) -> str:
    """The dump of the restore point, of whatever round, in a sentence; empty where there is none."""
    last = _newest(run, "restore_point")
    if last is None or "file" not in last.facts:
        return ""
    file = BackupFile(**last.facts["file"])
    return f"As it was when the writers had stopped, it is in {file.path}, kept until {last.facts.get('until', 'nobody knows when')}. "


def _newest(run: Run, step: str) -> Attempt | None:
    return next((a for a in reversed(run.attempts) if a.step == step and a.state is AttemptState.DONE), None)


def _known(run: Run, plan: Plan) -> tuple[str, tuple[Loss, ...]]:
    seen = facts(run, "reconcile").get("loss")
    if seen is not None:
        return "compared row by row with the restore point", tuple(Loss(**one) for one in seen)
    if plan.rehearsal is not None and plan.rehearsal.done:
        return "as the copy showed it" if plan.rehearsal.sampled is None else "as sampled rows showed it, counted in production", plan.loss
    return "as far as reading the scripts goes", plan.loss


def kept(view: View) -> Iterator[str]:
    """The archive, what was put back, the restore point."""
    run = view.run
    yield "## Archive and restore point"
    yield ""
    told = [*_archives(run), *_put_back(run), *_kept(run), *_restore_point(view)]
    yield from told or ["Nothing was kept." if run.attempts else "Nothing was begun, so there is nothing to go back to."]
    yield ""


def _archives(run: Run) -> Iterator[str]:
    for step in ("archive", "reconcile"):
        found = facts(run, step)
        if "archive" in found:
            yield from _archive(Archive(**found["archive"]), found)


def _archive(made: Archive, found: Mapping[str, Any]) -> Iterator[str]:
    until = f", kept until {plain(found['until'])}" if found.get("until") else ""
    yield f"Archive: {code(made.file.path)}, {size(made.file.size)}, sha256 {plain(made.file.sha256)}{until}."
    yield ""
    yield from (f"- {many(part.rows, 'row')} of {plain(part.table)}: {plain(', '.join(part.columns))}" for part in made.parts[:_SHOWN])
    if len(made.parts) > _SHOWN:
        yield f"- and {len(made.parts) - _SHOWN} more tables"
    yield from (f"- **not archived:** {plain(name)}: {plain(why)}" for name, why in sorted(made.left_out.items()))
    yield ""
    yield f"To put it back: {code(f'reapply {made.target} {made.upper}')}, as a slash command or as `backout reapply`."
    yield ""


def _put_back(run: Run) -> Iterator[str]:
    for one in (PutBack(**each) for each in facts(run, "put_back").get("put_back", ())):
        there = f", {many(one.unchanged, 'value')} {'was' if one.unchanged == 1 else 'were'} there already" if one.unchanged else ""
        yield f"Put back: {many(one.rows, 'row')} and {many(one.values, 'value')}{there}. {many(one.conflicts_total, 'conflict')} left alone."
        yield ""
        yield from (f"- conflict: {plain(each.table)} {plain(each.key)}: {plain(each.why)}" for each in one.conflicts[:_SHOWN])
        if one.conflicts_total > len(one.conflicts[:_SHOWN]):
            yield f"- and {one.conflicts_total - len(one.conflicts[:_SHOWN]):,} more conflicts"
        yield from (f"- {plain(each)}" for each in one.notes)
        yield ""


def _kept(run: Run) -> Iterator[str]:
    found = facts(run, "swap").get("kept")
    if found:
        yield f"The database as it was before the swap: {code(found['name'])}, beside the live one. `restore` puts it back."
        yield ""


def _restore_point(view: View) -> Iterator[str]:
    last = view.run.last_attempt("restore_point") or view.run.last_attempt("back_up")
    if view.run.plan is not None and view.run.plan.way.in_place:  # also where it was gone back to it
        last = _newest(view.run, "restore_point")
    if last is None or "file" not in last.facts:
        return
    file = BackupFile(**last.facts["file"])
    what = "Restore point" if last.step == "restore_point" else "Backup from before the rehearsal"
    until = f", kept until {plain(last.facts['until'])}" if last.facts.get("until") else ""
    told = f"{code(file.path)}, {size(file.size)}" + (f", sha256 {plain(file.sha256)}" if file.sha256 else "")
    yield f"{what}: {told}{until}."
    if view.restore_commands:
        yield ""
        yield "To go back to it by hand; everything written since is lost:"
        yield ""
        yield from (f"- {code(command)}" for command in view.restore_commands)


def code_seen(view: View) -> Iterator[str]:
    """How far the code has followed, where the tool can say it; in a plan without that step, nothing."""
    plan = view.run.plan
    if plan is None or not any(step.name == "look_at_code" for step in plan.steps):
        return
    yield "## The code"
    yield ""
    found = facts(view.run, "look_at_code").get("code")
    if found is None:
        yield "It was not looked at: the run ended before. Take what was undone out of the code before the next deploy."
    elif "not_looked" in found:
        yield f"It could not be looked at: {plain(found['not_looked'])}."
    else:
        yield from _seen(CodeSeen(**found))
    yield ""


def _seen(seen: CodeSeen) -> Iterator[str]:
    yield f"When the application was back, {plain(seen.says)}."
    yield ""
    yield from (f"- [ ] {plain(each)}." for each in seen.left)
    if seen.difference:
        yield ""
        yield "From the database to the schema, as the tool says it:"
        yield ""
        yield from (f"- {code(each, 300)}" for each in seen.difference.splitlines()[:_DIFFERENCE] if each.strip())


def logs(view: View) -> Iterator[str]:
    """The services' own words before they were stopped and at the end of the watch; nothing where there are none."""
    found = [(when, facts(view.run, step).get("logs", {})) for when, step in (("before they were stopped", "stop_writers"), ("at the end", "watch"))]
    if not any(services for _, services in found):
        return
    yield "## Logs of the application"
    yield ""
    for when, services in found:
        for name, lines in services.items():
            bad = sum(bool(_BAD_LINE.search(line)) for line in lines)
            yield f"{plain(name)}, {when}: {many(len(lines), 'line')}, {many(bad, 'error')}."
            yield ""
            yield from (f"- {code(line, 300)}" for line in lines[-_LOG_LINES:])
            yield ""


def facts(run: Run, step: str) -> Mapping[str, Any]:
    """What a step that is done has left; nothing when it is not."""
    last = run.last_attempt(step)
    return last.facts if last is not None and last.state is AttemptState.DONE else {}


def moving(plan: Plan | None) -> str:
    """The step that moves the database."""
    return plan.way.move if plan is not None else "downgrade"
