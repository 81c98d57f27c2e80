"""What of a table an archive takes: the names of losses are looked up in the catalog, never pasted into SQL."""

# ruff: noqa: S608  names are quoted here, or by the server

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import asyncpg

from bot.databases import hypertables
from bot.databases.connecting import CATALOG, Connection, quoted, words
from bot.databases.tables import ROW
from bot.evidence import Loss, Touched

#: Text depends on the session (databases.md F7): these settings make it the same everywhere. Scans keep the order in which rows lie.
PINNED = {
    **CATALOG,
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "TimeZone": "UTC",
    "lc_monetary": "C",
    "xmloption": "content",
    "standard_conforming_strings": "on",
    "synchronize_seqscans": "off",
    "max_parallel_workers_per_gather": "0",
    "statement_timeout": "0",
}
_SHORT = 32  # bytes of a value that are kept as they are
#: of the server's own: the search_path holds nothing else, so others have their schema before their name
_SHORT_TYPES = frozenset({"smallint", "integer", "bigint", "real", "double precision", "boolean", "uuid", "oid", "date",
    "timestamp without time zone", "timestamp with time zone", "time without time zone"})  # fmt: skip
_SHORT_NUMBER = re.compile(r"numeric\(\d{1,2},-?\d{1,2}\)")
_STRINGS = frozenset({"text", "character varying"})
LONG = 7 * 86400.0  # seconds; the step has a deadline of its own

NOT_THERE = "It isn't in the database from which the archive is read."
What = Literal["table", "column", "rows", "values"]
Row: TypeAlias = Mapping[str, Any]
_OF_TABLES: dict[str, What] = {"table": "table", "rows": "rows", "values": "values"}
_OF_COLUMNS = frozenset({"column", "values", "type", "enum"})

_PLACE = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
_RELATIONS = f"""
SELECT DISTINCT c.oid, format('%I.%I', n.nspname, c.relname) AS name, c.relkind::text AS kind, given.name AS given, called.exact
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (VALUES (format('%I.%I', n.nspname, c.relname), true), (quote_ident(c.relname), false), (c.relname, false)) AS called (name, exact)
JOIN unnest($1::text[]) AS given (name) ON given.name = called.name
WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND {_PLACE} ORDER BY called.exact DESC"""

_COLUMNS_NAMED = f"""
SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, c.relkind::text AS kind, a.attname AS column, given.name AS given, called.exact
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (VALUES (format('%I.%I.%I', n.nspname, c.relname, a.attname), true), (format('%I.%I', c.relname, a.attname), false))
  AS called (name, exact)
JOIN unnest($1::text[]) AS given (name) ON given.name = called.name
WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND {_PLACE} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY called.exact DESC"""

# The columns in which a label of an enum can be: of that type, of an array or a domain of it.
_COLUMNS_OF_LABEL = """
SELECT DISTINCT c.oid, format('%I.%I', n.nspname, c.relname) AS name, c.relkind::text AS kind, a.attname AS column, given.name AS given, true AS exact
FROM unnest($1::text[]) AS given (name)
JOIN pg_enum l ON true JOIN pg_type e ON e.oid = l.enumtypid JOIN pg_namespace en ON en.oid = e.typnamespace
JOIN pg_type t ON e.oid IN (t.oid, t.typbasetype, t.typelem) JOIN pg_attribute a ON a.atttypid = t.oid AND NOT a.attisdropped
JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE format('%I.%I.%I', en.nspname, e.typname, l.enumlabel) = given.name AND c.relkind IN ('r', 'p') AND NOT c.relispartition"""

_DESCENDANTS = """
WITH RECURSIVE below AS (
  SELECT inhrelid AS oid, inhparent AS root FROM pg_inherits WHERE inhparent = ANY ($1::oid[])
  UNION SELECT i.inhrelid, b.root FROM pg_inherits i JOIN below b ON i.inhparent = b.oid)
SELECT b.root, c.oid, c.relkind::text AS kind, c.relispartition AS partition, format('%I.%I', n.nspname, c.relname) AS name
FROM below b JOIN pg_class c ON c.oid = b.oid JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY b.root, n.nspname, c.relname"""

_FIELDS = """
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attgenerated <> '' AS computed, a.attidentity <> '' AS identity,
  a.attidentity = 'a' AS always, a.attnotnull AS required, coalesce(pg_get_expr(d.adbin, d.adrelid), '') AS default,
  CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END = 'oid'::regtype AS large,
  t.oid IN ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype) AS time, t.oid = 'uuid'::regtype AS uuid
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""

# With the operator that its index calls equality: types of extensions have theirs in other schemas.
_KEYS = """
SELECT array_agg(a.attname ORDER BY k.position) AS columns,
  array_agg(format('OPERATOR(%I.%s)', opn.nspname, op.oprname) ORDER BY k.position) AS equal
FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) WITH ORDINALITY AS k (attnum, opclass, position)
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
JOIN pg_opclass oc ON oc.oid = k.opclass
JOIN pg_amop am ON am.amopfamily = oc.opcfamily AND am.amoplefttype = oc.opcintype AND am.amoprighttype = oc.opcintype AND am.amopstrategy = 3
JOIN pg_operator op ON op.oid = am.amopopr JOIN pg_namespace opn ON opn.oid = op.oprnamespace
WHERE i.indrelid = $1::oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND k.position <= i.indnkeyatts
GROUP BY i.indexrelid, i.indisprimary, i.indnkeyatts HAVING bool_and(a.attnotnull) AND count(*) = i.indnkeyatts
ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid"""


@dataclass(frozen=True)
class Field:
    """A column, by its plain name. `computed`: the database generates it; `large`: it may name a large object."""

    name: str
    type: str
    computed: bool
    identity: bool
    always: bool
    required: bool
    default: str
    large: bool
    time: bool
    uuid: bool

    @property
    def generated(self) -> bool:
        """A key of this column is handed out by a machine."""
        return self.identity or self.uuid or "nextval(" in self.default or "uuid" in self.default


@dataclass(frozen=True)
class Key:
    """Columns that name a row, and the operators that compare them; empty when nothing names it."""

    columns: tuple[str, ...] = ()
    equal: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """A table's share of an archive. `table` and `leaves` are quoted, columns are plain names.

    `leaves` are the tables whose rows are read: its own, or its partitions'. `others` are compared later: long values are hashed.
    """

    table: str
    oid: int
    what: What
    key: Key
    columns: tuple[str, ...]
    fields: dict[str, Field]
    leaves: tuple[str, ...]
    others: tuple[str, ...] = ()
    losses: tuple[str, ...] = field(default=())
    #: a hypertable: its leaves are chunks
    cut: bool = False
    #: only rows whose keys, as this expression writes them, are among these; None: all
    narrowed: tuple[str, tuple[str, ...]] | None = None

    @property
    def large(self) -> tuple[str, ...]:
        return tuple(name for name in self.columns if self.fields[name].large)

    def query(self, leaf: str) -> str:
        """Its rows of one leaf, as COPY writes them."""
        taken = [quoted(name) for name in self.columns]
        taken += [beside(quoted(name), self.fields[name].type) for name in self.others]
        return f"SELECT {', '.join(taken)} FROM ONLY {leaf} {ROW}{self._where}"

    @property
    def _where(self) -> str:
        if self.narrowed is None:
            return ""
        expression, keys = self.narrowed
        listed = ", ".join("'" + key.replace("'", "''") + "'" for key in keys)
        return f" WHERE {expression} = ANY (ARRAY[{listed}]::text[])"

    def narrow(self, touched: Mapping[str, Touched]) -> Piece:
        """Rows that are gone, or values that changed, are archived by their keys where these are known."""
        known = touched.get(self.table)
        if known is None:
            return self
        keys = {"rows": known.gone, "values": known.changed}.get(self.what)
        return self if keys is None else replace(self, narrowed=(known.expression, keys))


def text_of(column: str) -> str:
    """As COPY writes it: by the type's output function, NULL as NULL (a cast to text is another thing for char(n) and boolean)."""
    return f"CASE WHEN {column} IS DISTINCT FROM NULL THEN concat({column}) END"


def beside(column: str, kind: str) -> str:
    """What COPY writes of a value by which its row is recognised: itself where its type, as format_type writes it, is always short."""
    return column if _is_short(kind) else hashed(column, kind)


def recognised(column: str, kind: str) -> str:
    """The same of a value now, whatever its type is now; `kind` is the one that it had."""
    return text_of(column) if _is_short(kind) else hashed(column)


def _is_short(kind: str) -> bool:
    return re.sub(r"\(\d\)", "", kind) in _SHORT_TYPES or _SHORT_NUMBER.fullmatch(kind) is not None


def hashed(column: str, kind: str = "") -> str:
    """Its text where that is short, else 16 hex digits of its hash, which costs four times as much. `kind` makes it faster, and no other."""
    if kind.partition("(")[0].strip() in _STRINGS:
        return (
            f"CASE WHEN octet_length({column}) <= {_SHORT} THEN '=' || {column}"
            f" ELSE '#' || left(encode(sha256(convert_to({column}, 'UTF8')), 'hex'), 16) END"
        )
    long = f"'#' || left(encode(sha256(convert_to(concat({column}), 'UTF8')), 'hex'), 16)"
    short = f"'=' || concat({column})"
    return f"CASE WHEN {column} IS DISTINCT FROM NULL THEN CASE WHEN octet_length(concat({column})) <= {_SHORT} THEN {short} ELSE {long} END END"


async def fields_of(session: Connection, oid: int) -> dict[str, Field]:
    return {row["name"]: Field(**dict(row)) for row in await session.fetch(_FIELDS, oid)}


async def keys_of(session: Connection, oid: int) -> tuple[Key, ...]:
    """The primary key first, then unique indexes over columns that are never null."""
    return tuple(Key(tuple(row["columns"]), tuple(row["equal"])) for row in await session.fetch(_KEYS, oid))


@dataclass
class _Wanted:
    """What the losses say about one table."""

    table: str
    oid: int
    kind: str
    cut: bool = False
    whole: dict[What, list[str]] = field(default_factory=dict)
    columns: dict[What, dict[str, list[str]]] = field(default_factory=dict)

    def losses(self) -> Iterable[str]:
        yield from (name for names in self.whole.values() for name in names)
        yield from (name for columns in self.columns.values() for names in columns.values() for name in names)


async def pieces(session: Connection, losses: Sequence[Loss]) -> tuple[list[Piece], dict[str, str]]:
    """What is to be archived, and by name of the loss what can't be, with the reason. Definitions (policies, indexes, ...) are not data."""
    left_out: dict[str, str] = {loss.name: loss.why or "It can't be read." for loss in losses if loss.kind == "unreadable"}
    wanted = await _wanted(session, losses, left_out)
    below: dict[int, list[Row]] = {}
    parts = await hypertables.known(session)
    for row in await session.fetch(_DESCENDANTS, list(wanted)):
        below.setdefault(row["root"], []).append({**row, "partition": row["partition"] or row["oid"] in parts.chunks})
    for oid in parts.roots & wanted.keys():
        wanted[oid].kind, wanted[oid].cut = "p", True
    _inherit(wanted, below)
    found: list[Piece] = []
    for want in wanted.values():
        leaves = [row for row in below.get(want.oid, ()) if row["partition"] and row["kind"] != "p"]
        if reason := _unfit(want, leaves) or _packed(leaves, parts):
            left_out.update(dict.fromkeys(want.losses(), reason))
            continue
        names = tuple(row["name"] for row in leaves) if want.kind == "p" else (want.table,)
        found += await _cut(session, want, names, left_out)
    return [piece for piece in found if piece.columns], left_out


async def _wanted(session: Connection, losses: Sequence[Loss], left_out: dict[str, str]) -> dict[int, _Wanted]:
    tables = {loss.name: loss for loss in losses if loss.kind in _OF_TABLES}
    columns = {loss.name: loss for loss in losses if loss.kind in _OF_COLUMNS - {"enum"}}
    labels = [loss.name for loss in losses if loss.kind == "enum"]
    rows = [*await session.fetch(_COLUMNS_NAMED, list(columns)), *await session.fetch(_COLUMNS_OF_LABEL, labels)]
    by_name: dict[str, list[asyncpg.Record]] = {}
    for row in [*await session.fetch(_RELATIONS, list(tables)), *rows]:
        by_name.setdefault(row["given"], []).append(row)
    wanted: dict[int, _Wanted] = {}
    for name in sorted({*tables, *columns, *labels}):
        found = by_name.get(name, [])
        exact = [row for row in found if row["exact"]]
        if not found:
            left_out[name] = NOT_THERE
        elif not exact and len(found) > 1:
            left_out[name] = "More than one thing has that name; name it with its schema."
        else:
            for row in exact or found:
                _want(wanted, row, [loss for loss in losses if loss.name == name])
    return wanted


def _want(wanted: dict[int, _Wanted], row: asyncpg.Record, losses: Sequence[Loss]) -> None:
    want = wanted.setdefault(row["oid"], _Wanted(row["name"], row["oid"], row["kind"]))
    column = dict(row).get("column")
    for loss in losses:
        if column is None and loss.kind in _OF_TABLES:
            want.whole.setdefault(_OF_TABLES[loss.kind], []).append(loss.name)
        elif column is not None and loss.kind in _OF_COLUMNS:
            want.columns.setdefault("column" if loss.kind == "column" else "values", {}).setdefault(column, []).append(loss.name)


def _inherit(wanted: dict[int, _Wanted], below: dict[int, list[Row]]) -> None:
    """Partitions are read through their parent, unless one of them is foreign; what a parent of the other kind loses, its children lose too."""
    for root, rows in below.items():
        foreign = any(row["partition"] and row["kind"] == "f" for row in rows)
        for row in rows:
            if row["partition"] and not foreign:
                _leave_to_parent(wanted, root, row["oid"])
            elif row["kind"] == "r" and (row["partition"] or wanted[root].columns):
                child = wanted.setdefault(row["oid"], _Wanted(row["name"], row["oid"], row["kind"]))
                for what, names in wanted[root].whole.items() if row["partition"] else ():
                    child.whole.setdefault(what, names)
                for what, columns in wanted[root].columns.items():
                    for column, names in columns.items():
                        child.columns.setdefault(what, {}).setdefault(column, names)


def _leave_to_parent(wanted: dict[int, _Wanted], root: int, leaf: int) -> None:
    if leaf not in wanted or root not in wanted:
        return
    for what in wanted[root].whole:
        wanted[leaf].whole.pop(what, None)
    for what, columns in wanted[root].columns.items():
        wanted[leaf].columns[what] = {name: names for name, names in wanted[leaf].columns.get(what, {}).items() if name not in columns}


def _unfit(want: _Wanted, leaves: Sequence[Row]) -> str:
    foreign = [row["name"] for row in leaves if row["kind"] == "f"]
    if want.kind == "f":
        return "It is a foreign table: its rows are on another server and stay there."
    if want.kind in {"v", "m"}:
        return "It is a view: its rows are made of other tables'."
    return f"Its part {foreign[0]} is a foreign table, whose rows are on another server; its other parts are archived." if foreign else ""


def _packed(leaves: Sequence[Row], parts: hypertables.Known) -> str:
    count = sum(row["oid"] in parts.compressed for row in leaves)
    return f"{count} of its chunks are compressed: their rows lie in batches, and only the restore point has them." if count else ""


async def _cut(session: Connection, want: _Wanted, leaves: tuple[str, ...], left_out: dict[str, str]) -> list[Piece]:
    fields = await fields_of(session, want.oid)
    keys = await keys_of(session, want.oid)
    stored = tuple(name for name, column in fields.items() if not column.computed)
    base = Piece(want.table, want.oid, "table", keys[0] if keys else Key(), stored, fields, leaves, cut=want.cut)
    if "table" in want.whole:
        return [replace(base, losses=tuple(want.losses()))]
    found = []
    for what, names in want.whole.items():
        if not base.key.columns and what == "values":
            left_out.update(dict.fromkeys(names, "The table has no primary key, so a changed row can't be found again."))
        else:
            found.append(replace(base, what=what, losses=tuple(names)))
    for what, columns in want.columns.items():
        found += _columns(base, what, columns, keys, left_out)
    return found


def _columns(base: Piece, what: What, columns: dict[str, list[str]], keys: Sequence[Key], left_out: dict[str, str]) -> list[Piece]:
    for name in [name for name in columns if base.fields.get(name) is None or base.fields[name].computed]:
        left_out.update(dict.fromkeys(columns.pop(name), "The database computes it from other columns, and will again."))
    if not columns:
        return []
    losses = tuple(name for names in columns.values() for name in names)
    key = next((key for key in keys if not set(key.columns) & set(columns)), None)
    if key is None:
        left_out.update(dict.fromkeys(losses, "Nothing remains by which its rows are found again: no primary key, no unique index without nulls."))
        return []
    others = tuple(name for name in base.columns if name not in columns and name not in key.columns)
    lost = tuple(name for name in base.columns if name in columns)
    return [replace(base, what=what, key=key, columns=key.columns + lost, others=others, losses=losses)]


async def unreadable(session: Connection, piece: Piece) -> str:
    """Why this role can't read it, in a sentence: rights, or row security that would hide rows. Empty when it can."""
    try:
        async with session.transaction():
            for leaf in piece.leaves:
                await session.execute(f"SELECT {', '.join(quoted(name) for name in piece.columns)} FROM ONLY {leaf} LIMIT 0")
    except asyncpg.InsufficientPrivilegeError as error:
        return f"Backout's role may not read all of it: {words(error)}."
    return ""
