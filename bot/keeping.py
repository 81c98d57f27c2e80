"""What is kept, as the flow and the steps need it: backups, archives, and the store they lie in. The other ports: running.py, ports.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

from bot.evidence import BackupFile
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

    async def usable(self, file: BackupFile) -> bool:
        """The file is there and has its checksum."""

    async def restore(self, file: BackupFile, into: Connect, version: int, work: Work) -> tuple[str, ...]:
        """Into an empty database of a server of that server_version_num: what was ignored, in the program's words. Raises StepFailed, Refusal."""

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
