"""Every connection that SQLAlchemy makes: led to the database meant, proven, bounded."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import Any

from .frames import CONNECT, NOW, OWNER, REQUEST, Sql, emit, refuse
from .history import said

LINGERS = 2.0  # seconds for which the session of a tool that has ended may still hold what it held

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
    if any(params is led for led in NOW.led):  # SQLAlchemy 1 hands the same dict to every connection of an engine
        return
    name = "dbname" if "psycopg" in dialect.driver else "database"
    asked = (
        str(params.get("host")),
        str(params.get("port") or 5432),
        str(params.get("dbname") or params.get("database")),
        str(params.get("dsn")),
        str(args),
    )
    if NOW.address is None:
        NOW.address, NOW.redirected = asked, asked[:3] != (CONNECT["host"], str(CONNECT["port"]), CONNECT["database"])
    if NOW.address != asked:
        if NOW.redirected:  # which of the two is meant can't be known
            refuse("two_databases", found=[place(NOW.address), place(asked)])
        if REQUEST["copy"] and not is_the_copy(asked):
            refuse("elsewhere", was=place(asked))
        return
    NOW.led.append(params)
    for key in ("dsn", "service", "hostaddr", "dbname", "database", "passfile"):
        params.pop(key, None)
    del args[:]
    params.update({key: CONNECT[key] for key in ("host", "port", "user")})
    params.update({name: CONNECT["database"], "password": CONNECT["password"] or None})
    if CONNECT.get("sslmode"):
        params["ssl" if dialect.driver == "asyncpg" else "sslmode"] = CONNECT["sslmode"]
    if NOW.redirected:
        emit("redirected", was=place(asked))


def place(address: tuple[str, ...]) -> str:
    """Host, port and database. Never the user or the rest: a DSN may hold a password."""
    return "{}:{}/{}".format(*address)


def is_the_copy(address: tuple[str, ...]) -> bool:
    """The same port and database, of a host that is known under several names."""
    if address[1:3] != (str(CONNECT["port"]), CONNECT["database"]):
        return False
    try:
        here, there = ({found[4][0] for found in socket.getaddrinfo(host, None)} for host in (CONNECT["host"], address[0]))
    except OSError:
        return False
    return bool(here & there)


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
    until = time.monotonic() + LINGERS
    while not raw(dbapi, f"select pg_try_advisory_lock({keys})")[0]:
        pid = holder_of(dbapi, first, second)
        if not at_the_gate and pid in [proven[1] for proven in NOW.proven.values()]:
            return
        if time.monotonic() > until:
            refuse("twin", pid=pid)
        time.sleep(0.02)
    NOW.fence = dbapi


def holder_of(dbapi: Sql, first: int, second: int) -> int | None:
    holder = raw(
        dbapi,
        "select pid from pg_locks where locktype = 'advisory' and granted and objsubid = 2"  # noqa: S608  two integers of ours
        " and database = (select oid from pg_database where datname = current_database())"
        f" and classid::bigint = {first & 0xFFFFFFFF} and objid::bigint = {second & 0xFFFFFFFF}",
    )
    return int(holder[0]) if holder else None


def proven(connection: Any) -> Sql:
    """The DBAPI connection below, which must be one of this process that was proven."""
    pooled = connection.connection
    dbapi = getattr(pooled, "dbapi_connection", None) or pooled.connection
    known = NOW.proven.get(id(dbapi))
    if known is None or known[2] != os.getpid():
        refuse("unproven_connection")
    return dbapi
