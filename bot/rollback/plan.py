"""Live revision + wanted revision + what would be lost -> a frozen plan, or the refusal that stands in the way. Changes nothing."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from bot.durable import TargetParts
from bot.errors import ProgramFailed, Refusal, StepFailed
from bot.model import History, Identity, Loss, Plan, PlanStep, Revision
from bot.ports import Journal
from bot.rollback import loss, route

DOWNGRADE = ("check_preconditions", "back_up", "downgrade", "verify", "start_writers")


async def make(target: TargetParts, rev: str, journal: Journal, *, command: str = "/rollback") -> Plan:
    """Everything that can be known before approval. Raises Refusal, also planning_failed for what the server or a program said no to."""
    try:
        return await _made(target, rev, journal, command)
    except (StepFailed, ProgramFailed) as error:
        raise Refusal(
            "planning_failed", f"The plan could not be made. {error}".rstrip(".") + ".", "Mend what the message names, then ask again."
        ) from error


async def _made(target: TargetParts, rev: str, journal: Journal, command: str) -> Plan:
    await target.database.examine()
    identity = await target.database.identity()
    await target.backup.ready(identity.version)
    history = await target.tool.read()
    from_, to, undone = route.route(rev, history, command=command)
    losses = loss.read_loss(undone)
    await _queries_run(target, losses)
    return Plan(
        target=target.name,
        from_=from_,
        to=to,
        undone=route.undone_of(undone),
        steps=tuple(PlanStep(name=name) for name in DOWNGRADE),
        loss=losses,
        loss_class=loss.loss_class(losses),
        identity=identity,
        version_table=history.version_table,
        version_table_schema=history.version_table_schema,
        one_transaction=_one_transaction(history, undone),
        verify=tuple(one.name for one in target.verify),
        expected_seconds=await _expected(target.name, undone, journal),
        remarks=(*history.remarks, *_remarks(target, undone)),
    )


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


async def _expected(target: str, undone: tuple[Revision, ...], journal: Journal) -> float | None:
    """Median seconds of earlier succeeded runs that undid the same revisions; None: not measured yet."""
    earlier = await journal.durations(target, DOWNGRADE, [one.revision for one in undone])
    return round(statistics.median(earlier), 1) if earlier else None


def _remarks(target: TargetParts, undone: tuple[Revision, ...]) -> list[str]:
    said = []
    if not target.platform.stops:
        said.append("Nobody is stopped (platform: none): what is written during the run may be lost and can't be counted.")
    if not loss.surely_one_transaction(undone):
        said.append("The scripts may commit in the middle: if the run is interrupted there, a person decides.")
    return said


def differences(old: Plan, new: Plan) -> tuple[str, ...]:
    """Why the approvals of `old` don't hold for `new`, in sentences; empty when they do."""
    if old.digest() == new.digest():
        return ()
    found = [
        *_database(old.identity, new.identity),
        *_if(old.from_ != new.from_, f"the database moved from {old.from_} to {new.from_}"),
        *_if(old.to != new.to, f"the way leads to {new.to}, not to {old.to}"),
        *_if([u.revision for u in old.undone] != [u.revision for u in new.undone], "other revisions would be undone"),
        *_if([u.sha256 for u in old.undone] != [u.sha256 for u in new.undone], "the scripts were edited"),
        *_if(old.loss != new.loss, "other things would be lost"),
        *_if(old.loss_class != new.loss_class, f"the loss class is {new.loss_class}, not {old.loss_class}"),
        *_if(old.verify != new.verify, "the verification changed"),
    ]
    return tuple(found) or ("the plan changed",)


def _database(old: Identity, new: Identity) -> list[str]:
    if old.same_database(new):
        return _if(old.version != new.version, "the server was upgraded")
    if old.timeline != new.timeline:
        return ["the server failed over to another timeline"]
    return ["it is another database"]


def _if(true: bool, sentence: str) -> list[str]:
    return [sentence] if true else []
