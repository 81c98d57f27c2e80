"""A server that is thrown away runs code of the database as its superuser: in here that can do no harm (databases.md F15).

Run by its path, `python -I -S cage.py UID GID DATA LOG BIN PROGRAM...`, with the standard library only; it becomes PROGRAM. What runs from then on
may write its data and its log, read Postgres and the system's libraries, start programs of BIN, and see, stop or trace nobody else.
By Landlock (Linux 5.13 and later, without root). Where there is none it says so, and PROGRAM runs as it would.
"""

from __future__ import annotations

import ctypes
import logging
import os
import pwd
import struct
import sys
from contextlib import suppress
from pathlib import Path

NO_CAGE = "no cage:"  #: so the line begins that says that there is none
_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the system calls, on every architecture
_VERSION, _BENEATH, _NO_NEW_PRIVILEGES = 1, 1, 38
_EXECUTE, _WRITE, _READ, _LIST, _TRUNCATE, _IOCTL = 1, 2, 4, 8, 1 << 14, 1 << 15
#: all rights that a version of Landlock can take, by the version that brought the newest of them
_ALL = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
SCOPES_SINCE, _SCOPES = 6, 3  # abstract sockets, signals
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL

_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share")
_SMALL = ("/dev/urandom", "/dev/random", *(f"/etc/{name}" for name in ("ld.so.cache", "localtime", "passwd", "group", "nsswitch.conf", "hosts")))
#: what starts a program of BIN: pg_ctl's shell, and whatever loads programs
_LOADERS = ("bin/sh", "lib64/ld-linux*", "lib/ld-linux*", "lib/ld-musl*", "lib/*/ld-linux*")


def around(user: pwd.struct_passwd | None, data: Path, log: Path, programs: Path) -> tuple[str, ...]:
    """What stands before a program and its words, so that it runs in here; as `user`, when root starts it."""
    ids = (str(user.pw_uid), str(user.pw_gid)) if user else ("", "")
    return (sys.executable, "-I", "-S", __file__, *ids, str(data), str(log), str(programs))


def warn(output: str, *, given_up: bool) -> None:
    if NO_CAGE in output or given_up:
        logging.getLogger(__name__).warning("code in a copy is not held back, it may do what the user of its server may on this machine: %s", output)


def version() -> int:
    """Of Landlock, in this kernel. 0: it has none."""
    try:
        return _said(ctypes.CDLL(None, use_errno=True), _CREATE, None, 0, _VERSION)
    except (OSError, AttributeError):
        return 0


def shut(data: Path, log: Path, programs: Path) -> None:
    """For this process and all that come of it. Raises OSError: this kernel can't."""
    system = ctypes.CDLL(None, use_errno=True)
    there = _said(system, _CREATE, None, 0, _VERSION)
    every = _ALL[max(known for known in _ALL if known <= there)]
    wanted = struct.pack("QQQ", every, 0, _SCOPES if there >= SCOPES_SINCE else 0)
    rules = _said(system, _CREATE, wanted, len(wanted), 0)
    trees = [*map(Path, _SYSTEM), programs.parent, *programs.parent.parent.parent.glob("*.libs")]
    if programs.parts[-4:-2] == ("lib", "postgresql"):  # as Debian has it, wherever it lies
        trees += [programs.parents[3] / each for each in ("lib", "share")]
    allowed = [(data, every & ~_EXECUTE), (log, _WRITE | _READ | _TRUNCATE), (Path("/dev/null"), _WRITE | _READ)]
    allowed += [(tree, _READ | _LIST) for tree in trees] + [(Path(each), _READ) for each in _SMALL]
    allowed += [(programs, _READ | _LIST | _EXECUTE)] + [(found, _READ | _EXECUTE) for each in _LOADERS for found in Path("/").glob(each)]
    for path, rights in allowed:
        _allow(system, rules, path, rights & every)
    if system.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no_new_privs")
    _said(system, _RESTRICT, rules, 0)
    os.close(rules)


def _allow(system: ctypes.CDLL, rules: int, path: Path, rights: int) -> None:
    with suppress(FileNotFoundError):
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            rule = struct.pack("=Qi", rights if path.is_dir() else rights & _OF_FILES, opened)
            _said(system, _ADD, rules, _BENEATH, rule, 0)
        finally:
            os.close(opened)


def _said(system: ctypes.CDLL, call: int, *args: object) -> int:
    found = int(system.syscall(call, *args))
    if found < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return found


def _main(uid: str, gid: str, data: str, log: str, programs: str, *argv: str) -> None:
    if uid:
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    try:
        shut(Path(data), Path(log), Path(programs))
    except (OSError, AttributeError) as error:  # no such system call; no /proc, no O_PATH (macOS)
        print(NO_CAGE, error, flush=True)
    os.execv(argv[0], argv)  # noqa: S606  it becomes what it was given


if __name__ == "__main__":
    _main(*sys.argv[1:])
