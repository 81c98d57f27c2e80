"""What is kept, as the flow and the steps need it: backups, archives, and the store they lie in. The other ports: running.py, ports.py."""

from __future__ import annotations

import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from bot.errors import Refusal
from bot.evidence import BackupFile, Found, Listed, Publication, Stored
from bot.model import Plan
from bot.place import Connect


class Work(Protocol):
    """What a step hands to an adapter that does the work."""

    run: str
    step: str
    attempt: int
    plan: Plan
    #: on a copy: measure what can be measured
    rehearsing: bool
    #: what stop_writers wrote down, so that exactly that is started again; empty when it had not begun
    stopped: Mapping[str, Any]
    #: the run heads for its end: what can be started is started, whatever else fails
    leaving: bool

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

    def rows(self, file: BackupFile) -> AsyncIterator[bytes]:
        """The text of a CSV that others made, unpacked. Raises StepFailed, at its end also when it was changed since it was looked at."""

    async def usable(self, file: BackupFile) -> bool:
        """The file is there and has its checksum."""

    async def restore(
        self, file: BackupFile, into: Connect, version: int, work: Work, *, owners: bool = True, schema: bool = False
    ) -> tuple[str, ...]:
        """Into an empty database of a server of that server_version_num: what was ignored, in the program's words. Raises StepFailed, Refusal.

        Without `owners` everything belongs to who restores; with `schema` no row comes back.
        What is `foreign` is a program: it is only restored when the role of `into` could do no harm outside of that database (databases.md F15)."""

    async def take_schema(self, name: str, snapshot: str | None, work: Work) -> BackupFile:
        """Without rows, as of an exported snapshot (format 'schema'). Raises StepFailed, Refusal."""

    async def restore_schema(
        self, file: BackupFile, into: Connect, version: int, section: str, work: Work, *, owners: bool = True
    ) -> tuple[str, ...]:
        """What goes before the rows ('pre-data'), or after them ('post-data'): there, what sampled rows violate is left out and said."""

    async def found(self, known: Collection[str]) -> tuple[Found, ...]:
        """What others put into the store, newest first, `known` names left out. Only looked at: large files at their beginning and end."""

    async def inspect(self, name: str) -> Found:
        """One of them, read to its last byte: with its checksum, and `refused` when it may not be used. Raises StepFailed when it is none."""

    def where(self, name: str) -> str:
        """Where a backup of that name lies, for people: a path or an address."""

    async def remove(self, file: BackupFile) -> None: ...
    def of(self, connect: Connect) -> Backup:
        """The same, of another server: what is taken from there lies beside the others and is restored like them."""

    def how_to_restore(self, file: BackupFile) -> tuple[str, ...]:
        """The commands for a person at a shell; no secrets in them."""


class Replacing(Protocol):
    """The target's database is dropped, and a copy made afterwards gets its name. `application`: a former session by that name is ended first.

    Every method raises Refusal (on connecting), StepFailed, OutcomeUnknown."""

    async def in_the_way(self) -> tuple[Refusal, ...]:
        """Why it can't be dropped and made again; warnings say what will be different. Tried, and rolled back."""

    async def stands(self) -> int | None:
        """The OID of the database that has the name now; None: none has."""

    async def belongings(self) -> Mapping[str, Any]:
        """What belongs to it and is in no dump, as JSON: owner, rights, settings, limits, comment; encoding, locale, tablespace."""

    async def drop(self, oid: int, application: str) -> None:
        """Only while the database with that OID has the name; whoever is in it is ended, and nobody comes in. Whoever fails lets them in again."""

    async def reopen(self, oid: int) -> None:
        """Who died before it was dropped has left it without connections; nothing happens where that isn't so."""

    async def make(self, belongings: Mapping[str, Any], name: str, note: str, *, adopted: bool = False) -> BackupFile:
        """An empty database for the restore, as `Database.beside_for_restore` makes it, like one that is gone.

        `adopted`: the application's role will fill it, so it may do in the schema public what it could."""

    async def made(self, file: BackupFile, note: str) -> bool:
        """It is still there, and ours."""

    async def put(self, incoming: BackupFile, belongings: Mapping[str, Any], application: str) -> tuple[str, ...]:
        """One transaction: it gets the name, and what belonged to the database that was dropped. What could not be as it was, in sentences."""

    # the whole server

    async def mark(self, run: str) -> None:
        """On the server, outside of every database: brought back to before, it has no such mark. Twice is once."""

    async def marked(self, run: str) -> bool: ...
    async def unmark(self, run: str) -> None: ...


class Publications(Protocol):
    """What the target's database publishes. Raises Refusal (on connecting), StepFailed, OutcomeUnknown."""

    async def there(self) -> tuple[Publication, ...]: ...
    async def make(self, wanted: Sequence[Publication], application: str) -> Mapping[str, str]:
        """Those that are not there; by name why one could not be made."""


class Writing(Protocol):
    """A file that is being written to a store."""

    @property
    def file(self) -> Path | None:
        """Where a program may write it by itself; None: everything goes through `write`."""

    @property
    def sha256(self) -> str:
        """Of all its bytes; known once the context was left."""

    @property
    def size(self) -> int: ...
    async def write(self, data: bytes) -> None:
        """Raises StepFailed."""

    async def settle(self) -> None:
        """What a program wrote there is whole: it may be made durable and its checksum be taken while it is still looked at. Raises StepFailed."""


class Store(Protocol):
    """Where copies are kept. Names are plain file names; what others put there may lie in a folder: `nightly/toc.dat`.

    Memory is the same whatever the size. Every method raises StepFailed when the store can't be reached or says no.
    """

    kind: str

    async def ready(self) -> None:
        """Raise Refusal(store_unusable)."""

    def where(self, name: str) -> str:
        """For people: a path or an address."""

    def local(self, name: str) -> Path | None:
        """The file or folder itself, where the store is a folder of this machine."""

    def write(self, name: str, replaces: Stored | None = None) -> AbstractAsyncContextManager[Writing]:
        """Leaving the context without an error makes it part of the store, durably; else nothing of it is there.

        Never overwrites anything but `replaces`, as `stat` gave it."""

    def read(self, name: str, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """Bytes from `start` on. Raises StepFailed when it is gone, or is another file meanwhile."""

    async def stat(self, name: str) -> Stored | None: ...
    def list(self) -> AsyncIterator[Stored]:
        """What is whole, in pages, in no order; hidden names and folders in folders are left out."""

    async def checksum(self, name: str) -> str | None:
        """sha256 of the bytes that lie there now; None when it isn't there."""

    async def remove(self, name: str) -> None:
        """What is gone already is no error."""


class ArchiveSink(Protocol):
    """An archive that is being written. What is written to a member is compressed; memory stays flat."""

    def member(self, name: str) -> AbstractAsyncContextManager[Callable[[bytes], Awaitable[None]]]: ...


class ArchiveSource(Protocol):
    """An archive that lies in a store, proven intact when it was opened."""

    def member(self, name: str) -> AsyncIterator[bytes]:
        """Raises StepFailed when it is torn or not there."""


class Archives(Protocol):
    """Where archives lie."""

    def create(self, name: str) -> AbstractAsyncContextManager[ArchiveSink]:
        """Leaving the context without an error makes it part of the store."""

    async def kept(self, name: str) -> BackupFile:
        """Name, path, checksum and size of what was created. Raises StepFailed."""

    def open(self, file: BackupFile) -> AbstractAsyncContextManager[ArchiveSource]:
        """Raises StepFailed when it is gone, truncated or was changed."""

    async def remove(self, file: BackupFile) -> None: ...


@dataclass(frozen=True)
class Covered:
    """What an archive can bring back, in UTC: each moment with since <= moment < until that is not in a hole (begin <= moment < end)."""

    since: dt.datetime
    until: dt.datetime
    holes: tuple[tuple[dt.datetime, dt.datetime], ...] = ()


@dataclass(frozen=True)
class Recovered:
    """A server beside the live one, as that was at a moment: cut off from everything, its sessions read-only unless they say otherwise."""

    #: its superuser, on the target's database
    admin: Connect
    #: server_version_num
    version: int
    #: of the last transaction that is in it; None when none came after the base backup
    last: dt.datetime | None
    #: its own, begun when the replay ended
    timeline: int
    #: from the beginning until it was open
    seconds: float
    #: the base backup that it began with
    base: str


class PointInTime(Protocol):
    """How the server was at a moment: a base backup and the WAL that was archived since."""

    kind: str

    async def window(self) -> Covered:
        """What can be recovered to now. Raises Refusal (pitr_nothing_archived, pitr_impossible, unreachable, ...)."""

    def open(self, time: dt.datetime, work: Work) -> AbstractAsyncContextManager[Recovered]:
        """A server recovered to that moment, on a port of its own of 127.0.0.1; gone afterwards, whatever happens.

        Raises Refusal (pitr_outside_window, pitr_in_the_future, pitr_hole, pitr_backup_damaged, pitr_impossible, database_missing), StepFailed.
        """

    async def clean(self) -> None:
        """Remove what dead processes left behind."""


class Progress(NamedTuple):
    """How far a provider is; `says` in words. 'unknown': nothing of it is to be seen."""

    state: Literal["under way", "done", "failed", "unknown"]
    says: str = ""


class StagedSwap(NamedTuple):
    """What waits at the provider to be deployed. `swap`: the new volume, where the swap is among it; `others`: everything else, named."""

    swap: str
    others: tuple[str, ...]


class Restoring(Protocol):
    """A provider that puts one of its backups in the place of the whole server: it is staged first, then deployed with whatever else is staged.

    `noted` is what `look` said before. Every method raises StepFailed, OutcomeUnknown (no answer)."""

    #: how long one of the two may take
    patience: dt.timedelta

    async def refuse(self, database: Connect) -> tuple[Refusal, ...]:
        """What stands in the way now: no right to ask, another server's volume, changes that are staged already."""

    async def look(self) -> Mapping[str, Any]:
        """What is there before: small JSON with `service`, `name`, `volume`, `instance`, `mount`, `known`, `deployments`."""

    async def stage(self, backup: str) -> str:
        """Asked once: the job's id. Raises StepFailed (nothing began), OutcomeUnknown (it may have)."""

    async def staging(self, noted: Mapping[str, Any], job: str) -> Progress:
        """'done': the swap is staged, or deployed already. `job` '': its id was lost with the answer."""

    async def staged(self, noted: Mapping[str, Any]) -> StagedSwap:
        """Nothing where it is being deployed already."""

    async def deploy(self, says: str) -> None:
        """All that is staged. Asked once. Raises StepFailed (nothing was deployed), OutcomeUnknown (it may be)."""

    async def deployed(self, noted: Mapping[str, Any]) -> Progress:
        """'done': the service runs on the new volume, and `says` is the new volume's instance; 'unknown': on the one it had."""

    def discard(self, noted: Mapping[str, Any]) -> str:
        """What a person does so that what is staged is never deployed."""


class Provider(Protocol):
    """Whoever runs the server keeps backups of it that only they can bring back."""

    kind: str
    #: how long a run waits until a person says where it was recovered
    within: dt.timedelta
    #: how a backup is brought back from here; None: only by a person over there
    restoring: Restoring | None

    async def backups(self) -> tuple[Listed, ...]:
        """Newest first, with their retention; each `refused` says how it comes back. Raises StepFailed when they can't be asked."""

    def recovery(self, database: str, moment: dt.datetime) -> str:
        """What a person does so that the provider recovers that instant: commands or a ticket, without secrets."""
