"""Memory that stays the same whatever the size of what streams through."""

from __future__ import annotations

import ctypes

_M_ARENA_MAX = -8  # mallopt(3), glibc


def one_arena() -> None:
    """Blocks go from thread to thread here, to be hashed, compressed and sent. With an arena each, glibc keeps what a thread freed for it alone.

    Before any thread is started. Nothing where the C library has no such thing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
