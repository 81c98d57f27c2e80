"""What a re-made table has to get back besides its rows (databases.md F12 f): owner, grants, publications, replica identity, sequences.

Facts are JSON. Names of tables, sequences and roles in them are quoted as in SQL, columns are plain.
"""

# ruff: noqa: S608  names are quoted here, or by the server

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import asyncpg

from bot.databases import hypertables
from bot.databases.connecting import Connection, quoted, words
from bot.databases.pieces import Piece

_WITH_FILTERS = 150000  # server_version_num

_GRANTS = """
SELECT coalesce(jsonb_agg(jsonb_build_object('privilege', g.privilege_type, 'option', g.is_grantable, 'column', g.column,
  'to', CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END) ORDER BY g.column, g.grantee, g.privilege_type), '[]')
FROM (SELECT x.*, NULL::text AS column FROM pg_class own CROSS JOIN LATERAL aclexplode(own.relacl) x WHERE own.oid = {oid}
  UNION ALL SELECT x.*, part.attname FROM pg_attribute part CROSS JOIN LATERAL aclexplode(part.attacl) x
  WHERE part.attrelid = {oid} AND NOT part.attisdropped AND part.attnum > 0) g"""

_TABLE = f"""
SELECT jsonb_build_object('name', format('%I.%I', n.nspname, c.relname), 'owner', quote_ident(pg_get_userbyid(c.relowner)),
  'grants', ({_GRANTS.format(oid="c.oid")}),
  'replica_identity', c.relreplident,
  'replica_index', (SELECT quote_ident(x.relname) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
    WHERE i.indrelid = c.oid AND i.indisreplident AND c.relreplident = 'i'),
  'statistics', (SELECT coalesce(jsonb_object_agg(a.attname, a.attstattarget), '{{}}') FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attstattarget > 0),
  'triggers', (SELECT coalesce(jsonb_agg(t.tgname ORDER BY t.tgname), '[]') FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal
    AND t.tgname <> 'ts_insert_blocker'))
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = $1::oid"""

_PUBLISHED = """
SELECT coalesce(jsonb_agg(jsonb_build_object('publication', quote_ident(p.pubname), 'only', {only}, 'columns', {columns}, 'where', {filter})
  ORDER BY p.pubname), '[]')
FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid JOIN pg_class c ON c.oid = r.prrelid WHERE r.prrelid = $1::oid"""
_COLUMNS_OF_PUBLICATION = """(SELECT jsonb_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
  WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs::int2[]))"""

_SEQUENCES = f"""
SELECT s.oid, format('%I.%I', n.nspname, s.relname) AS name, a.attname AS column, q.seqincrement AS step, pg_sequence_last_value(s.oid) AS last,
  ({_GRANTS.format(oid="s.oid")}) AS grants
FROM pg_attribute a JOIN pg_depend d ON d.refobjid = a.attrelid AND d.refobjsubid = a.attnum AND d.refclassid = 'pg_class'::regclass
  AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace n ON n.oid = s.relnamespace JOIN pg_sequence q ON q.seqrelid = s.oid
WHERE a.attrelid = $1::oid ORDER BY a.attnum"""


async def read_facts(session: Connection, piece: Piece) -> dict[str, Any]:
    """Of the piece's table, and of the partitions that are read for it; chunks have what their hypertable has."""
    tables = [await _facts(session, oid) for oid in await _oids(session, {piece.table, *(() if piece.cut else piece.leaves)})]
    sequences = [
        {"name": row["name"], "column": row["column"], "step": row["step"], "last": row["last"], "grants": json.loads(row["grants"])}
        for row in await session.fetch(_SEQUENCES, piece.oid)
    ]
    cut = {"hypertable": await hypertables.facts(session, piece.table)} if piece.cut and piece.what == "table" else {}
    return {"tables": tables, "sequences": sequences, **cut}


async def _oids(session: Connection, names: set[str]) -> list[int]:
    rows = await session.fetch(
        "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE format('%I.%I', n.nspname, c.relname) = ANY ($1::text[])"
        " AND c.relkind IN ('r', 'p') ORDER BY n.nspname, c.relname",
        sorted(names),
    )
    return [row["oid"] for row in rows]


async def _facts(session: Connection, oid: int) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(await session.fetchval(_TABLE, oid))
    facts["publications"] = await _published(session, oid)
    return facts


async def _published(session: Connection, oid: int) -> list[dict[str, Any]]:
    filters = int(await session.fetchval("SELECT current_setting('server_version_num')")) >= _WITH_FILTERS
    sql = _PUBLISHED.format(
        only="c.relkind = 'r'",
        columns=f"CASE WHEN r.prattrs IS NOT NULL THEN {_COLUMNS_OF_PUBLICATION} END" if filters else "NULL::jsonb",
        filter="pg_get_expr(r.prqual, r.prrelid)" if filters else "NULL::text",
    )
    found: list[dict[str, Any]] = json.loads(await session.fetchval(sql, oid))
    return found


async def went_back(session: Connection, oid: int, facts: Mapping[str, Any]) -> bool:
    """Has a sequence of this table handed out less than it had when the archive was made? Then a key may have been given to another row."""
    now = {row["column"]: row["last"] for row in await session.fetch(_SEQUENCES, oid)}
    for then in facts["sequences"]:
        if then["last"] is not None and then["column"] in now:
            last = now[then["column"]]
            if last is None or (last - then["last"]) * then["step"] < 0:
                return True
    return False


async def advance(session: Connection, oid: int, table: str, facts: Mapping[str, Any]) -> list[str]:
    """Each sequence to the farthest of its value now, its value in the archive, and its column. Never back. What was set, in sentences."""
    notes = []
    archived = {then["column"]: then["last"] for then in facts["sequences"]}
    for row in await session.fetch(_SEQUENCES, oid):
        far, farther = ("max", max) if row["step"] > 0 else ("min", min)
        used = await session.fetchval(f"SELECT {far}({quoted(row['column'])})::int8 FROM {table}")
        known = [value for value in (row["last"], archived.get(row["column"]), used) if value is not None]
        target = farther(known, default=None)
        if target is not None and target != row["last"]:
            await session.execute("SELECT setval($1::oid::regclass, $2)", row["oid"], target)
            notes.append(f"The sequence {row['name']} was set to {target}.")
    return notes


async def give_back(session: Connection, facts: Mapping[str, Any]) -> list[str]:
    """Everything but rows, where it isn't so already. What was given, and what this role could not give, in sentences."""
    notes = []
    for then in facts["tables"]:
        for oid in await _oids(session, {then["name"]}):
            async for sql, says in _missing(then, await _facts(session, oid)):
                notes.append(await _try(session, sql, says))
    for then in facts["sequences"]:
        row = await session.fetchrow(
            f"SELECT q.* FROM ({_SEQUENCES.replace('$1', '$2')}) q WHERE q.name = $1", then["name"], await _owner_of(session, facts)
        )
        if row is not None:
            for sql, says in _grants("SEQUENCE", then["name"], then["grants"], json.loads(row["grants"])):
                notes.append(await _try(session, sql, says))
    return notes


async def _owner_of(session: Connection, facts: Mapping[str, Any]) -> int:
    """The table that owns the sequences."""
    oids = await _oids(session, {facts["tables"][0]["name"]})
    return oids[0] if oids else 0


async def _missing(then: Mapping[str, Any], now: Mapping[str, Any]) -> AsyncIterator[tuple[str, str]]:
    name = then["name"]
    for sql, says in _grants("TABLE", name, then["grants"], now["grants"]):
        yield sql, says
    for member in then["publications"]:
        if member["publication"] not in {other["publication"] for other in now["publications"]}:
            yield (
                f"ALTER PUBLICATION {member['publication']} ADD TABLE {_member(name, member)}",
                f"{name} is in the publication {member['publication']}",
            )
    if then["replica_identity"] and (then["replica_identity"], then["replica_index"]) != (now["replica_identity"], now["replica_index"]):
        identity = {"d": "DEFAULT", "n": "NOTHING", "f": "FULL"}.get(then["replica_identity"], f"USING INDEX {then['replica_index']}")
        yield f"ALTER TABLE {name} REPLICA IDENTITY {identity}", f"{name} has replica identity {identity.lower()}"
    for column, target in then["statistics"].items():
        if target and now["statistics"].get(column) != target:
            yield (
                f"ALTER TABLE {name} ALTER COLUMN {quoted(column)} SET STATISTICS {int(target)}",
                f"{name}.{quoted(column)} has statistics target {target}",
            )
    if then["owner"] and then["owner"] != now["owner"]:  # last: who is not a superuser has no right to the table afterwards
        yield f"ALTER TABLE {name} OWNER TO {then['owner']}", f"{name} belongs to {then['owner']}"


def _member(table: str, member: Mapping[str, Any]) -> str:
    columns = f" ({', '.join(quoted(column) for column in member['columns'])})" if member["columns"] else ""
    return f"{'ONLY ' if member['only'] else ''}{table}{columns}{' WHERE (' + member['where'] + ')' if member['where'] else ''}"


def _grants(kind: str, name: str, then: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    statements = []
    for grant in then:
        if grant not in now:
            column = f" ({quoted(grant['column'])})" if grant["column"] else ""
            option = " WITH GRANT OPTION" if grant["option"] else ""
            sql = f"GRANT {grant['privilege']}{column} ON {kind} {name} TO {grant['to']}{option}"
            statements.append((sql, f"{grant['to']} has {grant['privilege']}{column} on {name}"))
    return statements


async def _try(session: Connection, sql: str, says: str) -> str:
    try:
        async with session.transaction():
            await session.execute(sql)
    except (
        asyncpg.InsufficientPrivilegeError,
        asyncpg.UndefinedObjectError,
        asyncpg.UndefinedColumnError,
        asyncpg.InvalidParameterValueError,
    ) as error:
        return f"Not given back: {says}. {words(error)}."
    return f"Given back: {says}."
