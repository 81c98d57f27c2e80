"""What the flow and the steps need from the world, on one screen. An adapter is an object with these methods; nothing inherits."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from bot.errors import Refusal
from bot.evidence import Archive, BackupFile, Duty, Loss, Part, PutBack, Sampled, Snapshot, Touched
from bot.keeping import ArchiveSink, ArchiveSource, Publications, Replacing, Work
from bot.merges import Compared, Merged, MergeRule
from bot.model import Alarm, Attempt, Delivery, Event, Plan, Request, Run, State
from bot.place import Answer, Connect, Elsewhere, Identity, Right, Session
from bot.running import MigrationTool

Progress = Callable[[str], Awaitable[None]]


class Clock(Protocol):
    def now(self) -> dt.datetime: ...
    def monotonic(self) -> float: ...


class Fence(Protocol):
    """A session advisory lock on the maintenance database, keyed by target (databases.md F5)."""

    async def prove(self) -> Identity:
        """Same postmaster, same timeline, not in recovery, lock still held. Raises FenceLost."""


class Database(Protocol):
    """A target's server: identity, fence, sessions, catalogs. Raises Refusal(unreachable | wrong_credentials) on connecting."""

    #: how the tool enters the database, and how Backout does
    tool: Connect
    admin: Connect

    async def identity(self) -> Identity: ...
    async def examine(self) -> None:
        """Raise the Refusal that stands in the way of any rollback here: pooler, standby, missing rights."""

    async def rights(self) -> tuple[Right, ...]:
        """What Backout's role may do here, found by doing it harmlessly (databases.md F24)."""

    def fence(self, key: str) -> AbstractAsyncContextManager[Fence]:
        """Take the target's fence. Raises Refusal(fence_taken) when another holder lives."""

    def challenge(self) -> AbstractAsyncContextManager[tuple[int, int]]:
        """Hold a random advisory lock in the database itself; whoever sees it in pg_locks is connected to the same one (F14)."""

    async def looked_at(self, lock: tuple[int, int]) -> Elsewhere:
        """What this database says of itself; `lock` is a challenge that is held in another one."""

    async def heads(self, table: str, schema: str | None, query: str | None = None) -> tuple[str, ...]:
        """Rows of the version table, or of the tool's own `query` for them (one column, text), on a connection of our own.

        Raises Refusal(version_table_missing)."""

    async def snapshot(self, *, count: bool) -> Snapshot: ...
    async def names(self) -> frozenset[str]:
        """Of tables and their columns, as in Snapshot.objects; whoever holds one locked makes nobody wait."""

    async def ask(self, sql: str) -> Answer:
        """Read-only, 30 s, as the target's `database` user, at most 100 rows. Raises StepFailed with the server's words."""

    async def strangers(self) -> tuple[Session, ...]:
        """Who else is in the database: every session that isn't ours, and prepared transactions (pid 0)."""

    async def sessions(self, application: str) -> tuple[Session, ...]:
        """Sessions of this server whose application_name is exactly that."""

    async def blockers(self, application: str) -> tuple[Session, ...]:
        """Who the sessions of that application wait for, now."""

    async def end_sessions(self, application: str) -> tuple[Session, ...]:
        """Terminate them and see them gone. Raises OutcomeUnknown when they would not go."""

    async def objections(self, max_size: int | None) -> tuple[str, ...]:
        """Why no copy may be taken of it now (databases.md F3), in sentences with the number; `max_size` in bytes, None: of any size."""

    async def remarks(self) -> tuple[str, ...]:
        """What is to be said of the server now and stops nothing: standbys, a transaction that has been open for long."""

    def sampling(self, work: Work) -> AbstractAsyncContextManager[Sampling]:
        """Some rows of every table stand for those that are too many to be copied."""

    async def holders(self, tables: Sequence[str]) -> tuple[Session, ...]:
        """Client sessions that hold a lock on one of these tables now, ours left out. Names are quoted as in SQL."""

    async def end(self, sessions: Sequence[Session]) -> tuple[Session, ...]:
        """Terminate these, found the moment before, and see them gone: who was ended. Raises StepFailed (not allowed), OutcomeUnknown."""

    async def sizes(self, tables: Sequence[str]) -> Mapping[str, tuple[int, int]]:
        """Bytes with indexes, and estimated rows, of those that are there."""

    async def written_since(self, table: str, schema: str | None, tables: Sequence[str]) -> Mapping[str, str]:
        """Writes since the migration, by table, in words (databases.md F20): 'at least 12 rows ...' or 'not knowable here: why'."""

    # what a rollback destroys

    async def lost_since(self, before: Connect, progress: Progress, *, sampled: bool = False, counted: bool = False) -> tuple[Loss, ...]:
        """What is in the database `before`, a clone on the same server, and not here: every relation compared, rows and values counted. Revisions are
        not known here. `sampled`: also enum labels that no row there uses. `counted`: Scratch.counted."""

    async def fill_views(self) -> tuple[str, ...]:
        """Materialized views that a copy without rows left unfilled; what could not be filled, in sentences."""

    async def touched_since(self, before: Connect, progress: Progress) -> tuple[tuple[Loss, ...], Mapping[str, Touched]]:
        """The same, and by table which rows are gone or changed."""

    async def recount(self, losses: Sequence[Loss], within: dt.timedelta) -> tuple[Loss, ...]:
        """The same things, counted here and now; what could not be counted has no count, and its `why` says so."""

    # the restore point

    async def may_dump(self) -> str | None:
        """Why a dump of it can't succeed on this server (locks), in a sentence; None when it can."""

    async def may_clone(self) -> str | None:
        """Why a clone can't be made on this server (rights, size), in a sentence; None when it can."""

    async def clone(self, name: str, note: str) -> BackupFile:
        """A copy as a database beside it that nobody else enters; `note` is its comment, by which it is known. Nobody may be in this one.

        Raises StepFailed (somebody is in it; named), OutcomeUnknown."""

    async def drop_clone(self, file: BackupFile, note: str) -> None:
        """Only when OID and comment agree; a clone that is gone is no error. Raises StepFailed."""

    def how_to_go_back(self, file: BackupFile) -> tuple[str, ...]:
        """The commands for a person at a shell that put a clone in this database's place; no secrets in them."""

    def beside(self, name: str) -> Database:
        """Another database of this server, entered as Backout."""

    def inside(self, file: BackupFile) -> AbstractAsyncContextManager[Database]:
        """A copy beside, entered as Backout; where its code is somebody else's, as the tool, who may connect meanwhile (databases.md F15).

        Raises StepFailed: the tool's role could do harm elsewhere."""

    async def reach(self) -> str:
        """By which rights code that the tool's role runs could do harm elsewhere: 'SUPERUSER, CREATEROLE'; empty when by none."""

    # a database beside it, and its place

    async def may_make_beside(self) -> str | None:
        """Why no empty database can be made beside it for a restore, in a sentence; None when it can. Room on the disk is not known."""

    async def beside_for_restore(self, name: str, note: str) -> BackupFile:
        """An empty database for a restore: encoding, locale, tablespace and owner as here, nobody but Backout enters. `drop_clone` drops it.

        `note` is its comment and begins with 'Backout: '. A dead attempt's is replaced. Raises StepFailed, OutcomeUnknown."""

    def kept_name(self, at: dt.datetime) -> str:
        """How this database is called when another one took its place at that time: 'shop_until_20260131_030500', at most 63 bytes."""

    async def may_swap(self, incoming: BackupFile, kept: str | None = None) -> tuple[Refusal, ...]:
        """What stands in the way of putting `incoming` (a clone, or made beside) in its place; warnings say what will be different there.

        Owner, rights and settings are tried on it and rolled back. The door may be closed."""

    async def swap(self, incoming: BackupFile, kept: str, note: str, run: str, name: str) -> BackupFile:
        """One transaction: sessions ended, both renames; owner, rights, settings, limits, comment, and this run's closed door go along.

        The old database, returned, is called `kept`, has `note` as its comment ('Backout: ...') and is closed. `name` is the application_name.
        Raises StepFailed (nothing was changed), OutcomeUnknown (`swapped` tells)."""

    async def swapped(self, incoming: BackupFile, kept: str) -> bool | None:
        """Is `incoming` in the place? None: nobody can say, since it is just happening or somebody else renamed. Former sessions are ended first."""

    @property
    def replacing(self) -> Replacing:
        """The same where there is no room for two."""

    @property
    def publications(self) -> Publications: ...

    # single tables of a database beside

    async def compare_tables(self, tables: Sequence[str], source: BackupFile, progress: Progress) -> tuple[Compared, ...]:
        """Row by row, by key, of tables named as in SQL; nothing is changed. What can't be merged says why. Raises StepFailed, OutcomeUnknown."""

    async def load_csv(self, table: str, rows: AsyncIterator[bytes]) -> int:
        """Into an empty table of this database; how many rows. Raises StepFailed."""

    async def merge_tables(self, tables: Sequence[str], source: BackupFile, rule: MergeRule, progress: Progress) -> Merged:
        """In one transaction, idempotent: live tables keep their identity, conflicts are left alone and named, nothing cascades (databases.md F16).

        Raises StepFailed (nothing was changed), OutcomeUnknown."""

    # the archive

    async def archive(
        self, losses: Sequence[Loss], sink: ArchiveSink, progress: Progress, touched: Mapping[str, Touched]
    ) -> tuple[tuple[Part, ...], Mapping[str, str]]:
        """Copy what will be lost out of this database: the parts, and by name what could not be copied, with the reason.

        Of `rows` and `values` those that are `touched`; all rows of a table that is not in it."""

    async def prove_archive(self, parts: Sequence[Part], source: ArchiveSource, progress: Progress, touched: Mapping[str, Touched]) -> None:
        """The stored bytes, read again, are what this database holds. Raises StepFailed."""

    async def put_back(self, kept: Archive, source: ArchiveSource, progress: Progress, *, triggers: bool) -> PutBack:
        """In one transaction, idempotent; conflicts are left alone and named (databases.md F12). Raises StepFailed, OutcomeUnknown."""


class Sampling(Protocol):
    """Rows of one instant."""

    #: an exported snapshot, so that a dump of the schema is of the same instant
    snapshot: str

    async def copy_into(self, copy: Connect, progress: Progress) -> Sampled:
        """Into a database that has the tables and no constraints between them yet. Raises StepFailed, OutcomeUnknown."""


class Scratch(Protocol):
    """A server that holds nothing but a rehearsal: roles as on the target's server, without their passwords."""

    says: str  #: in words: 'a throwaway server, PostgreSQL 18'
    version: int  #: server_version_num
    owners: bool  #: whether what is restored there gets its owners; False: everything belongs to the one role that may do nothing else
    counted: bool  #: after a clone, the source's counters say which of its tables were written

    @property
    def partial(self) -> tuple[str, ...]:
        """What makes evidence from here less than a proof, in sentences; more may come while it is used."""

    async def create(self, name: str) -> None:
        """An empty database, owned and set up as the target's."""

    async def incoming(self, name: str) -> Connect:
        """An empty database as `Replacing.make` leaves it on the target's server, and how the role that restores there enters it: with its rights."""

    async def clone(self, source: str, name: str) -> None: ...
    async def drop(self, name: str) -> None: ...
    async def cut_off(self, name: str) -> tuple[str, ...]:
        """Take out what leads elsewhere: subscriptions, publications, user mappings, schedulers' events; then ANALYZE. What was cut, in sentences."""

    async def known_as(self, name: str, note: str) -> BackupFile:
        """That database as a copy beside another (format 'clone'); `note` begins with 'Backout: '."""

    def superuser(self, name: str) -> Connect:
        """How a copy is restored into that database."""

    def at(self, name: str) -> tuple[Database, MigrationTool]:
        """The target's own tool and role, led to that database."""


class Scratches(Protocol):
    """Where copies are tried."""

    early: bool  #: it may be opened before there is a dump, since nobody else has that server

    def open(self, work: Work, *, sampled: bool = False, early: bool = False) -> AbstractAsyncContextManager[Scratch]:
        """A server of its own; gone afterwards. `sampled`: not all rows; `early`: the dump needs room too. Raises Refusal(rehearsal_impossible)."""

    async def clean(self) -> None:
        """Remove what dead processes left behind."""


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
    async def announce(self, channel: str, text: str) -> bool:
        """Something that belongs to no run; False when the channel can't be reached now."""

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
        self, *, target: str | None = None, channel: str | None = None, states: Sequence[State] | None = None, limit: int = 20
    ) -> tuple[Run, ...]:
        """Newest first."""

    async def events(self, run: str, after: int = 0) -> tuple[Event, ...]: ...
    async def record(self, run: str, kind: str, **data: Any) -> Event: ...
    async def move(self, run: str, to: State, kind: str, **data: Any) -> Event:
        """Change of state and its event. Raises TransitionRefused."""

    async def store_plan(self, run: str, plan: Plan, *, unless_since: dt.datetime | None = None, **data: Any) -> None:
        """A plan that is to be rehearsed: another round begins, without digest or seats; former approvals are void. -> rehearsing.

        With `unless_since` it is a request's first: raises Refusal, rehearsal_in_progress when another run is rehearsed from that server now,
        rehearsed_too_soon when a run that the same person asked for has begun one since then."""

    async def store_evidence(self, run: str, plan: Plan, seats: Sequence[str], **data: Any) -> None:
        """The plan with its evidence, its digest and its open seats. -> awaiting_approval."""

    async def seat(self, run: str, digest: str, role: str, by: str, **data: Any) -> bool:
        """Fill the first open seat of `role`. False: none is open, the digest is old, the state is another, or they sit already."""

    async def unseat(self, run: str, by: str) -> bool: ...
    async def decide(self, run: str, decision: str, by: str) -> bool:
        """needs_decision -> running with a decision to carry out. False when somebody else was first."""

    async def refuse(self, run: str, refusal: Refusal) -> None:
        """planning or awaiting_approval -> refused, with its code."""

    async def head_for(self, run: str, ending: State, kind: str, **data: Any) -> bool:
        """Note where a running run shall end (cancel). False when it already heads somewhere."""

    async def turn(self, run: str, ending: State, kind: str, **data: Any) -> bool:
        """awaiting_approval -> running, only to end so. False when it went on in the same moment."""

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

    async def moved_by_itself(self, target: str) -> bool:
        """Did the revision ever move after a rollback, without Backout?"""

    async def keep_backup(self, target: str, run: str, revision: str, file: BackupFile, until: dt.datetime) -> None: ...
    async def backups(self, target: str) -> tuple[Mapping[str, Any], ...]:
        """Newest first: name, run, revision, file, made, keep_until, proven (None: never restored), ended (of its run; None: it goes on)."""

    async def prove_backup(self, target: str, name: str) -> None:
        """It was restored, all of it, now."""

    async def forget_backup(self, target: str, name: str) -> None: ...
    async def note_duty(self, target: str, duty: Duty) -> None: ...
    async def duties(self, target: str) -> tuple[Duty, ...]:
        """The last one of each kind."""

    async def keep_archive(self, archive: Archive, until: dt.datetime) -> None: ...
    async def archives(self, target: str) -> tuple[tuple[Archive, dt.datetime], ...]:
        """Newest first, each with the time until which it is kept."""

    async def forget_archive(self, target: str, name: str) -> None: ...
    async def accept(self, key: str, kind: str, payload: Mapping[str, Any]) -> bool:
        """Store an incoming request before it is acknowledged. False when it came before."""

    async def pending(self) -> tuple[tuple[str, str, Mapping[str, Any]], ...]:
        """Stored requests that were not worked off: (key, kind, payload), oldest first."""

    async def done(self, key: str) -> None:
        """A stored request was worked off: its payload is emptied, its key kept for a day."""

    async def ping(self) -> None: ...
