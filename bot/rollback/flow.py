"""The story of a run, in the order of the sentence: request, plan, ask, approve, carry out, verify, report.

Channel and command line call the verbs; the engine calls `advance`, which does the one thing that the journal says is next.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from bot.durable import PlanChanged, TargetParts
from bot.errors import BackoutError, JournalDown, Refusal, StepFailed, TransitionRefused
from bot.evidence import Rehearsal
from bot.model import ENDS, OPEN, Alarm, Attempt, AttemptState, Plan, Run, State
from bot.ports import Chat, Clock, Engine, Journal, Web
from bot.rollback import hold, plan_copies, plan_in_place, report, retention
from bot.rollback import plan as planning
from bot.rollback.approve import Authority
from bot.rollback.execute import Executor
from bot.rollback.position import stopped
from bot.rollback.verbs import Verbs
from bot.rollback.ways_out import ways_out
from bot.steps.stage_backup import asked_for
from bot.strategy import ON_A_COPY, Strategy

log = logging.getLogger(__name__)

#: what a copy proves to be no way back
_PROVED_WRONG = frozenset({"rehearsal_failed", "empty_downgrade", "copy_condemned", "in_place_rights", "table_not_mergeable"})
_GRACE = 30.0  # seconds that a running step gets when the process is asked to leave
_TIDY = 5.0  # seconds after that
_AHEAD = 4  # targets whose tool waits from the start; each takes about 40 MB


class Rollbacks(Verbs):
    """What the engine and the alarm clock call; what people ask for is in verbs.py."""

    def __init__(
        self,
        targets: Mapping[str, TargetParts],
        journal: Journal,
        engine: Engine,
        chat: Chat,
        authority: Authority,
        clock: Clock,
        web: Web,
        *,
        command: str = "/rollback",
    ) -> None:
        super().__init__(targets, journal, engine, chat, authority, clock, command=command)
        self._executor = Executor(
            journal, chat, clock, web, replan=self._replan, void=self._void, gave_up=authority.too_many_failures, ways=self._ways,
            addresses=self._addresses,
        )  # fmt: skip
        self.draining = asyncio.Event()
        self._busy = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    # ------------------------------------------------------------------ what the engine calls

    async def advance(self, run_id: str) -> str:
        """Do what is next for this run: 'go' (look again), 'wait' (for a signal), or 'end'."""
        if self.draining.is_set():
            await asyncio.Event().wait()  # the process is leaving: the run goes on at the next start
        following = "go"
        self._busy += 1
        self._quiet.clear()
        try:
            run = await self._journal.run(run_id)
            following = await self._next[run.state](self, run)
        except JournalDown as error:
            log.warning("%s waits: %s", run_id, error)
            await asyncio.sleep(1)
        except TransitionRefused as error:
            log.info("%s moved meanwhile: %s", run_id, error)
        finally:
            self._busy -= 1
            if not self._busy:
                self._quiet.set()
        return following

    async def leave(self) -> None:
        """No new work; what runs gets 30 s, then it is ended where it works and the next start finds out what became of it."""
        self.draining.set()
        if self._busy > self._addresses.waiting:  # who only waits for a person need not be waited for
            with suppress(TimeoutError):
                async with asyncio.timeout(_GRACE):
                    await self._quiet.wait()
        await self._executor.stop()
        with suppress(JournalDown, TimeoutError):  # the next start cleans
            async with asyncio.timeout(_TIDY):
                for target in self.targets.values():
                    await self._clean(target)

    async def _plan(self, run: Run) -> str:
        target, asked = self._target(run.target), run.request
        try:
            made = await planning.make(target, asked.rev, self._journal, strategy=asked.strategy, command=self._command)
            need = self._authority.need(asked, made)
            if made.rehearse:
                await self._journal.store_plan(run.id, made, unless_since=await self._authority.may_rehearse(asked))
            else:
                made = await planning.with_evidence(target, made, made.rehearsal or Rehearsal(done=False), self._journal)
        except BackoutError as error:
            if isinstance(error, JournalDown | TransitionRefused):
                raise
            refusal = error if isinstance(error, Refusal) else Refusal("planning_failed", str(error), "Mend it, then ask again.")
            await self._journal.refuse(run.id, refusal)
            await self._chat.private(run.request, f"{refusal.code}: {refusal.message}\n{refusal.next}")
            await self._chat.changed(run.id)
            return "end"
        await target.tool.prepare()  # most are answered soon, and the first step asks it again
        if not made.rehearse:
            await self._ask(run, made, need.roles)
        await self._chat.changed(run.id)
        return "go"

    async def _ask(self, run: Run, made: Plan, roles: Sequence[str], **voided: Any) -> None:
        await self._journal.store_evidence(run.id, made, roles, **voided)
        await self._authority.ask(await self._journal.run(run.id))

    async def _rehearse(self, run: Run) -> str:
        """Before anybody is asked: the plan on a copy. What could not be tried is asked for all the same, and says so first."""
        target = self._target(run.target)
        if await self._executor.rehearse(run, target):
            return "go"
        await self._executor.release(run.id)
        if run.plan is None:
            raise TransitionRefused(f"{run.id} has no plan")
        last = next((each for planned in reversed(run.plan.rehearse) if (each := run.last_attempt(planned.name))), None)
        if last is not None and (refusal := _proved_wrong(last)) is not None:
            await self._journal.refuse(run.id, refusal)
        else:
            tried = last is not None and last.state is AttemptState.DONE
            why = "" if tried or last is None else f"{last.summary}"
            found = Rehearsal(**last.facts["rehearsal"]) if tried and last is not None else Rehearsal(done=False, why=why)
            if run.plan.way.in_place and not found.done:
                await self._journal.refuse(run.id, plan_in_place.untried(target.name, found.why))
            else:
                made = await planning.with_evidence(target, run.plan, found, self._journal)
                await self._ask(run, made, self._authority.need(run.request, made).roles)
        await self._chat.changed(run.id)
        return "go"

    async def _await_approval(self, run: Run) -> str:
        alarms = {alarm.kind: alarm for alarm in await self._journal.alarms() if alarm.run == run.id}
        if run.seats and all(seat.by for seat in run.seats):
            await self._journal.clear_alarms(run.id, "seat")
            await self._journal.move(run.id, State.RUNNING, "started")
            return "go"
        if "seat" not in alarms:
            await self._authority.ask(run)  # we died between the plan and the asking
            await self._chat.changed(run.id)
            return "go"
        if alarms["seat"].due <= self._clock.now() and not await self._authority.overdue(run):
            await self._end_unstarted(run, State.EXPIRED, "expired")
            return "go"
        await self._too_long_down(run)
        await self._chat.changed(run.id)
        return "wait"

    async def _run(self, run: Run) -> str:
        await self._too_long_down(run)
        if run.ending and not stopped(run) and not any(a.step not in ON_A_COPY for a in run.current):
            await self._end(run, run.ending)
        elif run.decision == "restore":
            await self._restore_instead(run)
        elif not await self._executor.next(run, self._target(run.target)):
            await self._end(run, _ending(run))
        return "go"

    async def _restore_instead(self, run: Run) -> None:
        """A person chose the restore point: a plan of its own, for which the seats are asked again. The writers stay stopped meanwhile."""
        decided = next(event for event in reversed(await self._journal.events(run.id)) if event.kind == "decided")
        await self._journal.clear_decision(run.id)
        try:
            instead = plan_in_place.instead if run.plan and run.plan.way.in_place else plan_copies.instead
            made = await instead(await self._executor.entered(run, self._target(run.target)), run, str(decided.data["by"]))
        except (Refusal, StepFailed) as error:
            await self._executor.ask(run, f"It can't go back to the restore point: {error}")
        else:
            await self._ask(run, made, self._authority.need(run.request, made).roles, what=["a person chose the restore point instead"])
            await self._chat.changed(run.id)

    async def _end(self, run: Run, end: State) -> None:
        await self._journal.move(run.id, end, "ended", state=end, summary=report.ending(run))
        await self._executor.release(run.id)

    async def _await_decision(self, run: Run) -> str:
        await self._too_long_down(run)
        return "wait"

    async def _report(self, run: Run) -> str:
        """The run's last message. A plan that was refused at once has had its private answer instead."""
        await self._executor.release(run.id)
        if target := self.targets.get(run.target):
            await self._clean(target)
            await self._keep_ready(target)
        kinds = {event.kind for event in await self._journal.events(run.id)}
        refused_at_once = run.state is State.REFUSED and "planned" not in kinds
        if "reported" not in kinds and not refused_at_once:
            view = await self._view(run)
            await self._journal.record(run.id, "reported", file=f"post-mortem-{run.id}.md", summary=report.summary(view))
        await self._chat.changed(run.id)
        return "end"

    _next: Mapping[State, Callable[[Rollbacks, Run], Awaitable[str]]] = {
        State.PLANNING: _plan,
        State.REHEARSING: _rehearse,
        State.AWAITING_APPROVAL: _await_approval,
        State.RUNNING: _run,
        State.NEEDS_DECISION: _await_decision,
        **dict.fromkeys(ENDS, _report),
    }

    async def _replan(self, run: Run) -> Plan:
        """Plan again, to the absolute revision. Raises PlanChanged when the approvals don't hold for what comes out."""
        if run.plan is None:
            raise TransitionRefused(f"{run.id} has no plan")
        rev: str = run.plan.to
        strategy: Strategy = run.plan.strategy
        if run.plan.source:  # also what an instant led to is a backup by now
            rev, strategy = run.plan.source.name, "restore" if run.plan.way.swaps else strategy
        rev = asked_for(run.plan).get("backup", rev)
        if run.plan.tables_back and run.plan.source:
            rev = f"{','.join(run.plan.tables_back)} from {run.plan.source.name}"
        made = await planning.make(self._target(run.target), rev, self._journal, strategy=strategy, command=self._command)
        if what := hold.differences(run.plan, made):
            raise PlanChanged(made, what)
        return made

    async def _void(self, run: Run, changed: PlanChanged) -> None:
        """Approvals are void: what comes out now is tried again, then asked for."""
        await self._executor.release(run.id)
        made, what = changed.plan, list(changed.what)
        if made.rehearse:
            await self._journal.store_plan(run.id, made, what=what)
        else:
            made = await planning.with_evidence(self._target(run.target), made, made.rehearsal or Rehearsal(done=False), self._journal)
            await self._ask(run, made, self._authority.need(run.request, made).roles, what=what)
        await self._chat.changed(run.id)

    async def _ways(self, run: Run) -> list[str]:
        return await ways_out(self._target(run.target), run, self._journal, self._command)

    async def _too_long_down(self, run: Run) -> None:
        """The target is down for too long: the next rung is asked, and again after as long."""
        for alarm in await self._journal.alarms():
            if alarm.run != run.id or alarm.kind != "down" or alarm.due > self._clock.now() or self._authority.down is None:
                continue
            await self._journal.set_alarm(Alarm(run=run.id, kind="down", due=self._clock.now() + self._authority.down))
            await self._authority.escalate(run, f"the target is down since {run.created:%H:%M} UTC or longer")
            await self._chat.changed(run.id)

    # ------------------------------------------------------------------ what the alarm clock calls

    async def ring(self) -> None:
        """Wake every run whose deadline has passed."""
        for alarm in await self._journal.alarms():
            if alarm.due <= self._clock.now():
                await self._engine.signal(alarm.run, f"{alarm.kind}:{alarm.due.isoformat()}")

    async def resume(self) -> None:
        """At start: what dead processes left of their copies goes; a run that never reached the engine begins; every open one is looked at again."""
        for target in self.targets.values():
            if target.rehearsal.where is not None:
                await target.rehearsal.where.clean()
            if target.pitr is not None:
                await target.pitr.clean()
            await self._clean(target)
        for target in self.targets.values():
            await self._keep_ready(target)
        for run in await self._journal.find(states=sorted(OPEN), limit=1000):
            await self._engine.start(run.id, run.target)
            await self._engine.signal(run.id, f"resume:{self._clock.now().isoformat()}")

    async def _clean(self, target: TargetParts) -> None:
        """What dead processes left where the tool runs. If that can't be asked now, it can the next time: no run waits for it.

        Several targets may have their tool at one place: what is of any open run stays.
        """
        try:
            await target.runner.clean([run.id for run in await self._journal.find(states=sorted(OPEN), limit=1000)])
        except JournalDown:
            raise
        except BackoutError as error:
            log.warning("what is left where the tool of %s runs could not be removed: %s", target.name, error)

    async def _keep_ready(self, target: TargetParts) -> None:
        """Whoever types a command is answered a second sooner."""
        if target in list(self.targets.values())[:_AHEAD]:
            await target.tool.prepare()

    async def retain(self) -> None:
        """Remove copies past their time."""
        for target in self.targets.values():
            await retention.retain(target, self._journal, self._clock)


def _proved_wrong(last: Attempt) -> Refusal | None:
    """What a copy showed to be no way back. An instant that could not be recovered leaves nothing that could be asked for."""
    code = last.facts.get("code", "pitr_failed")
    if code in _PROVED_WRONG or (last.step == "recover" and last.state is not AttemptState.DONE):
        return Refusal(code, last.facts.get("message", last.summary), last.facts.get("next", "Look at the archive, or choose another way back."))
    return None


def _ending(run: Run) -> State:
    """A cancel that came after the last step found everything done and verified. Back at the restore point is where nobody wanted to be."""
    if _all_done(run):
        return State.FAILED if plan_copies.went_back(run) else State.SUCCEEDED
    return run.ending or State.SUCCEEDED


def _all_done(run: Run) -> bool:
    last = [run.last_attempt(planned.name) for planned in run.plan.steps] if run.plan else []
    return bool(last) and all(attempt is not None and attempt.state is AttemptState.DONE for attempt in last)
