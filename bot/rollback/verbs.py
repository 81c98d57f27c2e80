"""What people may ask of the product: the verbs of channel and command line, who may, and what is journaled of it."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from bot.durable import TargetParts
from bot.errors import Denied, Refusal, StepFailed, TransitionRefused
from bot.evidence import Duty, Listed
from bot.model import ENDS, OPEN, Alarm, AttemptState, Person, Plan, Request, Run, State, View
from bot.place import Connect, Right
from bot.ports import Chat, Clock, Engine, Journal
from bot.rollback import addresses, plan_copies, report, views
from bot.rollback import plan as planning
from bot.rollback.approve import Authority
from bot.rollback.listing import listed
from bot.rollback.position import stopped
from bot.strategy import Strategy

_ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"  # nothing that is read for something else at 3 a.m.
_BAD = frozenset({AttemptState.FAILED, AttemptState.UNKNOWN})


class Verbs:
    """asking.Rollbacks; the other half, which the engine calls, is in flow.py."""

    def __init__(
        self, targets: Mapping[str, TargetParts], journal: Journal, engine: Engine, chat: Chat, authority: Authority, clock: Clock, *, command: str
    ) -> None:
        self.targets, self._journal, self._engine, self._chat = targets, journal, engine, chat
        self._authority, self._clock, self._command = authority, clock, command
        self._addresses = addresses.Addresses()

    # ------------------------------------------------------------------ what people ask for

    async def request(self, request: Request) -> Run:
        target = self._target(request.target)
        if request.channel is not None and request.channel not in target.channels:
            raise Refusal("not_in_this_channel", f"{target.name} is not rolled back from this channel.", "Ask in the target's own channel.")
        self._authority.asks(request.severity)
        run = await self._journal.create("r" + "".join(secrets.choice(_ALPHABET) for _ in range(6)), request)
        if self._authority.down is not None:
            await self._journal.set_alarm(Alarm(run=run.id, kind="down", due=run.created + self._authority.down))
        await self._engine.start(run.id, target.name)
        await self._chat.changed(run.id)
        return run

    async def preview(self, target: str, rev: str, strategy: Strategy = "downgrade") -> Plan:
        parts = self._target(target)
        for other in await self._journal.find(target=target, states=sorted(OPEN), limit=1):
            raise Refusal(
                "run_in_progress", f"{target} has an open run: {other.id} is {other.state}.", f"Look at it with {self._command} status {other.id}."
            )
        return await planning.make(parts, rev, self._journal, strategy=strategy, command=self._command)

    async def approve(self, run: str, digest: str, by: Person) -> None:
        now = await self._journal.run(run)
        await self._attempt(now, by, "approve", self._authority.approve(now, digest, by))
        await self._wake(run)

    async def withdraw(self, run: str, by: Person) -> None:
        now = await self._journal.run(run)
        await self._attempt(now, by, "withdraw", self._authority.withdraw(now, by))
        await self._wake(run)

    async def may_reject(self, run: str, digest: str, by: Person) -> None:
        now = await self._journal.run(run)
        await self._attempt(now, by, "reject", self._authority.reject(now, digest, by))

    async def reject(self, run: str, digest: str, by: Person, reason: str) -> None:
        now = await self._journal.run(run)
        await self._attempt(now, by, "reject", self._reject(now, digest, by, reason))

    async def _reject(self, run: Run, digest: str, by: Person, reason: str) -> None:
        await self._authority.reject(run, digest, by)
        await self._end_before_start(run, by, State.REJECTED, "rejected", {"by": by.id, "reason": reason})

    async def cancel(self, run: str, by: Person) -> None:
        now = await self._journal.run(run)
        await self._attempt(now, by, "cancel", self._cancel(now, by))

    async def _cancel(self, run: Run, by: Person) -> None:
        await self._authority.cancel(run, by)
        if run.state is State.RUNNING:
            if not await self._journal.head_for(run.id, State.ABORTED, "cancel_requested", by=by.id):
                raise Denied("It is ending already.")
            await self._wake(run.id)
        else:
            await self._end_before_start(run, by, State.ABORTED, "cancel_requested", {"by": by.id})

    async def decide(self, run: str, decision: str, by: Person) -> None:
        now = await self._journal.run(run)
        await self._attempt(now, by, decision, self._decide(now, decision, by))
        await self._wake(run)

    async def _decide(self, run: Run, decision: str, by: Person) -> None:
        await self._authority.decide(run, by)
        if decision == "escalate":
            if await self._authority.escalate(run, f"{by.id} asked for help") is None:
                raise Denied("There is nobody left to ask: everybody on the ladder was asked, or escalation.ladder is empty.")
        elif decision in ("retry", "leave") or (decision == "restore" and plan_copies.way_back(run) is not None):
            if not await self._journal.decide(run.id, decision, by.id):
                raise Denied("Somebody else decided in the same moment. Look at the card again.")
        else:
            raise Refusal("not_offered", f"{decision} is not offered for this run.", "The thread has the commands that restore the backup by hand.")

    async def end_sessions(self, run: str, by: Person) -> None:
        now = await self._journal.run(run)
        await self._attempt(now, by, "end_sessions", self._authority.decide(now, by))
        database = self._target(now.target).database
        last = next((each for each in reversed(now.current) if each.state in _BAD), None)
        try:
            there = await (database.strangers() if last and "strangers" in last.facts else database.holders(now.plan.tables if now.plan else ()))
            ended = await database.end([each for each in there if each.pid])
        except StepFailed as error:
            raise Denied(f"They could not all be ended: {error.message}") from error
        told = [{"pid": one.pid, "user": one.user, "query": one.query[:200]} for one in ended]
        await self._journal.record(run, "sessions_ended", by=by.id, sessions=told)
        await self._chat.changed(run)

    async def may_enter(self, run: str, by: Person) -> None:
        now = await self._journal.run(run)
        await self._attempt(now, by, "address", self._authority.enter(now, by))
        if addresses.wanted(now) is None:
            raise Denied("This run does not wait for an address now.")

    async def enter(self, run: str, address: str, by: Person) -> None:
        now = await self._journal.run(run)
        await self._attempt(now, by, "address", self._authority.enter(now, by))
        if now.plan is None or not await self._addresses.expected(run):
            raise _nobody_waits(await self._journal.run(run))
        try:
            where = addresses.parsed(address)
            await addresses.examined(self._target(now.target), now.plan, where)
        except (Refusal, StepFailed) as error:  # the journal gets the code alone: the words may hold parts of the address
            await self._journal.record(run, "address_refused", by=by.id, code=error.code if isinstance(error, Refusal) else "address_unfit")
            raise error if isinstance(error, Refusal) else _not_read(error, where) from None
        now = await self._journal.run(run)
        await self._attempt(now, by, "address", self._authority.enter(now, by))
        if last := now.last_attempt(addresses.STEP):
            await self._journal.remember(run, last.step, last.attempt, {addresses.FACT: None})
        if not self._addresses.give(run, where):
            raise Denied("Somebody else entered an address in the same moment, or the run ended.")
        await self._journal.record(run, "address_entered", by=by.id)
        await self._chat.changed(run)

    async def note(self, run: str, text: str, by: Person) -> None:
        await self._journal.record(run, "note", by=by.id, text=text, at=self._clock.now().isoformat())
        await self._chat.changed(run)

    async def tick(self, run: str, items: Sequence[str], by: Person) -> None:
        if (await self._journal.run(run)).state not in ENDS:
            await self._journal.record(run, "ticked", by=by.id, items=list(items))
            await self._chat.changed(run)

    async def _attempt(self, run: Run, by: Person, action: str, permitted: Awaitable[Any]) -> None:
        """Refusals are private to the one who pressed, and journaled."""
        try:
            await permitted
        except Denied as denied:
            await self._journal.record(run.id, "denied", by=by.id, action=action, why=str(denied))
            raise

    async def _end_unstarted(self, run: Run, end: State, kind: str, **data: Any) -> None:
        """Before its first step there is nothing to undo. A plan that is asked for behind stopped writers ends with their start."""
        if not stopped(run):
            await self._journal.move(run.id, end, kind, **data)
        elif not await self._journal.turn(run.id, end, kind, **data):
            raise TransitionRefused(f"{run.id} went on in the same moment")

    async def _end_before_start(self, run: Run, by: Person, end: State, kind: str, data: Mapping[str, Any]) -> None:
        try:
            await self._end_unstarted(run, end, kind, **data)
        except TransitionRefused:
            if end is State.ABORTED:
                await self._cancel(await self._journal.run(run.id), by)  # it began in the same moment: cancel it between its steps
                return
            raise Denied("The run went on in the same moment. Look at the card again.") from None
        await self._wake(run.id)

    async def _wake(self, run: str) -> None:
        seq = (await self._journal.run(run)).seq
        await self._engine.signal(run, f"seq:{seq}")
        await self._chat.changed(run)

    # ------------------------------------------------------------------ what people look at

    async def view(self, run: str) -> View:
        return await self._view(await self._journal.run(run))

    async def _view(self, run: Run) -> View:
        return await views.view(run, self.targets.get(run.target), self._journal, self._authority, self._clock)

    async def newest(self, *, channel: str | None = None, target: str | None = None) -> str | None:
        for states in (sorted(OPEN), None):
            for run in await self._journal.find(channel=channel, target=target, states=states, limit=1):
                return run.id
        return None

    async def history(self, target: str, limit: int = 20) -> tuple[Run, ...]:
        return await self._journal.find(target=self._target(target).name, limit=limit)

    async def backups(self, target: str) -> tuple[Listed, ...]:
        return await listed(self._target(target), self._journal)

    async def check(self, target: str) -> tuple[Refusal, ...]:
        """Could a rollback of the newest migration run right now? What is in the way, first; then warnings."""
        found = []
        try:
            await self.preview(target, "-1")
        except Refusal as refusal:
            found.append(refusal)
        if target in self.targets:
            found += self.targets[target].rehearsal.warnings
        return (*found, *await self._authority.warnings())

    async def duties(self, target: str) -> tuple[Duty, ...]:
        return await self._journal.duties(self._target(target).name)

    async def rights(self, target: str) -> tuple[Right, ...]:
        return await self._target(target).database.rights()

    async def report(self, run: str) -> str:
        return report.markdown(await self.view(run))

    def _target(self, name: str) -> TargetParts:
        if name not in self.targets:
            raise Refusal("unknown_target", f"There is no target {name[:40]!r}.", f"Known: {', '.join(sorted(self.targets))}.")
        return self.targets[name]


def _nobody_waits(run: Run) -> Denied | Refusal:
    if addresses.wanted(run) is None:
        return Denied("This run does not wait for an address now.")
    return Refusal(
        "address_elsewhere", "Another process carries this run, and an address is never written down where both could read it.",
        "Enter it on the card, or at the command line where that process runs.",
    )  # fmt: skip


def _not_read(error: StepFailed, where: Connect) -> Refusal:
    return Refusal("address_unfit", f"That server can't be read: {addresses.concealed(error.message, where)}", "Mend that, then enter it again.")
