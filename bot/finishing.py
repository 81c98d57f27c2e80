"""Cleaning up that is done to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine


async def whatever_happens(work: Coroutine[None, None, object]) -> None:
    """To its end, also when we are cancelled meanwhile; then the cancellation goes on."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled
