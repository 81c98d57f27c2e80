"""What the helper says, and what it keeps in mind: frames on the first stdout, whatever user code prints around and between them."""

from __future__ import annotations

import codecs
import json
import os
import re
import select
import signal
import sys
import threading
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

ENVIRON = os.environ  # noqa: TID251  this is the application's process, not Backout's
OWNER = os.getpid()
REFUSED = 97
STALE = 98
PIECE = 3000  # bytes; with its head below PIPE_BUF (4096), so that one write is atomic on a pipe
HEAD, TAIL = 64 * 1024, 16 * 1024  # bytes of output that are passed on as they come, and kept of the rest
# psycopg2.extras, psycopg.types and the like make no connection
DRIVER = re.compile(r"^\s*(?:import|from)\s+(?:psycopg2?|asyncpg|pg8000)(?:\s|,|$)", re.MULTILINE)
READS = re.compile(r"\s*(?:select|show|set)\b", re.IGNORECASE)

Sql = Any  # a DBAPI connection of any driver, sync or adapted by SQLAlchemy

REQUEST: dict[str, Any] = {}
CONNECT: dict[str, Any] = {}
NOW = SimpleNamespace(
    nonce="-",
    seq=0,
    deaf=False,
    begun=False,
    working=False,
    passed=0,
    revision=None,
    fence=None,
    address=None,
    proven={},
    started={},
    frames=-1,
    control=-1,
    alarm=-1,
    alarmed=False,
    heed=None,
    pump=None,
    redirected=False,
    led=[],
    confirm=None,
    measured=0.0,
    naming=0.0,
    looking_since=0.0,
    names={},
    held={},
    seen={},
    unread=set(),
)
_lock = threading.Lock()


# ------------------------------------------------------------------ frames


def emit(kind: str, **facts: Any) -> None:
    """One frame. When nobody reads any more the work goes on in silence: its fence is held by our own connection."""
    if os.getpid() != OWNER:
        return
    body = json.dumps(dict(facts, k=kind), default=str)  # ASCII, so a cut never splits a character
    pieces = [body[at : at + PIECE] for at in range(0, len(body), PIECE)]
    with _lock:
        NOW.seq += 1
        for number, piece in enumerate(pieces, 1):
            if not NOW.deaf:
                NOW.deaf = not _write(f"\n\x1e{NOW.nonce} {NOW.seq}.{number}/{len(pieces)} {piece}\n".encode())


def _write(data: bytes) -> bool:
    """False when the reader is gone. User code may have given SIGPIPE its deadly default back."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    try:
        while data:
            data = data[os.write(NOW.frames, data) :]
    except OSError:
        if hasattr(signal, "sigtimedwait"):
            signal.sigtimedwait({signal.SIGPIPE}, 0)
        return False
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return True


class Pump(threading.Thread):
    """File descriptors 1 and 2 become a pipe of ours: prints can neither break the frames nor die of a closed pipe."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.source, sink = os.pipe()
        self.passed = self.dropped = 0
        self.rest = b""
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        os.close(sink)
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]  # text streams at start
        self.start()

    def run(self) -> None:
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        while True:
            chunk = os.read(self.source, 8192)
            if not chunk:
                break
            room = HEAD - self.passed
            if room >= len(chunk):
                self.passed += len(chunk)
                emit("out", text=decode(chunk))
            else:
                self._keep(chunk)

    def _keep(self, chunk: bytes) -> None:
        self.passed = HEAD
        self.rest += chunk
        over = len(self.rest) - TAIL
        if over > 0:
            self.dropped += over
            self.rest = self.rest[over:]

    def close(self, wait: float) -> None:
        """Pass on what is still in the pipe. A child may hold it open: `wait` is the longest."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(ValueError, OSError, AttributeError):  # user code may have closed it, or put None there
                stream.flush()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        self.join(wait)
        if self.dropped:  # begin at a word: half a secret would not be recognised as one
            self.rest = re.sub(rb"^\S*", b"", self.rest)
        if self.rest:
            emit("out", text=self.rest.decode("utf-8", "replace"), dropped=self.dropped)
            self.rest = b""


def refuse(why: str, **facts: Any) -> Any:
    """Say why and end the process, now."""
    if os.getpid() != OWNER:  # a fork of user code: its parent speaks, and ends as well
        with suppress(OSError):
            os.write(NOW.alarm, json.dumps(dict(facts, why=why, forked=True), default=str)[:PIECE].encode() + b"\n")
        os._exit(REFUSED)
    NOW.pump.close(0.3)
    emit("refused", why=why, **facts)
    os._exit(REFUSED)


def listen_to_forks() -> None:
    source, NOW.alarm = os.pipe()

    def listen() -> None:
        select.select([source], [], [])
        NOW.alarmed = True
        told = os.read(source, PIECE).split(b"\n")[0]
        facts = json.loads(told) if told.endswith(b"}") else {"why": "forked"}
        refuse(facts.pop("why"), **facts)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()

    def heed() -> None:
        if select.select([source], [], [], 0)[0] or NOW.alarmed:
            listener.join()  # which ends the process

    NOW.heed = heed

    def in_child() -> None:
        # The child must not hold our pipes open, and the lock may have been taken when it was made.
        global _lock  # noqa: PLW0603
        _lock = threading.Lock()
        os.close(NOW.frames)
        os.close(NOW.control)

    os.register_at_fork(after_in_child=in_child)
