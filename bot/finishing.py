"""Work that is done to its end: cleaning up, and two things at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


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


async def both(one: Awaitable[T], other: Awaitable[U]) -> tuple[T, U]:
    """At once. When one fails the other is still waited for: a session can't be left in the middle of a query."""
    mine, theirs = await asyncio.gather(one, other, return_exceptions=True)
    if isinstance(mine, BaseException):
        raise mine
    if isinstance(theirs, BaseException):
        raise theirs
    return mine, theirs
