"""APScheduler as alarm clock, and nothing else: deadlines live in the journal, so a restart forgets none.

One of the three broad `except`s of the project is here: a tick that fails is logged and comes again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from apscheduler.schedulers.asyncio import AsyncIOScheduler

log = logging.getLogger(__name__)

Tick = Callable[[], Awaitable[None]]

_RING_SECONDS = 1
_RETAIN_SECONDS = 3600
_DUTIES_SECONDS = 5


class Schedule:
    """Rings due alarms every second, looks every 5 s for backups and drills whose time has come, removes old backups every hour."""

    def __init__(self, *, ring: Tick, retain: Tick, duties: Tick) -> None:
        self._scheduler = AsyncIOScheduler(timezone="UTC", job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None})
        self._scheduler.add_job(_guarded(ring), "interval", seconds=_RING_SECONDS)
        self._scheduler.add_job(_guarded(retain), "interval", seconds=_RETAIN_SECONDS)
        self._scheduler.add_job(_guarded(duties), "interval", seconds=_DUTIES_SECONDS)

    def start(self) -> None:
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        self._scheduler.start()

    def stop(self) -> None:
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)


def _guarded(tick: Tick) -> Tick:
    async def run() -> None:
        try:
            await tick()
        except Exception:  # the clock goes on; the operator sees it in the log
            log.exception("a tick of the alarm clock failed")

    return run
