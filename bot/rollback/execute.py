"""Run the next step of a plan, once: intent before the effect, outcome after it; after a crash obey the step's promise.

One broad `except` lives here, around a step's body: whatever a step raises becomes an outcome in the journal and a decision for a person.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from bot import durable
from bot.durable import Evidence, Happened, OnCrash, PlanChanged, Step, TargetParts, World
from bot.errors import BackoutError, FenceLost, JournalDown, OutcomeUnknown, Refusal, StepFailed, TransitionRefused
from bot.model import Attempt, AttemptState, Plan, Run, State
from bot.place import Connect
from bot.ports import Chat, Clock, Fence, Journal, Web
from bot.rollback import copies, hold, provider_copies, rehearse, try_stamp, try_tables, verify
from bot.rollback.addresses import Addresses
from bot.rollback.ahead import Ahead
from bot.rollback.position import decisions, noted, stopped, to_the_end, wanted
from bot.steps import STEPS
from bot.steps.deploy_backup import under_way

log = logging.getLogger(__name__)

Ended = tuple[AttemptState, str, dict[str, object]]

_LOOK = 1.0  # seconds between two looks whether a rehearsal is still wanted


class Executor:
    """Carries out stored plans. `replan(run)` makes the plan again; `gave_up(run)` is told of each failed attempt that needs a person,
    `ways(run)` says which ways there are then."""

    def __init__(
        self,
        journal: Journal,
        chat: Chat,
        clock: Clock,
        web: Web,
        *,
        replan: Callable[[Run], Awaitable[Plan]],
        void: Callable[[Run, PlanChanged], Awaitable[None]],
        gave_up: Callable[[Run], Awaitable[None]],
        ways: Callable[[Run], Awaitable[list[str]]],
        addresses: Addresses,
    ) -> None:
        self._journal, self._chat, self._clock, self._web = journal, chat, clock, web
        self._replan, self._void, self._gave_up = replan, void, gave_up
        self._ways, self._addresses = ways, addresses
        self._fences: dict[str, tuple[AsyncExitStack, Fence]] = {}
        self._ahead: dict[str, Ahead] = {}
        self._bodies: set[asyncio.Task[Ended]] = set()

    async def next(self, run: Run, target: TargetParts) -> bool:
        """Do one step. False when there is none left, so that the run may end."""
        if run.plan is None:
            raise TransitionRefused(f"{run.id} is running without a plan")
        left = next((attempt for attempt in run.current if attempt.state is AttemptState.INTENDED), None)
        if left is not None:  # first of all, also when the run was cancelled meanwhile
            await self._interrupted(run, STEPS[left.step], left, target)
            return True
        steps = to_the_end(run) if run.ending else [STEPS[planned.name] for planned in run.plan.steps]
        for step in steps:
            last = run.last_attempt(step.name)
            if last is None:
                await self._begin(run, step, target)
                return True
            if last.state is not AttemptState.DONE:
                await self._again(run, step, last, target)
                return True
        return False

    async def rehearse(self, run: Run, target: TargetParts) -> bool:
        """Do one step of the rehearsal; nobody is asked when it fails. False when it has ended, one way or the other."""
        if run.plan is None:
            raise TransitionRefused(f"{run.id} is rehearsed without a plan")
        left = next((attempt for attempt in run.current if attempt.state is AttemptState.INTENDED), None)
        if left is not None:
            await self._journal.record(run.id, "interrupted", step=left.step, attempt=left.attempt, message="interrupted; it begins again")
            await self._close(run, left, AttemptState.UNKNOWN, "interrupted; it begins again")
            await self._end_backends(run, STEPS[left.step], target)  # if that can't be done, the next attempt says why
            await self._attempt(run, STEPS[left.step], target)
            return True
        for planned in run.plan.rehearse:
            last = run.last_attempt(planned.name)
            if last is None or last.state is AttemptState.UNKNOWN:
                if planned.name == "back_up":
                    await self._begin_ahead(run, target)
                await self._attempt(run, STEPS[planned.name], target)
                return True
            if last.state is AttemptState.FAILED:
                return False
        return False

    async def _begin_ahead(self, run: Run, target: TargetParts) -> None:
        """What needs no dump is done while that is taken, where it is nobody's server."""
        where, tried = target.rehearsal.where, [each.name for each in run.plan.rehearse] if run.plan else []
        if where is not None and where.early and "rehearse" in tried and run.id not in self._ahead:
            self._ahead[run.id] = Ahead(await self._world(run, STEPS["rehearse"], 0, target), where)

    async def entered(self, run: Run, target: TargetParts) -> TargetParts:
        """The target as a step of this run sees it: through its closed door, where it is closed."""
        return (await self._world(run, STEPS["swap"], 0, target)).target

    async def ask(self, run: Run, why: str) -> None:
        """Ask again about what was asked about last."""
        last = next((each for each in reversed(run.current) if each.state is not AttemptState.DONE), run.current[-1])
        await self._ask(run, STEPS[last.step], why)

    async def release(self, run: str) -> None:
        """The run ended, or its rehearsal: give back its fence, and what was opened ahead."""
        if ahead := self._ahead.pop(run, None):
            await ahead.close()
        if held := self._fences.pop(run, None):
            await held[0].aclose()

    # ------------------------------------------------------------------ what to do about a former attempt

    async def _again(self, run: Run, step: Step, last: Attempt, target: TargetParts) -> None:
        if run.decision == "retry":
            await self._journal.clear_decision(run.id)
            await self.release(run.id)  # a person decided on the evidence: the fence is taken anew, if it can be had
            settled = last.state is AttemptState.UNKNOWN and step.probe is not None and await self._settle(run, step, last, target, asked=True)
            if not settled:
                await self._begin(run, step, target)
        elif last.facts.get("changed") or (last.state is AttemptState.FAILED and sum(a.step == step.name for a in run.current) <= step.retries):
            await self._begin(run, step, target)
        else:
            await self._ask(run, step, last.summary)

    async def _interrupted(self, run: Run, step: Step, last: Attempt, target: TargetParts) -> None:
        """Intent without outcome: the process died in there."""
        if step.on_crash is OnCrash.PROBE:
            await self._settle(run, step, last, target, asked=False)
            return
        again = "it is done again" if wanted(run, step) else "the run was cancelled, so it is not done again"
        note = f"interrupted; {again if step.on_crash is OnCrash.RERUN else 'nobody can say whether it happened'}"
        trouble = await self._end_backends(run, step, target)
        await self._journal.record(run.id, "interrupted", step=step.name, attempt=last.attempt, message=trouble or note)
        await self._close(run, last, AttemptState.UNKNOWN, trouble or note)
        if trouble or step.on_crash is OnCrash.ASK:
            await self._ask(run, step, trouble or note)
        elif wanted(run, step):
            await self._begin(run, step, target)

    async def _settle(self, run: Run, step: Step, last: Attempt, target: TargetParts, *, asked: bool) -> bool:
        """Ask the world about an attempt whose end nobody saw. True when that settled it (or a person has to)."""
        happened, summary, facts = await self._probe(run, step, last, target)
        if asked and happened is not Happened.YES:
            return False  # a person has seen the evidence and wants another attempt
        await self._journal.record(run.id, "interrupted", step=step.name, attempt=last.attempt, message=f"interrupted; {summary}")
        if happened is Happened.YES:
            if asked:
                await self._begin(run, step, target)  # finds it done, executes nothing, and says so
            else:
                await self._close(run, last, AttemptState.DONE, f"{summary} (found after an interruption)", facts)
        elif happened is Happened.NO:
            await self._close(run, last, AttemptState.FAILED, f"interrupted; {summary}", facts)
            if wanted(run, step):
                await self._begin(run, step, target)
        else:
            await self._close(run, last, AttemptState.UNKNOWN, f"interrupted; {summary}", facts)
            await self._ask(run, step, summary)
        return True

    async def _probe(self, run: Run, step: Step, last: Attempt, target: TargetParts) -> tuple[Happened, str, dict[str, object]]:
        if trouble := await self._end_backends(run, step, target):
            return Happened.UNKNOWN, trouble, {}
        if step.probe is None:
            return Happened.UNKNOWN, "this step has no probe", {}
        try:
            probed = await step.probe(await self._world(run, step, last.attempt, target), last)
        except BackoutError as error:
            return Happened.UNKNOWN, f"the database could not be asked: {error}", {}
        return probed.happened, probed.summary, dict(probed.facts)

    async def _end_backends(self, run: Run, step: Step, target: TargetParts) -> str | None:
        """Every backend of former attempts is ended and seen gone, before any probe or retry. What went wrong, else None."""
        for former in (a for a in run.attempts if a.step == step.name):
            try:
                await target.database.end_sessions(durable.application(run.id, step.name, former.attempt))
            except BackoutError as error:
                if step.restarts and under_way(run):
                    return None  # they went with their server
                return f"sessions of attempt {former.attempt} could not be ended: {error}"
        return None

    # ------------------------------------------------------------------ one attempt

    async def _begin(self, run: Run, step: Step, target: TargetParts) -> None:
        if trouble := await self._end_backends(run, step, target):
            await self._ask(run, step, trouble)
            return
        attempt = await self._attempt(run, step, target)
        if attempt is not None and attempt.state is not AttemptState.DONE:
            fresh = await self._journal.run(run.id)
            if attempt.state is AttemptState.UNKNOWN or sum(a.step == step.name for a in fresh.current) > step.retries:
                await self._ask(fresh, step, attempt.summary)

    async def _attempt(self, run: Run, step: Step, target: TargetParts) -> Attempt | None:
        """Intent, effect, outcome; None when the plan changed, so that people are asked anew."""
        attempt = await self._journal.intend(run.id, step.name)
        await self._chat.changed(run.id)
        try:
            state, summary, facts = await self._unless_stopped(self._wanted_body(run, step, attempt, target))
        except PlanChanged as changed:
            await self._close(run, attempt, AttemptState.FAILED, f"the plan changed: {changed}", {"changed": True})
            await self._plan_changed(run.id, changed, target)
            return None
        if step.replaces:
            await self.release(run.id)
        return await self._close(run, attempt, state, summary, facts)

    async def _plan_changed(self, run_id: str, changed: PlanChanged, target: TargetParts) -> None:
        """People are asked anew, and nobody waits for them behind a closed door."""
        run = await self._journal.run(run_id)
        if run.ending is not None:
            return
        if stopped(run):
            await self._begin(run, STEPS["start_writers"], target)
            run = await self._journal.run(run_id)
            last = run.last_attempt("start_writers")
            if last is None or last.state is not AttemptState.DONE:
                return
        await self._void(run, changed)

    async def _unless_stopped(self, body: Coroutine[Any, Any, Ended]) -> Ended:
        """A body that `stop` cancels has no outcome: the next start finds the intent and follows the step's promise."""
        task = asyncio.create_task(body)
        self._bodies.add(task)
        try:
            await asyncio.wait({task})
        finally:
            self._bodies.discard(task)
            task.cancel()
        if task.cancelled():
            await asyncio.Event().wait()
        return task.result()

    async def _wanted_body(self, run: Run, step: Step, attempt: Attempt, target: TargetParts) -> Ended:
        """A rehearsal is given up as soon as its run was cancelled, wherever that was pressed."""
        if run.state is not State.REHEARSING:
            return await self._body(run, step, attempt, target)
        body = asyncio.create_task(self._body(run, step, attempt, target))
        try:
            while not body.done():
                await asyncio.wait({body}, timeout=_LOOK)
                if not body.done() and (await self._journal.run(run.id)).state is not State.REHEARSING:
                    return AttemptState.FAILED, "given up, since the run was cancelled", {}
            return body.result()
        finally:
            body.cancel()
            await asyncio.wait({body})

    async def stop(self) -> None:
        """The process leaves: cancel what runs, so that its work is ended where it works; then give back the fences."""
        bodies = set(self._bodies)
        for task in bodies:
            task.cancel()
        if bodies:
            await asyncio.wait(bodies, timeout=10)
        for run in [*self._fences, *self._ahead]:
            await self.release(run)

    async def _body(self, run: Run, step: Step, attempt: Attempt, target: TargetParts) -> Ended:
        unknown = AttemptState.UNKNOWN if step.destructive else AttemptState.FAILED
        try:
            async with asyncio.timeout(step.timeout.total_seconds()):
                await self._prove_or_wait(run, step, target)
                done: Evidence = await step.body(await self._world(run, step, attempt.attempt, target))
        except PlanChanged:
            raise
        except OutcomeUnknown as error:
            return unknown, error.message, error.facts
        except StepFailed as error:
            return AttemptState.FAILED, error.message, error.facts
        except Refusal as error:
            return (
                AttemptState.FAILED,
                f"{error.message} {error.next}",
                {"code": error.code, "message": error.message, "next": error.next, **error.facts},
            )
        except FenceLost as error:
            await self.release(run.id)
            return AttemptState.FAILED, f"{error} Nothing was executed in this step", {}
        except TimeoutError:
            return unknown, f"not done within {step.timeout}; its sessions are ended before anything else is tried", {}
        except Exception as error:  # whatever it is, it becomes the attempt's outcome and a person is asked
            log.exception("step %s of %s", step.name, run.id)
            return unknown, f"an error inside Backout: {type(error).__name__}", {}
        return AttemptState.DONE, done.summary, dict(done.facts)

    async def _prove_or_wait(self, run: Run, step: Step, target: TargetParts) -> None:
        """While the server is away for this very step, the step itself sees it come back, and the fence is taken anew after it."""
        try:
            await self._prove(run, target)
        except (Refusal, FenceLost):
            if not (step.restarts and under_way(run)):
                raise
            await self.release(run.id)

    async def _prove(self, run: Run, target: TargetParts) -> None:
        """Same server, same timeline, our lock still held: before every step."""
        held = self._fences.get(run.id)
        if held is None:
            stack = AsyncExitStack()
            held = (stack, await stack.enter_async_context(target.database.fence(target.name)))
            self._fences[run.id] = held
        now = await held[1].prove()
        if run.plan and (now.system, now.timeline) != (run.plan.identity.system, run.plan.identity.timeline):
            raise FenceLost("The server failed over, or another one stands at its address, since the plan was made.")

    async def _world(self, run: Run, step: Step, attempt: int, target: TargetParts) -> World:
        plan = run.plan
        if plan is None:
            raise TransitionRefused(f"{run.id} has no plan")

        async def replan() -> Plan:
            return await self._replan(run)

        async def counted_again() -> None:
            if what := await hold.still(plan, world.target.database):
                raise PlanChanged(await replan(), what)

        async def replanned() -> None:
            await replan()

        async def changed() -> None:
            await self._chat.changed(run.id)

        async def address() -> Connect:
            return await self._addresses.of(run.id)

        world = World(
            target=target,
            plan=plan,
            run=run.id,
            step=step.name,
            attempt=attempt,
            earlier={a.step: a for a in run.current if a.state is AttemptState.DONE},
            former=tuple(a for a in run.current if a.step == step.name and a.attempt < attempt),
            journal=self._journal,
            clock=self._clock,
            web=self._web,
            replan=replanned,
            verification=verify.verification,
            health=verify.health_checks,
            health_now=verify.health_now,
            counted_again=counted_again,
            rehearsal=partial(rehearse.rehearse, ahead=self._ahead.get(run.id)),
            copy_tried=copies.copy_tried,
            instant_tried=provider_copies.instant_tried,
            address=address,
            tables_tried=try_tables.tables_tried,
            stamp_tried=try_stamp.stamp_tried,
            changed=changed,
            rehearsing=run.state is State.REHEARSING,
            leaving=run.ending is not None,
            stopped=noted(run),
        )
        connect = await target.platform.entrance(world) if stopped(run) and step.name != "start_writers" else None
        if connect is not None:
            database, tool = target.enter(connect)
            world.target = replace(target, database=database, tool=tool)
        return world

    async def _close(self, run: Run, attempt: Attempt, state: AttemptState, summary: str, facts: dict[str, object] | None = None) -> Attempt:
        """Record the outcome; cancellation may not interrupt it, and a journal that is away is waited for: what ran must be known."""
        ended = attempt.model_copy(update={"state": state, "ended": self._clock.now(), "summary": summary, "facts": facts or {}})
        await asyncio.shield(self._record(run.id, ended))
        await self._chat.changed(run.id)
        return ended

    async def _record(self, run: str, ended: Attempt) -> None:
        while True:
            try:
                await self._journal.outcome(run, ended)
            except JournalDown:
                log.warning("the journal is away; the outcome of %s of %s waits", ended.step, run)
                await asyncio.sleep(1)
            else:
                return

    async def _ask(self, run: Run, step: Step, why: str) -> None:
        await self._journal.move(
            run.id, State.NEEDS_DECISION, "decision_needed", step=step.name, why=why, options=decisions(run), ways=await self._ways(run)
        )
        await self._chat.changed(run.id)
        await self._gave_up(await self._journal.run(run.id))
