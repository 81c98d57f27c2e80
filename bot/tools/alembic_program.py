"""The helper as a program: what it is given, how it is started, and how its frames are heard. Reading and moving share it."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bot.errors import BackoutError
from bot.ports import Database
from bot.running import Program, Runner
from bot.tools import alembic_helper
from bot.tools.alembic_settings import AlembicSettings
from bot.tools.frames import Frame, Frames
from bot.tools.trace import Trace
from bot.tools.watched import cleaning

REHEARSAL = "BACKOUT_REHEARSAL"  #: in the tool's environment it says that this is a copy; then no other address is even tried
# HOME is inherited, and its ~/.pgpass may open production; libpq passes over a file that is not there.
_NO_PASSWORDS = {"PGPASSFILE": "/nowhere/pgpass", "PGSERVICEFILE": "/nowhere/pg_service.conf"}
_HELPER = alembic_helper.source()
_STALE = 98  # its exit code; it had begun before the application's libraries were replaced, and read nothing
_KEEPS_PLACE = {"user", "password", "host", "port", "database", "url"}
Take = Callable[[Frame, Program], Awaitable[None]]


class HelperProgram:
    """`inherited` are the few variables that every program gets, `extra` those that a copy gets beside the settings' own.

    What depends on the database or on the call reaches the helper by its stdin: no secret of ours is in its environment before user code runs.
    """

    def __init__(
        self, settings: AlembicSettings, runner: Runner, database: Database, *, inherited: Mapping[str, str], extra: Mapping[str, str]
    ) -> None:
        self.settings, self.database = settings, database
        self._runner, self._inherited, self._asked = runner, inherited, {**settings.env, **extra}
        self._on_a_copy = REHEARSAL in extra
        self._connect = runner.seen(database.tool, copy=self._on_a_copy)
        self.clean = cleaning(database.tool)

    async def talk(self, request: Mapping[str, Any], application: str, trace: Trace, take: Take) -> None:
        """Start the helper and hand its frames to `take` until it ends. Leaving early kills its whole group. Raises ProgramMissing."""
        nonce = secrets.token_hex(8)
        frames = Frames(nonce)
        settings, secret = self.settings, self._connect.model_dump(include={"host", "port", "user", "password", "database", "sslmode"})
        common = {"config": settings.config, "section": settings.section, "x": settings.x, "copy": self._on_a_copy}
        private = {"nonce": nonce, "connect": secret, "env": self._of_this_call(application)}
        try:
            for _ in range(2):
                heard = False
                async with self._runner.start(
                    self._argv(), env=self._environment(), directory=settings.directory.absolute(), name=application, copy=self._on_a_copy
                ) as program:
                    await program.send(json.dumps({**common, **private, **request}).encode() + b"\n")
                    async for data in program.output():
                        for frame in frames.feed(data):
                            heard = True
                            await take(frame, program)
                    if await program.wait() != _STALE or heard:  # whoever has spoken may have run scripts, and is never begun again
                        break
        finally:
            trace.alien = frames.alien

    async def prepare(self) -> None:
        with suppress(BackoutError, OSError):  # whoever needs it says what is wrong
            await self._runner.prepare(self._argv(), env=self._environment(), directory=self.settings.directory.absolute())

    def _argv(self) -> list[str]:
        return [_absolute(self.settings.python), "-c", _HELPER]

    def _environment(self) -> dict[str, str]:
        """The same for every call, so that a program can be started before it is known what for, and without a secret of ours."""
        asked = {name: text for name, text in self._asked.items() if self._filled(text) == text}
        return {**self._inherited, **(_NO_PASSWORDS if self._on_a_copy else {}), **asked}

    def _of_this_call(self, application: str) -> dict[str, str]:
        """PGAPPNAME names the sessions that user code opens past SQLAlchemy, so that they can be found and ended."""
        filled = {name: self._filled(text) for name, text in self._asked.items()}
        return {"PGAPPNAME": application, **{name: value for name, value in filled.items() if value != self._asked[name]}}

    def _filled(self, template: str) -> str:
        tool = self._connect
        values = {name: str(getattr(tool, name)) for name in _KEEPS_PLACE - {"url"}}
        if "://" in template:
            values = {name: f"[{value}]" if name == "host" and ":" in value else quote(value, safe="") for name, value in values.items()}
        values["url"] = tool.url()
        return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), template)

    def trace(self) -> Trace:
        return Trace(self.clean, asyncio.get_running_loop().time)

    def last_lines(self, trace: Trace) -> str:
        return " / ".join((trace.output() or self.clean(trace.alien)).splitlines()[-5:])[-800:]


def _absolute(python: str | Path) -> str:
    """A path is made absolute, since the program starts in another folder; links stay, since a venv's Python is one. A name is looked up."""
    return str(Path(python).absolute()) if "/" in str(python) else str(python)
