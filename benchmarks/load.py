"""What others did on this machine meanwhile: the part of its processors' time that was neither ours nor idle. From /proc (Linux)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICK = os.sysconf("SC_CLK_TCK")
_FIRST = 1  # inherits our servers, and waits for them: the time of its children is not looked at
_KERNEL = 2  # the parent of all kernel threads: their work is done for somebody, mostly for us


@dataclass(frozen=True)
class _Process:
    """`spent`: clock ticks of its own and of the children that it has waited for."""

    parent: int
    spent: int


@dataclass(frozen=True)
class Look:
    """`strangers` by pid; `stolen`: ticks that the hypervisor gave to other machines."""

    at: float
    stolen: int
    strangers: dict[int, _Process]


class Others:
    """Ours is this process, whoever has `root` in its command line (servers, guardians), and all below them."""

    def __init__(self, root: Path) -> None:
        self._root = os.fsencode(root)

    def look(self) -> Look | None:
        """None where there is no /proc."""
        if not (_PROC / "stat").exists():
            return None
        everybody = dict(_processes())
        ours = self._ours(everybody)
        strangers = {pid: one for pid, one in everybody.items() if pid not in ours and _KERNEL not in (pid, one.parent)}
        return Look(time.monotonic(), _stolen(), strangers)

    def share(self, before: Look | None) -> float | None:
        """Since then, of all processors: 0.05 is a twentieth of the machine. None: nobody can tell."""
        now = self.look()
        if before is None or now is None:
            return None
        counted = [one.spent for pid, one in before.strangers.items() if _left_behind(pid, before.strangers, now.strangers)]
        spent = sum(one.spent for one in now.strangers.values()) - sum(counted) + now.stolen - before.stolen
        return max(0.0, spent / _TICK / (now.at - before.at) / (os.cpu_count() or 1))

    def _ours(self, everybody: dict[int, _Process]) -> set[int]:
        ours = {os.getpid(), *(pid for pid in everybody if self._root in _command(pid))}
        while more := {pid for pid, one in everybody.items() if one.parent in ours and pid not in ours}:
            ours |= more
        return ours


def _processes() -> Iterator[tuple[int, _Process]]:
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            try:
                # proc(5): state, ppid, ... utime, stime, cutime, cstime; the name before may hold anything but the last parenthesis
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has just ended
            pid = int(folder.name)
            yield pid, _Process(int(fields[1]), sum(int(each) for each in fields[11 : 13 if pid == _FIRST else 15]))


def _left_behind(pid: int, before: Mapping[int, _Process], now: Mapping[int, _Process]) -> bool:
    """Is its time of then still in somebody's of now? Whoever ended left it to who waited for them; the first of all, who inherits, is not asked."""
    if pid in now:
        return True
    parent = before[pid].parent
    return parent != _FIRST and parent in before and _left_behind(parent, before, now)


def _command(pid: int) -> bytes:
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return b""


def _stolen() -> int:
    # cpu user nice system idle iowait irq softirq steal ...
    return int((_PROC / "stat").read_text().split("\n", 1)[0].split()[8])
