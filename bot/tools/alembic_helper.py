"""Runs in the application's own Python, beside its own alembic. One file, standard library only, Python 3.7 and later.

Backout reads this file as text and hands it to that Python with `-c`; nothing of Backout imports it.

In : environment  BACKOUT_NONCE, and BACKOUT_CONNECT (JSON, holds a password); both are taken out before any user code runs
     stdin        one line: the request (JSON, no secret); for a downgrade a second one, `go`. The end of stdin means: do not begin
Out: frames on the first stdout, one a line: RS NONCE SP SEQ.PART/PARTS SP PIECE-OF-JSON NL
     What user code prints (Python, C, child processes) comes as frames of kind `out`, in order.
Exit: 0 done, 1 failed, 97 refused. Any refusal is os._exit: no `except`, atexit or event loop of user code can go on after it.
"""

from __future__ import annotations

import os
import sys

# A project's own json.py, or a folder ./alembic with an __init__.py, must not be taken for the library.
_HERE = os.getcwd()
_OWN_PATH = [entry for entry in sys.path if entry in ("", _HERE)]
sys.path = [entry for entry in sys.path if entry not in ("", _HERE)]

import argparse  # noqa: E402  the path above comes first
import codecs  # noqa: E402
import hashlib  # noqa: E402
import importlib  # noqa: E402
import inspect  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402
import signal  # noqa: E402
import textwrap  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
import traceback  # noqa: E402
import warnings  # noqa: E402
from contextlib import suppress  # noqa: E402
from types import SimpleNamespace  # noqa: E402
from typing import Any, Callable, Iterator  # noqa: E402, UP035  collections.abc can't be subscripted in 3.7

_ENVIRON = os.environ  # noqa: TID251  this is the application's process, not Backout's
NONCE = _ENVIRON.pop("BACKOUT_NONCE", "-")
CONNECT = json.loads(_ENVIRON.pop("BACKOUT_CONNECT", "{}"))
OWNER = os.getpid()
REFUSED = 97
PIECE = 3000  # bytes; with its head below PIPE_BUF (4096), so that one write is atomic on a pipe
HEAD, TAIL = 64 * 1024, 16 * 1024  # bytes of output that are passed on as they come, and kept of the rest
# psycopg2.extras, psycopg.types and the like make no connection
DRIVER = re.compile(r"^\s*(?:import|from)\s+(?:psycopg2?|asyncpg|pg8000)(?:\s|,|$)", re.MULTILINE)
READS = re.compile(r"\s*(?:select|show|set)\b", re.IGNORECASE)

Sql = Any  # a DBAPI connection of any driver, sync or adapted by SQLAlchemy

REQUEST: dict[str, Any] = {}
NOW = SimpleNamespace(
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
    pump=None,
    redirected=False,
    confirm=None,
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
                NOW.deaf = not _write(f"\n\x1e{NONCE} {NOW.seq}.{number}/{len(pieces)} {piece}\n".encode())


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
            stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
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
        with suppress(ValueError, OSError):
            sys.stdout.flush()
            sys.stderr.flush()
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


def _listen_to_forks() -> None:
    source, NOW.alarm = os.pipe()

    def listen() -> None:
        told = os.read(source, PIECE).split(b"\n")[0]
        facts = json.loads(told) if told.endswith(b"}") else {"why": "forked"}
        refuse(facts.pop("why"), **facts)

    threading.Thread(target=listen, daemon=True).start()

    def in_child() -> None:
        # The child must not hold our pipes open, and the lock may have been taken when it was made.
        global _lock  # noqa: PLW0603
        _lock = threading.Lock()
        os.close(NOW.frames)
        os.close(NOW.control)

    os.register_at_fork(after_in_child=in_child)


# ------------------------------------------------------------------ every connection: redirected, proven, set


def raw(dbapi: Sql, statement: str) -> Any:
    """The first row. Not through SQLAlchemy: that would open a transaction which alembic takes for somebody else's."""
    cursor = dbapi.cursor()
    try:
        cursor.execute(statement)
        return cursor.fetchone() if cursor.description else None
    finally:
        cursor.close()


def literal(value: Any) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def on_do_connect(dialect: Any, _record: Any, args: Any, params: dict[str, Any]) -> None:
    """Whatever address env.py found: connect to the database meant. A second, different address is left alone; the proof judges it."""
    if dialect.name != "postgresql":
        refuse("wrong_database", found={"kind": dialect.name})
    name = "dbname" if "psycopg" in dialect.driver else "database"
    asked = (str(params.get("host")), str(params.get("port")), str(params.get("dbname") or params.get("database")), str(params.get("dsn")), str(args))
    if NOW.address is None:
        NOW.address, NOW.redirected = asked, asked[:3] != (CONNECT["host"], str(CONNECT["port"]), CONNECT["database"])
    if NOW.address != asked:
        if NOW.redirected:  # which of the two is meant can't be known
            refuse("two_databases", found=[_place(NOW.address), _place(asked)])
        return
    for key in ("dsn", "service", "hostaddr", "dbname", "database", "passfile"):
        params.pop(key, None)
    del args[:]
    params.update({key: CONNECT[key] for key in ("host", "port", "user")})
    params.update({name: CONNECT["database"], "password": CONNECT["password"] or None})
    if CONNECT.get("sslmode"):
        params["ssl" if dialect.driver == "asyncpg" else "sslmode"] = CONNECT["sslmode"]
    if NOW.redirected:
        emit("redirected", was=_place(asked))


def _place(address: tuple[str, ...]) -> str:
    """Host, port and database. Never the user or the rest: a DSN may hold a password."""
    return "{}:{}/{}".format(*address)


PROOF = """select pg_backend_pid(), current_database(), current_user, host(inet_server_addr()), inet_server_port(),
 current_setting('server_version_num'), pg_is_in_recovery(), exists(select 1 from pg_locks where locktype = 'advisory' and granted
 and objsubid = 2 and database = (select oid from pg_database where datname = current_database()) and classid::bigint = {} and objid::bigint = {})"""


def on_connect(dbapi: Sql, _record: Any) -> None:
    """Before any statement of user code on this connection: prove it, set it, read the settings back, take the fence."""
    if os.getpid() != OWNER and NOW.begun:
        refuse("forked")
    try:
        pid, database, user, host, port, version, standby, seen = raw(dbapi, PROOF.format(*(key & 0xFFFFFFFF for key in REQUEST["challenge"])))
    except BaseException as error:  # noqa: BLE001  whatever the driver raises, an unproven connection is refused
        refuse("cannot_prove", message=said(error))
    found = {"database": database, "user": user, "host": host, "port": port, "standby": bool(standby)}
    if not seen:
        refuse("wrong_database", found=found)
    wanted = dict(REQUEST["settings"])
    if int(version) < 140000:
        wanted.pop("client_connection_check_interval", None)
    try:
        for name, value in wanted.items():
            raw(dbapi, f"select set_config({literal(name)}, {literal(value)}, false)")
        dbapi.commit()  # a SET that is rolled back is undone, and the pool rolls back
        NOW.proven[id(dbapi)] = (dbapi, int(pid), os.getpid(), wanted)
        check_settings(dbapi)
        if REQUEST.get("fence"):
            take_fence(dbapi, at_the_gate=False)
        dbapi.rollback()
    except BaseException as error:  # noqa: BLE001  see above
        refuse("cannot_prove", message=said(error))
    emit("connected", pid=int(pid), **found)


def check_settings(dbapi: Sql) -> None:
    for name, value in NOW.proven[id(dbapi)][3].items():
        stands = raw(dbapi, f"select setting from pg_settings where name = {literal(name)}")[0]  # noqa: S608  names are ours
        if stands != value:
            refuse("settings", name=name, wanted=value, found=stands)


def take_fence(dbapi: Sql, *, at_the_gate: bool) -> None:
    """A session lock: it outlives commit and rollback and dies with the connection that does the work."""
    first, second = REQUEST["fence"]
    keys = f"{first}::int, {second}::int"
    if at_the_gate and NOW.fence not in (None, dbapi):
        with suppress(Exception):  # a sibling that was closed has given the lock back
            raw(NOW.fence, f"select pg_advisory_unlock({keys})")
    if raw(dbapi, f"select pg_try_advisory_lock({keys})")[0]:
        NOW.fence = dbapi
        return
    holder = raw(
        dbapi,
        "select pid from pg_locks where locktype = 'advisory' and granted and objsubid = 2"  # noqa: S608  two integers of ours
        " and database = (select oid from pg_database where datname = current_database())"
        f" and classid::bigint = {first & 0xFFFFFFFF} and objid::bigint = {second & 0xFFFFFFFF}",
    )
    pid = int(holder[0]) if holder else None
    if at_the_gate or pid not in [proven[1] for proven in NOW.proven.values()]:
        refuse("twin", pid=pid)


def proven(connection: Any) -> Sql:
    """The DBAPI connection below, which must be one of this process that was proven."""
    pooled = connection.connection
    dbapi = getattr(pooled, "dbapi_connection", None) or pooled.connection
    known = NOW.proven.get(id(dbapi))
    if known is None or known[2] != os.getpid():
        refuse("unproven_connection")
    return dbapi


# ------------------------------------------------------------------ every statement


def before_sql(connection: Any, cursor: Any, statement: str, _parameters: Any, _context: Any, _many: bool) -> None:
    proven(connection)
    if NOW.redirected and not NOW.passed and not READS.match(statement):
        refuse("redirected_write", was=_place(NOW.address), sql=statement[:200])
    NOW.started[id(cursor)] = time.perf_counter()
    if NOW.working:
        emit("sql", sql=statement[:500], revision=NOW.revision)


def after_sql(_connection: Any, cursor: Any, _statement: str, _parameters: Any, _context: Any, _many: bool) -> None:
    seconds = time.perf_counter() - NOW.started.pop(id(cursor), time.perf_counter())
    if NOW.working:
        rows = getattr(cursor, "rowcount", -1)
        emit("ran", ms=round(seconds * 1000, 2), rows=rows if isinstance(rows, int) and rows >= 0 else None)


def on_error(context: Any) -> None:
    emit("error", sqlstate=state_of(context.original_exception), lost=bool(context.is_disconnect), sql=(context.statement or "")[:500])


def watch() -> None:
    event = importlib.import_module("sqlalchemy.event")
    engine = importlib.import_module("sqlalchemy.engine").Engine
    # On the classes: every engine, sync or async, made now or later.
    event.listen(engine, "do_connect", on_do_connect)
    event.listen(importlib.import_module("sqlalchemy.pool").Pool, "connect", on_connect)
    event.listen(engine, "before_cursor_execute", before_sql)
    event.listen(engine, "after_cursor_execute", after_sql)
    event.listen(engine, "handle_error", on_error)
    event.listen(engine, "commit", lambda _: emit("commit") if NOW.begun else None)
    context = importlib.import_module("alembic.runtime.migration").MigrationContext
    original = context.run_migrations
    context.run_migrations = lambda self, **kw: gate(self, lambda: original(self, **kw))


# ------------------------------------------------------------------ the gate before the migrations


def gate(context: Any, run: Callable[[], None]) -> None:
    """Stands before MigrationContext.run_migrations, on the connection that alembic would use."""
    if os.getpid() != OWNER:
        refuse("forked")
    if context.as_sql:
        refuse("offline")
    dbapi = proven(context.connection)
    NOW.passed += 1
    if REQUEST["op"] == "read":
        emit("current", heads=sorted(context.get_current_heads()), **shape(context, dbapi))
        return
    if NOW.passed > 1:
        refuse("again")
    check_settings(dbapi)
    take_fence(dbapi, at_the_gate=True)
    heads = context.get_current_heads()
    if sorted(heads) != sorted(REQUEST["from"]):
        refuse("moved", found=sorted(heads))
    found = shape(context, dbapi)
    if found["external"]:
        refuse("external_transaction")
    steps = list(context._migrations_fn(heads, context))
    check_scripts(steps)
    emit("ready", backend=NOW.proven[id(dbapi)][1], **found)
    if NOW.confirm() != "go\n":
        refuse("not_confirmed")
    NOW.begun = True
    context._migrations_fn = lambda _heads, _context: told(steps)
    run()
    emit("migrated")


def told(steps: list[Any]) -> Iterator[Any]:
    NOW.working = True
    for step in steps:
        NOW.revision = step.revision.revision
        yield step
        emit("undone", revision=NOW.revision)
    NOW.revision = None


def check_scripts(steps: list[Any]) -> None:
    """What alembic would run, as it lies on the disk after it was loaded, is what was planned: the same revisions, the same bytes."""
    planned: dict[str, str] = REQUEST["scripts"]
    found = [step.revision.revision for step in steps]
    if sorted(found) != sorted(planned) or any(step.is_upgrade for step in steps):
        refuse("other_plan", found=found)
    changed = [path(step.revision) for step in steps if sha256(step.revision.path) != planned[step.revision.revision]]
    if changed:
        refuse("scripts_changed", files=changed)


def shape(context: Any, dbapi: Sql) -> dict[str, Any]:
    """Which version table, and what the transactions of a downgrade would be."""
    names = [name for name in (context.version_table_schema, context.version_table) if name]
    lookup = " || '.' || ".join(f"quote_ident({literal(name)})" for name in names)
    table = raw(dbapi, f"select nspname::text from pg_class c join pg_namespace n on n.oid = relnamespace where c.oid = to_regclass({lookup})")  # noqa: S608  quoted above
    # now() is the transaction's start: it moves between two statements that commit by themselves.
    stays = raw(dbapi, "select now()::text")[0] == raw(dbapi, "select now()::text")[0]
    external = bool(getattr(context, "_in_external_transaction", False))
    whole = getattr(context, "_transaction", None) is not None and not getattr(context, "_transaction_per_migration", False)
    return {
        "table": context.version_table,
        "schema": context.version_table_schema,
        "found_schema": table[0] if table else None,
        "external": external,
        "one_transaction": bool(stays and whole and not external and context.impl.transactional_ddl),
        "driver": context.connection.dialect.driver,
    }


# ------------------------------------------------------------------ the history, from the scripts alone


def path(script: Any) -> str:
    return os.path.relpath(str(script.path))


def sha256(file: str) -> str:
    with open(file, "rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()


def several(value: Any) -> list[str]:
    return list(value) if isinstance(value, (tuple, list, set)) else [value] if value else []


def history(script: Any) -> None:
    """A frame for each revision, then one for the graph. Refuses a history that is broken, naming what is."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            revisions = list(script.walk_revisions("base", "heads"))
        except BaseException as error:  # noqa: BLE001  a script may raise anything while it is loaded
            broken(script, error)
    if any("more than once" in str(warning.message) for warning in warned):
        broken(script, None)
    for one in revisions:
        date = re.search(r"Create Date:\s*(.+)", one.longdoc or "")
        emit(
            "revision", revision=one.revision, down=several(one.down_revision), depends_on=several(one.dependencies), message=one.doc or "",
            date=date.group(1).strip() if date else None, path=path(one), sha256=sha256(one.path), source=source_of(one),
        )  # fmt: skip
    env = getattr(script, "env_py_location", None) or os.path.join(script.dir, "env.py")
    direct = [os.path.relpath(file) for file in [env] + [one.path for one in revisions] if DRIVER.search(text_of(file))]
    emit("graph", heads=list(script.get_heads()), bases=list(script.get_bases()), direct=direct[:20], env=text_of(env))


def broken(script: Any, error: BaseException | None) -> None:
    """Alembic says KeyError: '00ff' for a missing file, and only warns of a revision that is there twice."""
    files: dict[str, list[str]] = {}
    wanted: list[tuple[str, str]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for one in script._load_revisions():
                files.setdefault(one.revision, []).append(path(one))
                wanted += [(down, path(one)) for down in several(one.down_revision)]
        except BaseException as unloadable:  # noqa: BLE001  see above
            refuse("broken_history", problem="unloadable", **described(unloadable))
    for revision, places in files.items():
        if len(places) > 1:
            refuse("broken_history", problem="duplicate", revision=revision, files=places)
    for revision, place in wanted:
        if revision not in files:
            refuse("broken_history", problem="missing", revision=revision, files=[place])
    refuse("broken_history", problem="cycle", message=said(error) if error else "")


def source_of(script: Any) -> str | None:
    """The text of downgrade(); None when there is no such function, empty when its text can't be had."""
    function = getattr(script.module, "downgrade", None)
    try:
        return None if function is None else textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError, SyntaxError, IndexError):
        return ""


def text_of(file: str) -> str:
    with open(file, "rb") as stream:
        return stream.read().decode("utf-8", "replace")


# ------------------------------------------------------------------ what went wrong


def chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[int] = []
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.append(id(following))
        yield following
        following = getattr(following, "orig", None) or following.__cause__ or following.__context__


def state_of(error: BaseException) -> str | None:
    for one in chain(error):
        state = getattr(one, "sqlstate", None) or getattr(one, "pgcode", None)
        if state:
            return str(state)
    return None


def said(error: BaseException) -> str:
    """The error's own words, without the statement and its parameters."""
    told = getattr(error, "orig", None) or error
    text = str(told).split("\n[SQL:")[0].split("\n[parameters:")[0]
    return re.sub(r"^<class '[^']+'>: ", "", text).strip()[:2000] or type(told).__name__


def described(error: BaseException) -> dict[str, Any]:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != "<string>"]
    places = [f"{short(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames]
    if isinstance(error, SyntaxError) and error.filename:
        places.append(f"{short(error.filename)}:{error.lineno}")
    own = [place for place in places if not os.path.isabs(place) and place[0] != "<"]  # the project's, not a library's
    lost = any(getattr(one, "connection_invalidated", False) for one in chain(error))
    return {
        "type": type(getattr(error, "orig", None) or error).__name__, "message": said(error), "sqlstate": state_of(error), "lost": lost,
        "where": own[-1] if own else places[-1] if places else "", "trace": places[-6:],
    }  # fmt: skip


def short(file: str) -> str:
    return os.path.relpath(file) if file.startswith(_HERE + os.sep) and "site-packages" not in file else file


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
        refuse("no_config", file=os.path.join(_HERE, name))
    command = importlib.import_module("alembic.command")
    options = argparse.Namespace(
        config=[name], name=REQUEST["section"], x=REQUEST["x"], raiseerr=True, quiet=False, sql=False, tag=None, revision=REQUEST.get("to"),
        cmd=(command.current if REQUEST["op"] == "read" else command.downgrade, [], []),
    )  # fmt: skip
    return config(ini, ini_section=REQUEST["section"], cmd_opts=options, **extra)


def work() -> None:
    sys.dont_write_bytecode = True  # reading leaves nothing in the project's folders
    try:
        alembic = importlib.import_module("alembic")
        sqlalchemy = importlib.import_module("sqlalchemy")
        watch()
    except ImportError as error:
        refuse("tool_missing", message=said(error), python=sys.executable)
    sys.path[:0] = _OWN_PATH
    emit("installed", alembic=alembic.__version__, sqlalchemy=sqlalchemy.__version__, python=sys.version.split()[0])
    config = configuration()
    try:
        script = importlib.import_module("alembic.script").ScriptDirectory.from_config(config)
    except importlib.import_module("alembic.util").CommandError as error:
        refuse("wrong_config", message=said(error))
    if REQUEST["op"] == "downgrade":
        importlib.import_module("alembic.command").downgrade(config, REQUEST["to"])
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
    NOW.pump = Pump()
    _listen_to_forks()
    line = requests.readline()
    if not line.endswith("\n"):
        refuse("not_confirmed")
    REQUEST.update(json.loads(line))
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
    NOW.pump.close(2.0)
    if code:
        emit("failed", revision=NOW.revision, **failure)
    else:
        emit("done")
    os._exit(code)  # atexit handlers and threads of user code can't hold us


if __name__ == "__main__":
    main()
