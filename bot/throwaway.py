"""Servers that live as long as one use: of the major version that is asked for, by name under one folder, gone afterwards."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

from bot.embedded import EmbeddedPostgres, binaries
from bot.errors import ConfigError, ProgramMissing
from bot.finishing import whatever_happens
from bot.place import Connect
from bot.process import run
from bot.recovery import Fill, RecoveringPostgres
from bot.settings import inherited

_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_WHEEL = (16, 18)
#: where Debian, and where Red Hat, put a major version's programs
_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")


async def installed() -> dict[int, Path]:
    """Major version -> folder of its server's programs. The system's come before our own: they have more extensions."""
    found: dict[int, Path] = {}
    for major in _WHEEL:
        with suppress(ConfigError):
            found[major] = binaries(major)
    return {**found, **await _systems()}


def _folders() -> list[Path]:
    on_path = shutil.which("postgres", path=inherited()["PATH"])
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += [folder for place in _PLACES for folder in sorted(Path("/").glob(place[1:]))]
    return [folder for folder in folders if all((folder / name).exists() for name in ("postgres", "initdb", "pg_ctl"))]


async def _systems() -> dict[int, Path]:
    found: dict[int, Path] = {}
    for folder in _folders():
        with suppress(ProgramMissing):
            said = await run([str(folder / "postgres"), "--version"], env=inherited(), timeout=timedelta(seconds=30), directory=Path("/"))
            if version := _VERSION.search(said.output):
                found.setdefault(int(version[1]), folder)
    return found


class Throwaways:
    """Clusters under `home`, which a system user must be able to enter when we are root."""

    def __init__(self, home: Path) -> None:
        self._home = home

    async def majors(self) -> tuple[int, ...]:
        return tuple(sorted(await installed()))

    @asynccontextmanager
    async def start(self, name: str, major: int, *, superuser: str, settings: Mapping[str, str]) -> AsyncIterator[Connect]:
        """Its superuser, on the database `postgres`. Raises ConfigError, ProgramFailed, OSError. Stopped and removed at the end."""
        programs = _given(await self.programs(major), major)
        cluster = EmbeddedPostgres(
            self._home, name=name, major=major, durable=False, programs=programs, superuser=superuser, settings=settings, caged=True
        )
        self._mark(name)
        try:
            yield await cluster.start()
        finally:
            await whatever_happens(self._remove(cluster, name))

    @asynccontextmanager
    async def recover(self, name: str, major: int, fill: Fill) -> AsyncIterator[tuple[RecoveringPostgres, Connect]]:
        """A server that begins with the files that `fill` puts there, and how its role will enter. Errors and end as `start`."""
        cluster = RecoveringPostgres(self._home, name=name, major=major, programs=_given(await self.programs(major), major), fill=fill)
        self._mark(name)
        try:
            yield cluster, await cluster.start()
        finally:
            await whatever_happens(self._remove(cluster, name))

    async def programs(self, major: int) -> Path:
        """The folder of that major version's programs. Raises ConfigError."""
        programs = (await installed()).get(major)
        if programs is None:
            raise ConfigError(f"There is no PostgreSQL {major} on this machine.")
        return programs

    async def clean(self, prefix: str) -> tuple[str, ...]:
        """Remove clusters whose name begins so and that nobody uses any more: their names."""
        removed = []
        for place in sorted(self._home.glob(f"{prefix}*")):
            if place.is_dir() and not place.is_symlink() and await self._remove(EmbeddedPostgres(self._home, name=place.name), place.name):
                removed.append(place.name)
        return tuple(removed)

    def _mark(self, name: str) -> None:
        """A folder by that name in any case: the cluster lies elsewhere when the user who runs it can't come here."""
        self._home.mkdir(parents=True, exist_ok=True, mode=0o711)
        (self._home / name).mkdir()
        (self._home / name).chmod(0o711)

    async def _remove(self, cluster: EmbeddedPostgres, name: str) -> bool:
        if not await cluster.remove() or cluster.directory.exists():  # a program that outlived us may still write there: next time
            return False
        await asyncio.to_thread(shutil.rmtree, self._home / name, ignore_errors=True)
        return True


def _given(programs: Path, major: int) -> Path | None:
    """None for the wheel's own, which may have to be copied to where the user that runs them can go."""
    own = binaries(major) if major in _WHEEL else None
    return None if programs == own else programs
