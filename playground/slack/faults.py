"""Slack on a bad day: failures that were ordered, and rate limits once they are armed."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from playground.slack.model import Json

#: limits that Slack counts per channel and not for the whole app
_PER_CHANNEL = frozenset({"chat.postMessage"})


@dataclass
class Fault:
    """The next `times` calls of a method end badly. `status` 0 cuts the connection; 200 answers `error`."""

    method: str
    status: int
    error: str | None
    store_first: bool
    retry_after: int | None
    times: int


class Faults:
    def __init__(self) -> None:
        self._ordered: list[Fault] = []
        self._limits: dict[str, tuple[int, float]] = {}
        self._seen: dict[tuple[str, str], deque[float]] = {}

    def order(self, fault: Fault) -> None:
        self._ordered.append(fault)

    def take(self, method: str) -> Fault | None:
        """The fault for this call, used up by it."""
        for fault in self._ordered:
            if fault.method == method:
                fault.times -= 1
                if not fault.times:
                    self._ordered.remove(fault)
                return fault
        return None

    def limit(self, method: str, calls: int, seconds: float) -> None:
        self._limits[method] = (calls, seconds)

    def wait(self, method: str, args: Json, now: float) -> int | None:
        """Seconds for Retry-After when this call is one too many, else None and it counts."""
        if method not in self._limits:
            return None
        calls, seconds = self._limits[method]
        seen = self._seen.setdefault((method, str(args.get("channel")) if method in _PER_CHANNEL else ""), deque())
        while seen and seen[0] <= now - seconds:
            seen.popleft()
        if len(seen) >= calls:
            return max(1, math.ceil(seen[0] + seconds - now))
        seen.append(now)
        return None
