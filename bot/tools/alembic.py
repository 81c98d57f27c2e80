"""Alembic, in the application's own Python and environment.

The helper (alembic_helper/) runs there. It redirects every connection that SQLAlchemy makes to the database meant and proves it by our
challenge (databases.md F14), sets and reads back the session's bounds (F13), takes the attempt's fence on the connection that does the work,
and waits for our `go`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from bot.errors import BackoutError, OutcomeUnknown, ProgramMissing, Refusal, StepFailed
from bot.model import History, Revision
from bot.ports import Database, Program, Runner, Work
from bot.process import redact
from bot.tools import alembic_helper
from bot.tools.alembic_words import failure, refusal
from bot.tools.frames import Frame, Frames
from bot.tools.scripts import downgrade_kind, version_table
from bot.tools.trace import Trace, one_line
from bot.values import Duration

_HELPER = alembic_helper.source()
_READ_ONLY = "25006"
_LOCK_TIMEOUT = "55P03"
_KEEPS_PLACE = {"user", "password", "host", "port", "database", "url"}
Take = Callable[[Frame, Program], Awaitable[None]]


class AlembicSettings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["alembic"] = "alembic"
    directory: Path = Field(description="The folder from which alembic is called, such as ./shop.")
    python: str | Path = Field("python3", description="The Python of the application's own environment, such as ./shop/.venv/bin/python.")
    config: str = Field("alembic.ini", description="The configuration's name in that folder.")
    section: str = Field("alembic", description="Its section, as alembic's --name.")
    x: tuple[str, ...] = Field((), description="Arguments for env.py, as alembic's -x.")
    env: dict[str, str] = Field(
        {"DATABASE_URL": "{url}"}, repr=False, description="Variables for env.py. {user} {password} {host} {port} {database} {url} are filled in."
    )
    lock_timeout: Duration = Field(dt.timedelta(seconds=5), description="How long a statement waits for a lock.")
    statement_timeout: Duration = Field(dt.timedelta(minutes=15), description="How long one statement may run.")
    read_timeout: Duration = Field(dt.timedelta(seconds=60), description="How long reading the history may take.")
    deadline: Duration = Field(dt.timedelta(minutes=30), description="How long a whole downgrade may take.")

    def placed(self, base: Path) -> AlembicSettings:
        """Relative paths begin at `base`; a Python without a slash is looked up on PATH."""
        python = str(self.python)
        return self.model_copy(update={"directory": base / self.directory, "python": str(base / python) if "/" in python else python})


class AlembicTool:
    """Implements ports.MigrationTool. `inherited` are the few variables that every program gets."""

    kind = "alembic"
    Settings = AlembicSettings

    def __init__(self, settings: AlembicSettings, runner: Runner, database: Database, *, inherited: Mapping[str, str]) -> None:
        self.settings = settings
        self._runner, self._database, self._inherited = runner, database, inherited
        password = database.tool.password
        self._secrets = tuple({password, quote(password, safe="")} - {""})

    # -------------------------------------------------------------- reading

    async def read(self) -> History:
        """Changes nothing: env.py runs in a read-only session.

        Raises Refusal: tool_missing, broken_history, wrong_database, version_table_missing, external_transaction, several_version_tables,
        tool_failed, tool_timeout.
        """
        application = f"backout/read/{secrets.token_hex(4)}"
        frames: list[Frame] = []
        trace = self._trace()

        async def take(frame: Frame, _: Program) -> None:
            trace.take(frame)
            if frame["k"] != "out":
                frames.append(frame)

        async with self._database.challenge() as challenge:
            request = {"op": "read", "challenge": challenge, "settings": self._bounds(application) | {"default_transaction_read_only": "on"}}
            limit = self.settings.read_timeout
            try:
                async with asyncio.timeout(limit.total_seconds()):
                    await self._talk(request, application, trace, take)
            except TimeoutError:
                await self._database.end_sessions(application)
                raise Refusal(
                    "tool_timeout",
                    f"Reading the migrations did not end within {_spelled(limit)}; it was stopped. {self._last_lines(trace)}".strip(),
                    "Look at what env.py waits for, or raise tool.read_timeout.",
                ) from None
        return await self._history(frames, trace)

    async def _history(self, frames: list[Frame], trace: Trace) -> History:
        graph = next((frame for frame in frames if frame["k"] == "graph"), None)
        current = [frame for frame in frames if frame["k"] == "current"]
        refused = [frame["sql"] for frame in frames if frame["k"] == "error" and frame["sqlstate"] == _READ_ONLY]
        end = trace.end
        if end is not None and end["k"] == "refused":
            raise refusal(end, self._clean)
        if graph is None or (not refused and (not current or end is None or end["k"] != "done")):
            raise failure(end or {}, self._last_lines(trace), self._clean)
        if len(current) > 1:
            raise refusal({"why": "again"}, self._clean)
        if current and current[0]["external"]:
            raise refusal({"why": "external_transaction"}, self._clean)
        stands = await self._stands(current[0]) if current else await self._stands_by_ourselves(graph)
        return History(
            revisions=tuple(_revision(frame) for frame in frames if frame["k"] == "revision"),
            heads=tuple(graph["heads"]),
            bases=tuple(graph["bases"]),
            remarks=self._remarks(graph, refused, frames),
            **stands,
        )

    async def _stands(self, current: Frame) -> dict[str, Any]:
        """As the tool's own session saw it."""
        table, schema = current["table"], current["schema"]
        if current["found_schema"] is None:
            await self._database.heads(table, schema)
            raise Refusal(
                "version_table_missing",
                f"The table {table} exists, but the tool's own session does not find it on its search_path.",
                "Set version_table_schema in env.py.",
            )
        return {
            "current": tuple(current["heads"]), "version_table": table, "version_table_schema": current["found_schema"],
            "one_transaction": current["one_transaction"],
        }  # fmt: skip

    async def _stands_by_ourselves(self, graph: Frame) -> dict[str, Any]:
        """env.py wanted to write and came no further: read the version table on a connection of our own."""
        table, schema = version_table(graph["env"])
        heads = await self._database.heads(table, schema)
        return {"current": heads, "version_table": table, "version_table_schema": schema}

    def _remarks(self, graph: Frame, refused: list[str], frames: list[Frame]) -> tuple[str, ...]:
        remarks = [
            f"env.py wants to write when it is read; this was refused: {one_line(self._clean(sql), 200)}" for sql in dict.fromkeys(refused)
        ]  # fmt: skip
        if graph["direct"]:
            remarks.append(f"Connections that are made past SQLAlchemy can't be checked: {', '.join(graph['direct'])}")
        elsewhere = dict.fromkeys(frame["was"] for frame in frames if frame["k"] == "redirected")
        remarks += [f"env.py names another address ({self._clean(was)}); its connections were led to the database meant" for was in elsewhere]
        return tuple(remarks[:10])

    # -------------------------------------------------------------- downgrading

    async def downgrade(self, to: str, work: Work) -> Mapping[str, Any]:
        """Returns facts: statements, statements_total, transactions, revisions, output, seconds, driver, one_transaction, connections, blockers.

        Raises StepFailed and OutcomeUnknown with the same facts. Once it was told to begin, every end but success ends the attempt's sessions, too.
        """
        trace = self._trace()
        async with self._database.challenge() as challenge:
            try:
                async with asyncio.timeout(self.settings.deadline.total_seconds()):
                    await self._carry_out(to, work, trace, challenge)
                self._judge(trace)
            except asyncio.CancelledError:
                with suppress(BackoutError):
                    await self._stop(work, trace)
                raise
            except TimeoutError:
                await self._stop(work, trace)
                told = f"The downgrade did not end within {_spelled(self.settings.deadline)}; it was stopped."
                raise (_unknown(told, trace) if trace.begun else _nothing(told, "Look at what env.py waits for, then retry.", trace)) from None
            except BackoutError:
                await self._stop(work, trace)
                raise
        return trace.facts()

    async def _stop(self, work: Work, trace: Trace) -> None:
        """A killed tool leaves a backend that may execute later (F4): see every session of this attempt gone.

        Not when it had not begun: then sessions of that name are a twin's, which may be at work.
        """
        if not trace.begun:
            return
        try:
            await asyncio.shield(self._database.end_sessions(work.application))
        except BackoutError as error:
            raise _unknown(f"The tool ended, but its sessions could not be seen gone: {str(error).rstrip('.')}.", trace) from error

    async def _carry_out(self, to: str, work: Work, trace: Trace, challenge: tuple[int, int]) -> None:
        plan = work.plan
        request = {
            "op": "downgrade",
            "to": to,
            "from": [] if plan.from_ == "base" else [plan.from_],
            "scripts": {undone.revision: undone.sha256 for undone in plan.undone},
            "challenge": challenge,
            "fence": _fence(work),
            "settings": self._bounds(work.application),
        }

        async def take(frame: Frame, program: Program) -> None:
            trace.take(frame)
            if frame["k"] == "ready":
                await self._decide(frame, program, work, trace)

        watching = asyncio.create_task(self._watch(work, trace))
        try:
            await self._talk(request, work.application, trace, take)
        except ProgramMissing as error:  # cannot come after the program has spoken
            raise _nothing(f"The tool can't be started: {error}.", "Look at tool.python and tool.directory.", trace) from error
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _decide(self, ready: Frame, program: Program, work: Work, trace: Trace) -> None:
        """The last moment at which nothing has happened."""
        plan = work.plan
        if plan.one_transaction and not ready["one_transaction"]:
            trace.objection = "env.py would not use one transaction for the whole downgrade any more, as it did when the plan was made."
        elif (ready["table"], ready["found_schema"]) != (plan.version_table, plan.version_table_schema or ready["found_schema"]):
            trace.objection = "env.py uses another version table than when the plan was made."
        else:
            await work.remember(pid=program.pid, backend=ready["backend"])
            if await work.may_begin():
                trace.begun = True
                await program.send(b"go\n")
        await program.close_stdin()

    async def _watch(self, work: Work, trace: Trace) -> None:
        """Progress at most once a second, and who is in the way of a statement that takes long. Never stops the work."""
        patience = min(2.0, self.settings.lock_timeout.total_seconds() / 2)
        told = ""
        while True:
            await asyncio.sleep(min(1.0, patience / 2))
            with suppress(BackoutError):
                if trace.waiting >= patience:
                    trace.blocked_by(await self._database.blockers(work.application))
                if trace.begun and trace.says() != told:
                    told = trace.says()
                    await work.progress(told)

    def _judge(self, trace: Trace) -> None:
        """Raise what the end means. The exit code is not looked at."""
        end = trace.end
        if trace.objection:
            raise _nothing(trace.objection, "Ask for a new plan.", trace)
        if end is not None and end["k"] == "refused":
            why = refusal(end, self._clean)
            if trace.begun:
                raise _unknown(f"The downgrade was stopped in the middle. {why.message}", trace)
            raise _nothing(why.message, why.next, trace)
        if not trace.begun:
            why = failure(end or {}, self._last_lines(trace), self._clean)
            told = why.message if end is None or end["k"] == "failed" else "env.py ended without running the migrations."
            raise _nothing(told, why.next, trace)
        if end is None:
            raise _unknown("The tool was lost in the middle of the downgrade: it ended without its last word.", trace)
        if trace.lost:
            raise _unknown(f"The tool lost its connection in the middle of the downgrade: {self._clean(end.get('message', ''))}.", trace)
        if end["k"] == "failed":
            raise self._failed(end, trace)

    def _failed(self, end: Frame, trace: Trace) -> StepFailed:
        told = [f"downgrade() of {end['revision']} failed" if end["revision"] else "The downgrade failed"]
        told[0] += f": {self._clean(end['message'])} ({self._clean(end['where'])})."
        following = "Look at the error, then retry, restore, or leave it."
        if end["sqlstate"] == _LOCK_TIMEOUT:
            waited = f"waited {_spelled(self.settings.lock_timeout)} for {trace.blockers() or 'a lock that somebody else held'}"
            told = [f"downgrade() of {end['revision']} {waited}, and gave up (lock timeout, {self._clean(end['where'])})."]
            following = "End that session or wait for it, then retry."
        if trace.facts()["one_transaction"] and not trace.commits:
            told.append("Its one transaction was rolled back.")
        else:
            undone = ", ".join(trace.undone) or "no revision"
            told.append(f"Not all of it was in one transaction: {trace.commits} had been committed, {undone} was undone.")
        error = {"message": self._clean(end["message"]), **{key: end[key] for key in ("type", "sqlstate", "where", "revision")}}
        error["trace"] = [self._clean(place) for place in end["trace"]]
        return StepFailed(" ".join([*told, following]), trace.facts() | {"error": error})

    # -------------------------------------------------------------- the helper

    async def _talk(self, request: Mapping[str, Any], application: str, trace: Trace, take: Take) -> None:
        """Start the helper and hand its frames to `take` until it ends. Leaving early kills its whole group."""
        nonce = secrets.token_hex(8)
        frames = Frames(nonce)
        common = {"config": self.settings.config, "section": self.settings.section, "x": self.settings.x}
        try:
            async with self._runner.start(
                [_absolute(self.settings.python), "-c", _HELPER],
                env=self._environment(application, nonce),
                directory=self.settings.directory.absolute(),
            ) as program:
                await program.send(json.dumps({**common, **request}).encode() + b"\n")
                async for data in program.output():
                    for frame in frames.feed(data):
                        await take(frame, program)
                await program.wait()
        except ProgramMissing as error:
            if request["op"] != "read":
                raise
            raise Refusal(
                "tool_missing",
                f"The migration tool can't be started: {error}. So neither the history nor the revision can be read.",
                "Set tool.directory and tool.python to where the application's own environment is.",
            ) from error
        finally:
            trace.alien = frames.alien

    def _environment(self, application: str, nonce: str) -> dict[str, str]:
        tool = self._database.tool
        asked = {name: self._filled(text) for name, text in self.settings.env.items()}
        secret = tool.model_dump(include={"host", "port", "user", "password", "database", "sslmode"})
        # PGAPPNAME names the sessions that user code opens past SQLAlchemy, so that they can be found and ended.
        return {**self._inherited, "PGAPPNAME": application, **asked, "BACKOUT_NONCE": nonce, "BACKOUT_CONNECT": json.dumps(secret)}

    def _filled(self, template: str) -> str:
        tool = self._database.tool
        values = {name: str(getattr(tool, name)) for name in _KEEPS_PLACE - {"url"}}
        if "://" in template:
            values = {name: f"[{value}]" if name == "host" and ":" in value else quote(value, safe="") for name, value in values.items()}
        values["url"] = tool.url()
        return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), template)

    def _bounds(self, application: str) -> dict[str, str]:
        """In Postgres' own units, milliseconds, so that they can be compared when they are read back."""
        milliseconds = {name: int(getattr(self.settings, name).total_seconds() * 1000) for name in ("lock_timeout", "statement_timeout")}
        numbers = {**milliseconds, "client_connection_check_interval": 1000}
        return {"application_name": application} | {name: str(number) for name, number in numbers.items()}

    def _trace(self) -> Trace:
        return Trace(self._clean, asyncio.get_running_loop().time)

    def _clean(self, text: str) -> str:
        """Without secrets, and without what a JSON column can't hold."""
        return redact(text, self._secrets).replace("\x00", "").encode("utf-8", "replace").decode()

    def _last_lines(self, trace: Trace) -> str:
        return " / ".join((trace.output() or self._clean(trace.alien)).splitlines()[-5:])[-800:]


def _revision(frame: Frame) -> Revision:
    source = frame["source"]
    return Revision(
        revision=frame["revision"], down=frame["down"], depends_on=frame["depends_on"], message=frame["message"], date=frame["date"],
        path=frame["path"], sha256=frame["sha256"], downgrade=downgrade_kind(source), source=source or "",
    )  # fmt: skip


def _fence(work: Work) -> tuple[int, int]:
    """Two signed 32-bit keys of this very attempt."""
    raw = hashlib.sha256(f"{work.run}\n{work.step}\n{work.attempt}".encode()).digest()
    return int.from_bytes(raw[:4], "big", signed=True), int.from_bytes(raw[4:8], "big", signed=True)


def _spelled(duration: dt.timedelta) -> str:
    return f"{duration.total_seconds():g} s"


def _absolute(python: str | Path) -> str:
    """A path is made absolute, since the program starts in another folder; links stay, since a venv's Python is one. A name is looked up."""
    return str(Path(python).absolute()) if "/" in str(python) else str(python)


def _nothing(told: str, following: str, trace: Trace) -> StepFailed:
    return StepFailed(f"{told} Nothing was executed. {following}", trace.facts())


def _unknown(told: str, trace: Trace) -> OutcomeUnknown:
    return OutcomeUnknown(f"{told} Nobody can say how far it came: look at the revision and the schema before anything else.", trace.facts())
