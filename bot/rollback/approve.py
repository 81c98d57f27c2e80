"""Who may do what to a run: asked at click time, denied by default, journaled either way; and who is asked next when nobody answers."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

from bot import policy
from bot.errors import Denied, Refusal
from bot.evidence import LossClass
from bot.model import ENDS, Need, Person, Plan, Request, Run, SeatView, Severity, State
from bot.ports import Clock, Directory, Journal


class Authority:
    """Roles, seats, the ladder. `ladder` in the order in which it is climbed."""

    def __init__(
        self,
        journal: Journal,
        directory: Directory,
        clock: Clock,
        *,
        rules: Mapping[Severity, policy.Rule],
        loss: Mapping[LossClass, Mapping[str, int]],
        unrehearsed: Mapping[str, int],
        titles: Mapping[str, str],
        ladder: Sequence[str],
        failed_attempts: int | None,
        down: dt.timedelta | None,
        rehearsers: Sequence[str] = (),
        rehearse_every: dt.timedelta | None = None,
    ) -> None:
        self._journal, self._directory, self._clock = journal, directory, clock
        self._rules, self._loss, self.titles, self._ladder = rules, loss, dict(titles), tuple(ladder)
        self._unrehearsed = unrehearsed
        self._rehearsers, self._rehearse_every = tuple(rehearsers), rehearse_every
        self.failed_attempts, self.down = failed_attempts, down

    def need(self, request: Request, plan: Plan) -> Need:
        """Raises Refusal(no_policy_for_severity)."""
        tried = plan.rehearsal
        unrehearsed = tried is not None and (not tried.done or tried.sampled is not None)  # a sample proves no loss
        return policy.need(request.severity, plan.loss_class, self._rules, self._loss, self._unrehearsed if unrehearsed else {})

    def asks(self, severity: Severity) -> None:
        """Raises Refusal(no_policy_for_severity) before anything is planned."""
        policy.need(severity, LossClass.NONE, self._rules, self._loss)

    async def may_rehearse(self, request: Request) -> dt.datetime:
        """Since when that person must not have begun another rehearsal (databases.md F3). Raises Refusal(may_not_rehearse)."""
        if self._rehearsers and not await self._held(request.by, self._rehearsers):
            named = ", ".join(self.titles.get(role, role) for role in self._rehearsers)
            raise Refusal(
                "may_not_rehearse", f"A rehearsal copies the whole database, and only these may begin one: {named}. You don't hold such a role now.",
                "Ask one of them to type the command.",
            )  # fmt: skip
        return self._clock.now() - (self._rehearse_every or dt.timedelta())

    # ------------------------------------------------------------------ at click time

    async def approve(self, run: Run, digest: str, by: Person) -> bool:
        """Fill a seat. True when it was the last one. Raises Denied."""
        self._standing(run, State.AWAITING_APPROVAL, "approve", digest)
        if run.plan is None:
            raise Denied("There is no plan to approve yet.")
        held = await self._held(by, self._roles(run))
        role = policy.open_seat(
            run.seats,
            by.id,
            held,
            requester=run.request.by.id,
            self_approval=self.need(run.request, run.plan).self_approval,
            escalated=frozenset(run.escalated),
            titles=self.titles,
        )
        if not await self._journal.seat(run.id, digest, role, by.id):
            raise Denied("That seat was filled, or the plan changed, in the same moment. Look at the card again.")
        return all(seat.by for seat in (await self._journal.run(run.id)).seats)

    async def withdraw(self, run: Run, by: Person) -> None:
        self._standing(run, State.AWAITING_APPROVAL, "withdraw")
        if not await self._journal.unseat(run.id, by.id):
            raise Denied("You have no approval here that could still be withdrawn.")

    async def reject(self, run: Run, digest: str, by: Person) -> None:
        self._standing(run, State.AWAITING_APPROVAL, "reject", digest)
        await self._must_hold(run, by, "reject it")

    async def cancel(self, run: Run, by: Person) -> None:
        if run.state in ENDS:
            raise Denied(f"This rollback has ended: {run.state}. Nothing is left to cancel.")
        if run.state is State.NEEDS_DECISION:
            raise Denied("A step failed, so cancelling is not enough: Leave ends the run as it stands and starts the writers.")
        if by.id != run.request.by.id:
            await self._must_hold(run, by, "cancel it")

    async def enter(self, run: Run, by: Person) -> None:
        """Where a provider recovered it."""
        self._standing(run, State.REHEARSING, "enter")
        if by.id != run.request.by.id:
            await self._must_hold(run, by, "enter it")

    async def decide(self, run: Run, by: Person) -> None:
        self._standing(run, State.NEEDS_DECISION, "decide about")
        await self._must_hold(run, by, "decide")

    def _standing(self, run: Run, wanted: State, verb: str, digest: str | None = None) -> None:
        if run.state is not wanted:
            raise Denied(f"This rollback is {run.state.replace('_', ' ')} now; there is nothing to {verb}.")
        if digest is not None and digest != run.digest:
            raise Denied("That card is old: the plan changed since. Look at the newest card and press there.")

    async def _must_hold(self, run: Run, by: Person, verb: str) -> None:
        roles = self._roles(run)
        if not policy.may_decide(await self._held(by, roles), frozenset(roles)):
            named = ", ".join(self.titles.get(role, role) for role in roles)
            raise Denied(f"Only a holder of one of its roles may {verb}: {named}. You don't hold one now.")

    def _roles(self, run: Run) -> tuple[str, ...]:
        """The roles of this run's policy: its seats', and the rungs that were asked. Before there are seats: those of its severity."""
        seats = [seat.role for seat in run.seats]
        if not seats:
            seats = list(policy.need(run.request.severity, LossClass.NONE, self._rules, self._loss).roles)
        return tuple(dict.fromkeys([*seats, *run.escalated]))

    async def _held(self, by: Person, roles: Sequence[str]) -> frozenset[str]:
        return frozenset([role for role in roles if by.id in await self._directory.holders(role)])

    # ------------------------------------------------------------------ asking, and asking the next

    async def ask(self, run: Run) -> None:
        """The seats are open: mention who could fill them, and set the alarm."""
        if run.plan is None:
            return
        need = self.need(run.request, run.plan)
        people = sorted({user for role in need.roles for user in await self._directory.holders(role)})
        await self._journal.ask(run.id, self._clock.now() + need.within, roles=list(need.roles), people=people)

    async def overdue(self, run: Run) -> bool:
        """Nobody answered in time: ask the next rung. False when the ladder has ended, so that the run expires."""
        if run.plan is None:
            return False
        due = self._clock.now() + self.need(run.request, run.plan).within
        return await self.escalate(run, "nobody filled the open seats in time", due=due) is not None

    async def escalate(self, run: Run, why: str, *, due: dt.datetime | None = None) -> str | None:
        """Ask the next rung that is not asked yet, by name. None when there is none."""
        asked = {seat.role for seat in run.seats} | set(run.escalated)
        for role in self._ladder:
            if role in asked:
                continue
            people = sorted(await self._directory.holders(role))
            await self._journal.escalate(run.id, role, due=due, people=people, why=why)
            return role
        return None

    async def too_many_failures(self, run: Run) -> None:
        """After so many failed attempts the next rung is asked without anybody pressing a button."""
        rehearsal = {planned.name for planned in run.plan.rehearse} if run.plan else set()
        failed = sum(a.state in ("failed", "unknown") and a.step not in rehearsal and not a.facts.get("changed") for a in run.current)
        if self.failed_attempts and failed >= self.failed_attempts:
            await self.escalate(run, f"{failed} attempts failed")

    async def warnings(self) -> tuple[Refusal, ...]:
        """Roles that nobody could fill now."""
        found = []
        for role, title in self.titles.items():
            if not await self._directory.holders(role):
                found.append(
                    Refusal(
                        "role_without_people",
                        f"Nobody can be found for {title} ({role}) without asking Slack.",
                        f"Name at least one of roles.{role}.users, for the hour when Slack is down.",
                        warning=True,
                    )
                )
        return tuple(found)

    async def seats(self, run: Run) -> tuple[SeatView, ...]:
        """The run's seats with who could fill them, as known a minute ago at most."""
        rungs = [user for role in run.escalated for user in await self._directory.holders(role, fresh=False)]
        shown = []
        for seat in run.seats:
            holders = [*sorted(await self._directory.holders(seat.role, fresh=False)), *([] if seat.by else rungs)]
            shown.append(SeatView(role=seat.role, title=self.titles.get(seat.role, seat.role), by=seat.by, holders=tuple(dict.fromkeys(holders))))
        return tuple(shown)
