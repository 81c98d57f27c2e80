"""A cluster that begins with somebody else's files: a base backup that recovers, run by the unprivileged user like every server of ours.

Nobody gets in until we say so: by the socket only the user that runs Backout (peer), by TCP only a role that does not exist before.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bot.embedded import EmbeddedPostgres, _write
from bot.errors import ProgramFailed
from bot.guardian import postmaster

_NOT_DURABLE = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off"
_TRIES = 3  # another program may take the port first
_BIRTH = 1200  # ticks of 0.05 s


@dataclass(frozen=True)
class Seat:
    """Where a cluster is filled. What is put into `data` becomes the cluster; the others already lie where they stay."""

    data: Path
    wal: Path
    tablespaces: Path
    socket: Path
    #: the role that may enter by TCP, once it was made with `password`
    role: str


Fill = Callable[[Seat], Awaitable[None]]


class RecoveringPostgres(EmbeddedPostgres):
    """`fill` puts the files there. `start` returns while it recovers: whoever started it looks after that."""

    def __init__(self, home: Path, *, name: str, major: int, programs: Path | None, fill: Fill) -> None:
        super().__init__(home, name=name, major=major, durable=False, programs=programs, superuser=f"backout_{secrets.token_hex(4)}")
        self._filling = fill

    @property
    def socket(self) -> Path:
        return self.directory / "s"

    @property
    def alive(self) -> bool:
        return postmaster(self._data) is not None

    def log(self) -> str:
        return self._log_tail()

    async def _create(self, password: str) -> None:
        """Beside, then renamed: a half-made cluster is never taken for one."""
        new = self.directory / f"new-{secrets.token_hex(4)}"
        wal, tablespaces = self.directory / "wal", self.directory / "tablespaces"
        for folder in (new, new / "data", wal, tablespaces, self.socket):
            folder.mkdir(0o700)
        for folder in (new, wal, tablespaces, self.socket):
            self._give(folder)
        seat = Seat(data=new / "data", wal=wal, tablespaces=tablespaces, socket=self.socket, role=self._superuser)
        await self._filling(seat)
        await asyncio.to_thread(self._give_all, (new, wal, tablespaces))
        (new / "data").rename(self._data)
        await asyncio.to_thread(shutil.rmtree, new)

    def _give_all(self, folders: Sequence[Path]) -> None:
        if self._account is None:
            return
        for folder in folders:
            for path in (folder, *folder.rglob("*")):
                os.chown(path, self._account.pw_uid, self._account.pw_gid, follow_symlinks=False)

    async def _serve(self) -> int:
        for _ in range(_TRIES):
            port = self._port()
            if await self._born(port):
                _write(self.directory / "port", str(port))
                return port
            if "could not bind" not in self.log():
                break
        raise ProgramFailed("The recovered server did not start.", output=self.log())

    async def _born(self, port: int) -> bool:
        programs = await self._programs(self._major)
        log, marker = self.directory / "postgres.log", self.directory / "starting"
        _write(log, "")
        self._give(log)
        argv = ("start", "--no-wait", "--silent", "-D", str(self._data), "-l", str(log), "-o", f"-p {port} {_NOT_DURABLE}")
        _write(marker, "")  # the guardian waits for a server that was begun when we died
        try:
            await self._run(str(programs / "pg_ctl"), *argv, seconds=90)
            for _ in range(_BIRTH):
                if self.alive:
                    return True
                if "FATAL" in self.log():
                    return False
                await asyncio.sleep(0.05)
        finally:
            marker.unlink(missing_ok=True)
        return False
