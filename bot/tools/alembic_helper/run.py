"""The work: read the history, or move the database behind the gate."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import select
import sys
from contextlib import suppress
from typing import Any

from . import HERE, OWN_PATH
from .connections import on_connect, on_do_connect
from .frames import CONNECT, ENVIRON, NOW, OWNER, REFUSED, REQUEST, STALE, Pump, emit, listen_to_forks, refuse
from .gate import gate
from .history import described, history, said
from .locks import cost
from .statements import after_sql, before_sql, on_commit, on_error, on_rollback

# ------------------------------------------------------------------ the work


def configuration() -> Any:
    """As alembic's own command line would read it: the ini, the section, -x, and [tool.alembic] where this alembic knows it."""
    config = importlib.import_module("alembic.config").Config
    name = REQUEST["config"]
    extra = {}
    toml = name if os.path.basename(name) == "pyproject.toml" else "pyproject.toml"
    if "toml_file" in inspect.signature(config.__init__).parameters and os.path.exists(toml):
        extra["toml_file"] = toml
    ini = name if name != toml and os.path.exists(name) else None
    if ini is None and not extra:
        refuse("no_config", file=os.path.join(HERE, name))
    options = argparse.Namespace(
        config=[name], name=REQUEST["section"], x=REQUEST["x"], raiseerr=True, quiet=False, **as_a_command("current" if reads() else REQUEST["op"])
    )
    return config(ini, ini_section=REQUEST["section"], cmd_opts=options, **extra)


def as_a_command(name: str) -> dict[str, Any]:
    """What alembic's own command line would leave in cmd_opts: env.py may look at the command and at its arguments."""
    function = getattr(importlib.import_module("alembic.command"), name)
    parameters = list(inspect.signature(function).parameters.values())[1:]
    positional = [one.name for one in parameters if one.default is one.empty]
    options = {one.name: one.default for one in parameters if one.default is not one.empty}
    return {"revision": REQUEST.get("to"), "sql": False, "tag": None, **options, "cmd": (function, positional, list(options))}


def reads() -> bool:
    return bool(REQUEST["op"] == "read")


def watch() -> None:
    event = importlib.import_module("sqlalchemy.event")
    engine = importlib.import_module("sqlalchemy.engine").Engine
    # On the classes: every engine, sync or async, made now or later.
    event.listen(engine, "do_connect", on_do_connect)
    event.listen(importlib.import_module("sqlalchemy.pool").Pool, "connect", on_connect)
    event.listen(engine, "before_cursor_execute", before_sql)
    event.listen(engine, "after_cursor_execute", after_sql)
    event.listen(engine, "handle_error", on_error)
    event.listen(engine, "commit", on_commit)
    event.listen(engine, "rollback", on_rollback)
    context = importlib.import_module("alembic.runtime.migration").MigrationContext
    original = context.run_migrations
    context.run_migrations = lambda self, **kw: gate(self, lambda: original(self, **kw))


def load() -> None:
    """The libraries, while the request may still be on its way: a program that was started ahead has them by then."""
    sys.dont_write_bytecode = True  # reading leaves nothing in the project's folders
    with suppress(Exception):  # work() says what is missing
        importlib.import_module("alembic.command")
        importlib.import_module("sqlalchemy.dialects.postgresql")


def imported() -> dict[str, Any]:
    """By path of what is imported: which file lies there, since when. It may wait for days, and the application be upgraded meanwhile."""
    found: dict[str, Any] = {}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str):
            found[file] = None
            with suppress(OSError):
                there = os.stat(file)
                found[file] = (there.st_dev, there.st_ino, there.st_mtime_ns, there.st_size)
    return found


def work() -> None:
    try:
        alembic = importlib.import_module("alembic")
        sqlalchemy = importlib.import_module("sqlalchemy")
        watch()
    except ImportError as error:
        refuse("tool_missing", message=said(error), python=sys.executable)
    sys.path[:0] = OWN_PATH
    emit("installed", alembic=alembic.__version__, sqlalchemy=sqlalchemy.__version__, python=sys.version.split()[0])
    config = configuration()
    try:
        script = importlib.import_module("alembic.script").ScriptDirectory.from_config(config)
    except importlib.import_module("alembic.util").CommandError as error:
        refuse("wrong_config", message=said(error))
    if not reads():
        getattr(importlib.import_module("alembic.command"), REQUEST["op"])(config, REQUEST["to"])
        return
    history(script)
    environment = importlib.import_module("alembic.runtime.environment").EnvironmentContext
    with environment(config, script, fn=lambda _heads, _context: [], dont_mutate=True):
        script.run_env()


def main() -> None:
    NOW.frames = os.dup(1)  # not inherited by child processes
    NOW.control = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # user code that asks for input gets its end, and can't take our `go`
    requests = os.fdopen(NOW.control, "r", encoding="utf-8")
    load()
    known = imported()
    select.select([requests], [], [])
    if imported() != known:
        os._exit(STALE)
    line = requests.readline()
    if not line.endswith("\n"):
        os._exit(REFUSED)
    REQUEST.update(json.loads(line))
    NOW.nonce = REQUEST.pop("nonce")
    CONNECT.update(REQUEST.pop("connect"))
    ENVIRON.update(REQUEST.pop("env"))
    NOW.pump = Pump()
    listen_to_forks()
    NOW.confirm = requests.readline
    code = 0
    try:
        work()
    except BaseException as error:  # noqa: BLE001  SystemExit and KeyboardInterrupt of user code too
        ended_well = isinstance(error, SystemExit) and not error.code and NOW.passed
        code = 0 if ended_well else 1
        failure = described(error)
    if os.getpid() != OWNER:  # a fork of user code that came back here
        os._exit(code)
    NOW.heed()  # a child that ended before us has spoken: its word is the last one
    NOW.pump.close(2.0)
    if code:
        emit("failed", revision=NOW.revision, measured=cost(), **failure)
    else:
        emit("done", measured=cost())
    os._exit(code)  # atexit handlers and threads of user code can't hold us
