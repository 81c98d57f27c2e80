"""What the flow and the steps need from the world, on one screen. An adapter is an object with these methods; nothing inherits."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

from bot.errors import Refusal
from bot.model import (
    Alarm,
    Answer,
    Attempt,
    BackupFile,
    Connect,
    Delivery,
    Event,
    History,
    Identity,
    Person,
    Plan,
    Request,
    Run,
    Session,
    Snapshot,
    State,
    View,
)  # fmt: skip

Progress = Callable[[str], Awaitable[None]]


class Clock(Protocol):
    def now(self) -> dt.datetime: ...
    def monotonic(self) -> float: ...


class Program(Protocol):
    """A running program: one merged stream of stdout and stderr."""

    pid: int

    def output(self) -> AsyncIterator[bytes]: ...
    async def send(self, data: bytes) -> None: ...
    async def close_stdin(self) -> None: ...
    async def wait(self) -> int: ...
    async def kill(self) -> None:
        """End the whole process group and see it gone."""


class Runner(Protocol):
    """Where a target's own programs run. Leaving the context kills what still runs. Raises ProgramMissing."""

    def start(self, argv: Sequence[str], *, env: Mapping[str, str], directory: Path) -> AbstractAsyncContextManager[Program]: ...


class Fence(Protocol):
    """A session advisory lock on the maintenance database, keyed by target (databases.md F5)."""

    async def prove(self) -> Identity:
        """Same postmaster, same timeline, not in recovery, lock still held. Raises FenceLost."""


class Database(Protocol):
    """A target's server: identity, fence, sessions, catalogs. Raises Refusal(unreachable | wrong_credentials) on connecting."""

    #: how the tool enters the database
    tool: Connect

    async def identity(self) -> Identity: ...
    async def examine(self) -> None:
        """Raise the Refusal that stands in the way of any rollback here: pooler, standby, missing rights."""

    def fence(self, key: str) -> AbstractAsyncContextManager[Fence]:
        """Take the target's fence. Raises Refusal(fence_taken) when another holder lives."""

    def challenge(self) -> AbstractAsyncContextManager[tuple[int, int]]:
        """Hold a random advisory lock in the database itself; whoever sees it in pg_locks is connected to the same one (F14)."""

    async def heads(self, table: str, schema: str | None) -> tuple[str, ...]:
        """Rows of the version table, on a connection of our own. Raises Refusal(version_table_missing)."""

    async def snapshot(self, *, count: bool) -> Snapshot: ...
    async def ask(self, sql: str) -> Answer:
        """Read-only, 30 s, as the target's `database` user, at most 100 rows. Raises StepFailed with the server's words."""

    async def sessions(self, application: str) -> tuple[Session, ...]:
        """Sessions of this server whose application_name is exactly that."""

    async def blockers(self, application: str) -> tuple[Session, ...]:
        """Who the sessions of that application wait for, now."""

    async def end_sessions(self, application: str) -> tuple[Session, ...]:
        """Terminate them and see them gone. Raises OutcomeUnknown when they would not go."""


class MigrationTool(Protocol):
    """How a schema goes back. Reads in the application's own environment; changes nothing but in `downgrade`."""

    kind: str

    async def read(self) -> History:
        """History and current revision. Raises Refusal (tool_missing, broken_history, wrong_database, version_table_missing, ...)."""

    async def downgrade(self, to: str, work: Work) -> Mapping[str, Any]:
        """To an absolute revision, on a connection that was proven and fenced. Returns facts: statements, transactions, output, seconds.

        Raises StepFailed (the tool said no; nothing is known to have changed), OutcomeUnknown (the connection or the tool was lost)."""


class Work(Protocol):
    """What a step hands to an adapter that does the work."""

    run: str
    step: str
    attempt: int
    plan: Plan

    @property
    def application(self) -> str:
        """`backout/<run>/<step>/<attempt>`: the name of every session that this attempt opens."""

    async def may_begin(self) -> bool:
        """Is this attempt still the journal's current one? Asked after `ready`, before the first statement."""

    async def remember(self, **facts: Any) -> None:
        """Keep facts of this attempt now, so that they survive our death."""

    async def progress(self, text: str) -> None: ...


class Backup(Protocol):
    """How a copy of the data is made and proven."""

    kind: str

    async def ready(self, server_version: int) -> None:
        """Raise Refusal(client_older_than_server | tool_missing | tls_unsupported)."""

    async def take(self, name: str, work: Work) -> BackupFile:
        """Write, checksum, and prove readable to the last byte. A dead attempt leaves only a partial file, which is removed."""

    async def usable(self, file: BackupFile) -> bool:
        """The file is there and has its checksum."""

    async def remove(self, file: BackupFile) -> None: ...
    def how_to_restore(self, file: BackupFile) -> tuple[str, ...]:
        """The commands for a person at a shell; no secrets in them."""


class Store(Protocol):
    """Where dumps are kept. Names are plain file names."""

    async def ready(self) -> None:
        """Raise Refusal(store_unusable)."""

    def partial(self, name: str) -> Path:
        """A place to write, not yet part of the store."""

    async def keep(self, name: str) -> tuple[Path, str, int]:
        """Make the partial file part of the store, durably: path, sha256, bytes."""

    async def checksum(self, name: str) -> str | None: ...
    async def remove(self, name: str) -> None: ...


class Platform(Protocol):
    """Where the application runs."""

    kind: str
    #: does it stop anybody? False: nothing can be promised about what is written meanwhile
    stops: bool

    async def start_writers(self, work: Work) -> Mapping[str, Any]:
        """Exactly what was stopped; `says` is the line for people."""


class Web(Protocol):
    async def get(self, url: str, *, timeout: dt.timedelta) -> tuple[int, bytes, float]:
        """Status, body (64 KiB at most), seconds. Raises StepFailed when there is no answer."""


class Directory(Protocol):
    """Who holds a role now."""

    async def holders(self, role: str, *, fresh: bool = True) -> frozenset[str]:
        """User ids. Whoever can't be looked up does not hold it. A click asks fresh; a rendering may use what was known a minute ago."""


class Chat(Protocol):
    """The channel. Never raises for what the channel did; the journal is the outbox."""

    async def changed(self, run: str) -> None:
        """Something of this run changed: render what the journal says, when there is time."""

    async def private(self, request: Request, text: str) -> None: ...
    async def drain(self) -> None:
        """Return when everything that can be delivered was."""


class Engine(Protocol):
    """The program counter: a run goes on, or waits."""

    async def start(self, run: str, target: str) -> None: ...
    async def signal(self, run: str, key: str) -> None:
        """Wake the run; the same key wakes it once."""


class Journal(Protocol):
    """What happened, durably. Every method is one transaction. Raises JournalDown."""

    async def create(self, run: str, request: Request) -> Run:
        """Raises Refusal(run_in_progress) when the target has an open run."""

    async def run(self, run: str) -> Run: ...
    async def find(
        self,
        *,
        target: str | None = None,
        channel: str | None = None,
        states: Sequence[State] | None = None,
        limit: int = 20,
    ) -> tuple[Run, ...]:
        """Newest first."""

    async def events(self, run: str, after: int = 0) -> tuple[Event, ...]: ...
    async def record(self, run: str, kind: str, **data: Any) -> Event: ...
    async def move(self, run: str, to: State, kind: str, **data: Any) -> Event:
        """Change of state and its event. Raises TransitionRefused."""

    async def store_plan(self, run: str, plan: Plan, seats: Sequence[str], **data: Any) -> None:
        """The plan, its digest and its open seats; former approvals are void. planning|running -> awaiting_approval."""

    async def seat(self, run: str, digest: str, role: str, by: str, **data: Any) -> bool:
        """Fill the first open seat of `role`. False: none is open, the digest is old, the state is another, or they sit already."""

    async def unseat(self, run: str, by: str) -> bool: ...
    async def decide(self, run: str, decision: str, by: str) -> bool:
        """needs_decision -> running with a decision to carry out. False when somebody else was first."""

    async def refuse(self, run: str, refusal: Refusal) -> None:
        """planning or awaiting_approval -> refused, with its code."""

    async def head_for(self, run: str, ending: State, kind: str, **data: Any) -> bool:
        """Note where a running run shall end (cancel). False when it already heads somewhere."""

    async def clear_decision(self, run: str) -> None: ...
    async def intend(self, run: str, step: str) -> Attempt:
        """The intent of the next attempt, committed before the effect."""

    async def outcome(self, run: str, attempt: Attempt) -> None:
        """Record how an attempt ended. Only the attempt that is still `intended` can get one."""

    async def remember(self, run: str, step: str, attempt: int, facts: Mapping[str, Any]) -> None: ...
    async def progress(self, run: str, step: str, attempt: int, text: str) -> None: ...
    async def set_alarm(self, alarm: Alarm) -> None: ...
    async def clear_alarms(self, run: str, kind: str | None = None) -> None: ...
    async def alarms(self) -> tuple[Alarm, ...]: ...
    async def deliveries(self, run: str) -> Mapping[str, Delivery]: ...
    async def deliver(self, run: str, key: str, delivery: Delivery) -> None: ...
    async def run_of_thread(self, channel: str, ts: str) -> str | None:
        """The run whose card is that message."""

    async def undelivered(self) -> tuple[str, ...]:
        """Runs whose newest event the channel does not have yet."""

    async def ask(self, run: str, due: dt.datetime, **data: Any) -> None:
        """The asking and its deadline, together: who died between them would never ask, or ask twice."""

    async def escalate(self, run: str, role: str, *, due: dt.datetime | None = None, **data: Any) -> bool:
        """Ask a rung of the ladder too, and until when its answer is waited for. False when it was asked already."""

    async def durations(self, target: str, steps: Sequence[str], undone: Sequence[str]) -> tuple[float, ...]:
        """Seconds that earlier succeeded runs with the same revisions undone took for those steps."""

    async def keep_backup(self, target: str, run: str, revision: str, file: BackupFile, until: dt.datetime) -> None: ...
    async def backups(self, target: str) -> tuple[Mapping[str, Any], ...]: ...
    async def forget_backup(self, target: str, name: str) -> None: ...
    async def accept(self, key: str, kind: str, payload: Mapping[str, Any]) -> bool:
        """Store an incoming request before it is acknowledged. False when it came before."""

    async def pending(self) -> tuple[tuple[str, str, Mapping[str, Any]], ...]:
        """Stored requests that were not worked off: (key, kind, payload), oldest first."""

    async def done(self, key: str) -> None:
        """A stored request was worked off: its payload is emptied, its key kept for a day."""

    async def ping(self) -> None: ...


class Rollbacks(Protocol):
    """The product, as the channel and the command line may use it (bot/rollback/flow.py).

    Everything raises Denied (not yours) or Refusal (Backout would not), whose sentences are for the asking person alone; both are journaled.
    """

    async def request(self, request: Request) -> Run:
        """Start a run: stored, planned in the background. Raises Refusal(run_in_progress, unknown_target, ...)."""

    async def preview(self, target: str, rev: str) -> Plan:
        """What a run would do; changes nothing."""

    async def approve(self, run: str, digest: str, by: Person) -> None: ...
    async def withdraw(self, run: str, by: Person) -> None: ...
    async def may_reject(self, run: str, digest: str, by: Person) -> None:
        """Asked before the form for the reason is opened."""

    async def reject(self, run: str, digest: str, by: Person, reason: str) -> None: ...
    async def cancel(self, run: str, by: Person) -> None: ...
    async def decide(self, run: str, decision: str, by: Person) -> None:
        """`decision`: retry, restore, leave or escalate."""

    async def note(self, run: str, text: str, by: Person) -> None: ...
    async def tick(self, run: str, items: Sequence[str], by: Person) -> None:
        """The checklist's and the questions' boxes that are ticked now."""

    async def view(self, run: str) -> View: ...
    async def newest(self, *, channel: str | None = None, target: str | None = None) -> str | None:
        """The newest open run there, else the newest."""

    async def history(self, target: str, limit: int = 20) -> tuple[Run, ...]: ...
    async def backups(self, target: str) -> tuple[Mapping[str, Any], ...]: ...
    async def check(self, target: str) -> tuple[Refusal, ...]:
        """What stands in the way of a rollback right now; empty when ready."""

    async def report(self, run: str) -> str:
        """The post-mortem as Markdown: the same bytes every time once the run has ended."""


class People(Protocol):
    """The command line's proof of who sits there."""

    def prove(self, user: str, token: str | None) -> Person:
        """Raises Denied."""
