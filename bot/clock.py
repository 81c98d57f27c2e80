"""The time. Nothing else reads it."""

from __future__ import annotations

import datetime as dt
import time


class SystemClock:
    """The machine's clock, in UTC."""

    def now(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC)  # noqa: TID251  this is the one place

    def monotonic(self) -> float:
        return time.monotonic()
