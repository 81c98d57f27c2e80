"""What the Slack half is tested with: a run in memory behind the ports, and views of it."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from bot.clock import SystemClock
from bot.errors import Denied, JournalDown, Refusal
from bot.evidence import Archive, BackupFile, Duty, Listed, Locked, Loss, LossClass, Part, Ran, Rehearsal
from bot.model import (
    Attempt,
    AttemptState,
    Delivery,
    Event,
    Option,
    Person,
    Plan,
    PlanStep,
    Request,
    Run,
    Seat,
    SeatView,
    Severity,
    State,
    StepView,
    Undone,
    View,
)
from bot.place import Identity, Right
from bot.steps import STEPS

NOON = dt.datetime(2026, 11, 20, 3, 0, tzinfo=dt.UTC)
DIGEST = "d" * 64
CHANNEL = "C0INCIDENT"
STEPS_OF = {
    "downgrade": ("check_preconditions", "restore_point", "archive", "downgrade", "verify", "start_writers"),
    "reapply": ("check_preconditions", "restore_point", "upgrade", "put_back", "verify", "start_writers"),
}
SCORE = Loss(
    kind="column", name="public.orders.score", revision="0005", count=1204, of=3_000_000, bytes=9632, newest="2026-11-19 22:10:07+00",
    keys=("id=17", "id=18", "id=19"),
)  # fmt: skip


def rehearsal(**changes: Any) -> Rehearsal:
    """The shop's, three minutes ago: the column with its values, two statements, one lock."""
    made = Rehearsal(
        done=True, server="a throwaway server, PostgreSQL 18", size=41_000_000,
        seconds={"back_up": 2.0, "restore": 4.1, "move": 3.1, "back again": 2.2},
        statements=(
            Ran(sql="DROP INDEX ix_orders_created", ms=4.0, revision="0006", lock="AccessExclusiveLock", table="public.orders", held=3100.0),
            Ran(sql="ALTER TABLE orders DROP COLUMN score", ms=3.2, revision="0005", lock="AccessExclusiveLock", table="public.orders", held=200.0),
        ),
        statements_total=2, one_transaction=True,
        locks=(Locked(table="public.orders", mode="AccessExclusiveLock", held=200.0, bytes=1_200_000_000, rows=3_000_000),),
        loss=(SCORE,), expected="same", forward="works",
        backup=BackupFile(name="shop-r7k2-rehearsed.dump", path="/backups/shop-r7k2-rehearsed.dump", sha256="c" * 64, size=41_000_000),
    )  # fmt: skip
    return made.model_copy(update=changes)


def proven(found: Rehearsal | None = None, **changes: Any) -> Plan:
    """The plan with its evidence: what people are asked about."""
    found = found or rehearsal()
    options = (
        Option(
            name="downgrade", loses="1204 values of public.orders.score", seconds=5.1, certain="tried on a copy", recommended=True,
            why="it worked on a copy, and what it destroys is archived first and can be put back",
        ),
        Option(name="restore", loses="everything since", certain="-", possible=False, why="Backout knows no backup from when it stood at 0004"),
        Option(name="fix forward", loses="nothing", certain="as good as the fix", why="the migration stays; a new one mends it"),
    )  # fmt: skip
    known: dict[str, Any] = {"rehearse": (PlanStep(name="back_up"), PlanStep(name="rehearse")), "rehearsal": found, "loss": found.loss}
    return plan(**{**known, "options": options, **changes})


def reapply(**changes: Any) -> Plan:
    found = rehearsal(loss=(), forward="not tried", put_back=("0 rows and 1204 values are back",))
    undone = (Undone(revision="0005", message="add orders.score", date="2026-11-18", sha256="b"),)
    known: dict[str, Any] = {
        "strategy": "reapply", "from_": "0004", "to": "0005", "undone": undone, "archive": "r7k2", "loss_class": LossClass.NONE, "options": (),
        "foreseen": (), "steps": tuple(PlanStep(name=name) for name in STEPS_OF["reapply"]),
    }  # fmt: skip
    return proven(found, **{**known, **changes})


def archive() -> Archive:
    part = Part(
        table="public.orders", what="column", key=("id",), columns=("id", "score"), types=("integer", "integer"), rows=1204, bytes=9632,
        sha256="e" * 64, member="0.copy",
    )  # fmt: skip
    file = BackupFile(name="shop-r7k2.archive", path="/backups/shop-r7k2.archive", sha256="a" * 64, size=4096, format="archive")
    return Archive(run="r7k2", target="shop", lower="0004", upper="0006", file=file, parts=(part,))


def plan(**changes: Any) -> Plan:
    identity = Identity(system="7", timeline=1, oid=16384, database="shop", version=170000, started="2026-11-01")
    made = Plan(
        target="shop", from_="0006", to="0004",
        undone=(
            Undone(revision="0006", message="add index on orders", date="2026-11-19", sha256="a"),
            Undone(revision="0005", message="add orders.score", date="2026-11-18", sha256="b"),
        ),
        steps=tuple(PlanStep(name=name) for name in STEPS_OF["downgrade"]),
        foreseen=(Loss(kind="column", name="orders.score", revision="0005"),),
        rehearsal=Rehearsal(done=False, why="it has 40.0 GB, more than rehearsal.max_size (20.0 GB)"),
        loss=(Loss(kind="column", name="orders.score", revision="0005"),), loss_class=LossClass.MEDIUM, identity=identity,
    )  # fmt: skip
    return made.model_copy(update=changes)


def run(state: State = State.AWAITING_APPROVAL, **changes: Any) -> Run:
    request = Request(
        target="shop", rev="0004", reason="orders fail since 02:40", severity=Severity.HIGH, by=Person(id="U0ANNA", team="T0LOCAL"),
        channel=CHANNEL,
    )  # fmt: skip
    made = Run(id="r7k2", target="shop", state=state, request=request, plan=plan(), digest=DIGEST, seats=(Seat(role="dba"),), seq=3, created=NOON)
    return made.model_copy(update=changes)


def view(state: State = State.AWAITING_APPROVAL, *, events: Sequence[tuple[str, dict[str, Any]]] = (), **changes: Any) -> View:
    of_run = {key: changes.pop(key) for key in list(changes) if key in Run.model_fields and key not in View.model_fields}
    kept = tuple(Event(seq=seq, at=NOON, kind=kind, data=data) for seq, (kind, data) in enumerate(events, 1))
    made = View(
        run=run(state, seq=len(kept) or 3, **of_run), events=kept,
        seats=(SeatView(role="dba", title="DBA on call", holders=("U0DBA",)),),
        steps=steps(),
        until=NOON + dt.timedelta(hours=1), titles={"dba": "DBA on call"}, questions=("Is a fix forward faster?",),
        checklist=("Support knows",), now=NOON + dt.timedelta(minutes=7),
    )  # fmt: skip
    return made.model_copy(update=changes)


def steps(strategy: str = "downgrade", **states: str) -> tuple[StepView, ...]:
    """The planned steps, waiting but for those that are named."""
    return tuple(StepView(name=name, says=STEPS[name].says, state=states.get(name, "waiting")) for name in STEPS_OF[strategy])


def attempt(step: str, state: AttemptState, facts: dict[str, Any]) -> Attempt:
    return Attempt(step=step, attempt=1, state=state, executor="x", began=NOON, ended=NOON + dt.timedelta(seconds=12), facts=facts)


class MemoryJournal:
    """The methods of ports.Journal that Slack's half uses."""

    def __init__(self) -> None:
        self.view: View | None = None
        self.sent: dict[str, Delivery] = {}
        self.stored: dict[str, tuple[str, Mapping[str, Any] | None]] = {}
        self.recorded: list[tuple[str, str, dict[str, Any]]] = []
        self.down = False
        self.slow = asyncio.Event()
        self.slow.set()

    def _up(self) -> None:
        if self.down:
            raise JournalDown("the journal can't be reached")

    async def run(self, name: str) -> Run:
        self._up()
        if self.view is None or self.view.run.id != name:
            raise Refusal("unknown_run", f"There is no run {name}.", "List them.")
        return self.view.run

    async def find(self, **_: Any) -> tuple[Run, ...]:
        return (self.view.run,) if self.view else ()

    async def record(self, name: str, kind: str, **data: Any) -> Event:
        self.recorded.append((name, kind, data))
        return Event(seq=1, at=NOON, kind=kind, data=data)

    async def deliveries(self, _: str) -> Mapping[str, Delivery]:
        self._up()
        return dict(self.sent)

    async def deliver(self, _: str, key: str, delivery: Delivery) -> None:
        self._up()
        self.sent[key] = delivery

    async def archives(self, _: str) -> tuple[tuple[Archive, dt.datetime], ...]:
        return ((archive(), NOON + dt.timedelta(days=1)),)

    async def run_of_thread(self, channel: str, ts: str) -> str | None:
        card = self.sent.get("card")
        return self.view.run.id if self.view and card and (card.channel, card.ts) == (channel, ts) else None

    async def undelivered(self) -> tuple[str, ...]:
        self._up()
        done = int(self.sent["seq"].content) if "seq" in self.sent else 0
        return (self.view.run.id,) if self.view and done < self.view.run.seq else ()

    async def accept(self, key: str, kind: str, payload: Mapping[str, Any]) -> bool:
        self._up()
        await self.slow.wait()
        if key in self.stored:
            return False
        self.stored[key] = (kind, payload)
        return True

    async def pending(self) -> tuple[tuple[str, str, Mapping[str, Any]], ...]:
        self._up()
        came = SystemClock().now().isoformat()
        return tuple((key, kind, {**body, "_came": came}) for key, (kind, body) in self.stored.items() if body is not None)

    async def done(self, key: str) -> None:
        self._up()
        if key in self.stored:
            self.stored[key] = (self.stored[key][0], None)

    @property
    def open(self) -> list[str]:
        return [key for key, (_, body) in self.stored.items() if body is not None]


class ToldRollbacks:
    """ports.Rollbacks that remembers what it was told, and shows the journal's view."""

    def __init__(self, journal: MemoryJournal) -> None:
        self._journal = journal
        self.told: list[tuple[Any, ...]] = []
        self.denies: str | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def _tell(self, *what: Any) -> None:
        await self.gate.wait()
        self.told.append(what)
        if self.denies:
            raise Denied(self.denies)

    async def request(self, request: Request) -> Run:
        await self._tell("request", request)
        return run(State.PLANNING)

    async def preview(self, target: str, rev: str, strategy: str = "downgrade") -> Plan:
        await self._tell("preview", target, rev)
        return plan()

    async def approve(self, name: str, digest: str, by: Person) -> None:
        await self._tell("approve", name, digest, by.id)

    async def withdraw(self, name: str, by: Person) -> None:
        await self._tell("withdraw", name, by.id)

    async def may_reject(self, name: str, digest: str, by: Person) -> None:
        if self.denies:
            raise Denied(self.denies)

    async def reject(self, name: str, digest: str, by: Person, reason: str) -> None:
        await self._tell("reject", name, digest, by.id, reason)

    async def cancel(self, name: str, by: Person) -> None:
        await self._tell("cancel", name, by.id)

    async def decide(self, name: str, decision: str, by: Person) -> None:
        await self._tell("decide", name, decision, by.id)

    async def may_enter(self, name: str, by: Person) -> None:
        if self.denies:
            raise Denied(self.denies)

    async def enter(self, name: str, address: str, by: Person) -> None:
        await self._tell("enter", name, address, by.id)

    async def note(self, name: str, text: str, by: Person) -> None:
        await self._tell("note", name, text, by.id)

    async def tick(self, name: str, items: Sequence[str], by: Person) -> None:
        await self._tell("tick", name, list(items), by.id)

    async def view(self, name: str) -> View:
        await self._journal.run(name)
        assert self._journal.view is not None
        return self._journal.view

    async def newest(self, *, channel: str | None = None, target: str | None = None) -> str | None:
        return self._journal.view.run.id if self._journal.view else None

    async def history(self, target: str, limit: int = 20) -> tuple[Run, ...]:
        return await self._journal.find()

    async def backups(self, target: str) -> tuple[Listed, ...]:
        file = BackupFile(name="shop-r7k2.dump", path="/backups/shop-r7k2.dump", sha256="d" * 64, size=2_000_000)
        theirs = BackupFile(name="nightly.sql", path="/backups/nightly.sql", sha256="", size=3_000, format="plain", foreign=True)
        return (
            Listed(name=file.name, file=file, made=NOON, revision="0006", keep_until=NOON, proven=NOON),
            Listed(name=theirs.name, file=theirs, made=NOON, refused="It is torn."),
        )

    async def rights(self, target: str) -> tuple[Right, ...]:
        return ()

    async def duties(self, target: str) -> tuple[Duty, ...]:
        return (Duty(kind="drill", at=NOON, ok=False, says="It broke."),)

    async def check(self, target: str) -> tuple[Refusal, ...]:
        return (Refusal("tool_missing", "Alembic is missing.", "Install it."),)

    async def report(self, name: str) -> str:
        return "# Post-mortem: shop 0006 -> 0004: succeeded\n\nAll of it.\n"
