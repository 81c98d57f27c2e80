"""The history and where the database stands, read without changing anything."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from bot.errors import ProgramMissing, Refusal
from bot.model import History, Revision
from bot.ports import Database
from bot.running import Program
from bot.tools.alembic_program import HelperProgram
from bot.tools.alembic_words import failure, refusal
from bot.tools.bounds import spelled
from bot.tools.frames import Frame
from bot.tools.scripts import downgrade_kind, version_table
from bot.tools.trace import Trace, one_line

_READ_ONLY = "25006"


async def read(helper: HelperProgram, *, unmarked: bool = False) -> History:
    """Raises Refusal: tool_missing, broken_history, wrong_database, version_table_missing, external_transaction, several_version_tables,
    tool_failed, tool_timeout.
    """
    application = f"backout/read/{secrets.token_hex(4)}"
    frames: list[Frame] = []
    trace = helper.trace()

    async def take(frame: Frame, _: Program) -> None:
        trace.take(frame)
        if frame["k"] != "out":
            frames.append(frame)

    async with helper.database.challenge() as challenge:
        bounds = helper.settings.of_session(application) | {"default_transaction_read_only": "on"}
        request = {"op": "read", "challenge": challenge, "settings": bounds}
        limit = helper.settings.read_timeout
        try:
            async with asyncio.timeout(limit.total_seconds()):
                await helper.talk(request, application, trace, take)
        except TimeoutError:
            await helper.database.end_sessions(application)
            raise Refusal(
                "tool_timeout",
                f"Reading the migrations did not end within {spelled(limit)}; it was stopped. {helper.last_lines(trace)}".strip(),
                "Look at what env.py waits for, or raise tool.read_timeout.",
            ) from None
        except ProgramMissing as error:
            raise Refusal(
                "tool_missing",
                f"The migration tool can't be started: {error}. So neither the history nor the revision can be read.",
                "Set tool.directory and tool.python to where the application's own environment is.",
            ) from error
    return await _history(helper, frames, trace, unmarked=unmarked)


async def _history(helper: HelperProgram, frames: list[Frame], trace: Trace, *, unmarked: bool) -> History:
    graph = next((frame for frame in frames if frame["k"] == "graph"), None)
    current = [frame for frame in frames if frame["k"] == "current"]
    refused = [frame["sql"] for frame in frames if frame["k"] == "error" and frame["sqlstate"] == _READ_ONLY]
    end = trace.end
    if end is not None and end["k"] == "refused":
        raise refusal(end, helper.clean)
    if graph is None or (not refused and (not current or end is None or end["k"] != "done")):
        raise failure(end or {}, helper.last_lines(trace), helper.clean)
    if len(current) > 1:
        raise refusal({"why": "again"}, helper.clean)
    if current and current[0]["external"]:
        raise refusal({"why": "external_transaction"}, helper.clean)
    stands = await _stands(helper.database, current[0], unmarked=unmarked) if current else await _stands_by_ourselves(helper.database, graph)
    return History(
        revisions=tuple(_revision(frame) for frame in frames if frame["k"] == "revision"),
        heads=tuple(graph["heads"]),
        bases=tuple(graph["bases"]),
        remarks=_remarks(helper, graph, refused, frames),
        **stands,
    )


async def _stands(database: Database, current: Frame, *, unmarked: bool) -> dict[str, Any]:
    """As the tool's own session saw it."""
    table, schema = current["table"], current["schema"]
    if current["found_schema"] is None:
        try:
            await database.heads(table, schema)
        except Refusal as refusal:
            if not unmarked or refusal.code != "version_table_missing":
                raise
            return {"current": (), "version_table": table, "version_table_schema": schema, "one_transaction": current["one_transaction"]}
        raise Refusal(
            "version_table_missing",
            f"The table {table} exists, but the tool's own session does not find it on its search_path.",
            "Set version_table_schema in env.py.",
        )
    return {
        "current": tuple(current["heads"]), "version_table": table, "version_table_schema": current["found_schema"],
        "one_transaction": current["one_transaction"],
    }  # fmt: skip


async def _stands_by_ourselves(database: Database, graph: Frame) -> dict[str, Any]:
    """env.py wanted to write and came no further: read the version table on a connection of our own."""
    table, schema = version_table(graph["env"])
    heads = await database.heads(table, schema)
    return {"current": heads, "version_table": table, "version_table_schema": schema}


def _remarks(helper: HelperProgram, graph: Frame, refused: list[str], frames: list[Frame]) -> tuple[str, ...]:
    remarks = [
        f"env.py wants to write when it is read; this was refused: {one_line(helper.clean(sql), 200)}" for sql in dict.fromkeys(refused)
    ]  # fmt: skip
    if graph["direct"]:
        remarks.append(f"Connections that are made past SQLAlchemy can't be checked: {', '.join(graph['direct'])}")
    elsewhere = dict.fromkeys(frame["was"] for frame in frames if frame["k"] == "redirected")
    remarks += [f"env.py names another address ({helper.clean(was)}); its connections were led to the database meant" for was in elsewhere]
    return tuple(remarks[:10])


def _revision(frame: Frame) -> Revision:
    source = frame["source"]
    return Revision(
        revision=frame["revision"], down=frame["down"], depends_on=frame["depends_on"], message=frame["message"], date=frame["date"],
        path=frame["path"], sha256=frame["sha256"], downgrade=downgrade_kind(source), source=source or "",
    )  # fmt: skip
