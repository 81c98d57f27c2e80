"""The process that outlives us: it waits until nobody uses a cluster, then stops its server and ends.

Run by its path, `python -I -S guardian.py DIRECTORY`, so that it costs little: the standard library only.
Users hold a shared lock on `users.lock`; the guardian waits for the exclusive one, which the system gives it however they died.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

_TICK = 0.05  # seconds
_FAST, _HARD, _STARTING = 0, 600, 200  # ticks: fast shutdown, immediate shutdown, patience with a server that just begins


def postmaster(data: Path) -> int | None:
    """The pid of the live server of that data directory; a pid that now is another program's is none."""
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
        if pid <= 0:
            return None
        os.kill(pid, 0)
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        # Without /proc (macOS) a live process is believed.
        return pid if (data / "postmaster.pid").exists() and not Path("/proc/self").exists() else None
    except (ValueError, OSError):
        return None
    return pid if os.fsencode(data) in words else None


def stop(data: Path) -> None:
    """Fast shutdown, seen done; immediate shutdown when that takes half a minute. The caller holds the exclusive lock."""
    for tick in range(2 * _HARD):
        pid = postmaster(data)
        if pid is None:
            return
        if tick in (_FAST, _HARD):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT if tick == _FAST else signal.SIGQUIT)
        time.sleep(_TICK)


def _await_newborn(directory: Path) -> None:
    # Whoever started the server may have died before the server wrote its pid.
    for _ in range(_STARTING):
        if not (directory / "starting").exists() or postmaster(directory / "data") is not None:
            return
        time.sleep(_TICK)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _leave_the_terminal() -> None:
    os.setsid()
    os.chdir("/")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)


def guard(directory: Path) -> None:
    """Return at once; a child stays behind. A guardian that is there already is enough."""
    mine, users = _open(directory / "guardian.lock"), _open(directory / "users.lock")
    try:
        fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    if os.fork():
        return
    _leave_the_terminal()
    fcntl.flock(users, fcntl.LOCK_EX)
    _await_newborn(directory)
    stop(directory / "data")
    with suppress(FileNotFoundError):
        (directory / "starting").unlink()
    # This order: who comes next must find no guardian, and so make one.
    os.close(mine)
    os.close(users)


if __name__ == "__main__":
    guard(Path(sys.argv[1]))
