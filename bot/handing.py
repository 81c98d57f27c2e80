"""From the command line to the process of this machine that carries the run: an address, over a socket that only Backout's own user can open.

It holds a password, so it goes by no journal and no argv. Who sends it proves who they are with their token, as with every command.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bot.errors import BackoutError, Denied, Refusal

log = logging.getLogger(__name__)

_LONGEST = 100  # bytes of a socket's path; the system takes 107
_LINE = 16_384  # bytes of a question
_PATIENCE = 10.0  # seconds for the question
_ANSWER = 120.0  # seconds: a server is looked at meanwhile

#: run, address, user, token
Take = Callable[[str, str, str, str], Awaitable[None]]


def place(home: Path) -> Path:
    return home / "address.sock"


class Handing:
    """Listens as long as this process carries runs."""

    def __init__(self, path: Path, take: Take) -> None:
        self._path, self._take = path, take
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """A dead process's socket is replaced: only one carries the runs of a home. Where there can be none, Slack is the way."""
        if len(bytes(self._path)) > _LONGEST:
            log.info("no addresses are taken from the command line: the path of %s is too long for a socket", self._path)
            return
        try:
            self._path.unlink(missing_ok=True)
            self._server = await asyncio.start_unix_server(self._serve, self._path, limit=_LINE)
            self._path.chmod(0o600)
        except OSError as error:
            log.warning("no addresses are taken from the command line: %s", error)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                asked = json.loads(await reader.readline())
            answer = await self._answer(*(str(asked[key]) for key in ("run", "address", "as", "token")))
        except (ValueError, KeyError, TypeError, TimeoutError, OSError):
            answer = {"denied": "That can't be read."}
        with suppress(OSError):
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def _answer(self, run: str, address: str, user: str, token: str) -> dict[str, Any]:
        try:
            await self._take(run, address, user, token)
        except Refusal as refusal:
            return {"refusal": [refusal.code, refusal.message, refusal.next]}
        except BackoutError as error:
            return {"denied": str(error)}
        return {}


async def hand_over(home: Path, run: str, address: str, user: str, token: str) -> bool:
    """False when nobody listens here. Raises Refusal, Denied: what the process that carries the run said."""
    try:
        reader, writer = await asyncio.open_unix_connection(place(home), limit=_LINE)
    except (OSError, ValueError):
        return False
    try:
        writer.write(json.dumps({"run": run, "address": address, "as": user, "token": token}).encode() + b"\n")
        async with asyncio.timeout(_ANSWER):
            told = json.loads(await reader.readline())
    except (ValueError, TimeoutError, OSError):
        raise Denied("The process that carries the run gave no answer. Look at the run, then enter the address again.") from None
    finally:
        writer.close()
    if "refusal" in told:
        raise Refusal(*told["refusal"])
    if "denied" in told:
        raise Denied(told["denied"])
    return True
