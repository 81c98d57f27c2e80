"""What a downgrade destroys, as far as reading its script goes, and whether one transaction is sure to cover it.

Reading is a prediction: what can't be read is said to be unreadable and counts as the highest class.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from bot.evidence import Loss, LossClass
from bot.model import Revision
from bot.sqltext import BrokenScript, masked, outside, split

_Found = tuple[str, str]  # kind, name

#: Alembic operations that destroy no data and stay inside the migration's transaction
_HARMLESS = frozenset({
    "create_table", "create_index", "create_unique_constraint", "create_foreign_key", "create_check_constraint", "create_primary_key",
    "create_exclude_constraint", "add_column", "rename_table", "create_table_comment", "drop_table_comment", "f", "get_bind", "batch_alter_table",
})  # fmt: skip
#: calls that execute nothing, or only read; a call of a class makes a value
_QUIET = frozenset({
    "print", "range", "len", "sorted", "list", "tuple", "set", "dict", "str", "text", "format", "debug", "info", "warning", "error", "getLogger",
    "get_context", "autocommit_block", "inspect", "get_columns", "get_table_names", "get_indexes", "get_foreign_keys", "has_table", "fetchall",
    "fetchone", "first", "all", "scalar_one", "scalar_one_or_none", "mappings",
})  # fmt: skip
_RUNS_SQL = frozenset({"execute", "exec_driver_sql", "scalar", "scalars", "executemany", "run_async"})
_DROPS = {"drop_table": "table", "drop_column": "column", "drop_index": "index", "drop_constraint": "constraint"}

_NAME = r'(?:"[^"]+"|[\w$]+)(?:\.(?:"[^"]+"|[\w$]+))?'
_IDENT = f"({_NAME})"
_SQL: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (rf"\bdrop\s+table\s+(?:if\s+exists\s+)?({_NAME}(?:\s*,\s*{_NAME})*)", "table"),
        (rf"\bdrop\s+column\s+(?:if\s+exists\s+)?{_IDENT}", "column"),
        (rf"\b(?:delete\s+from|truncate(?:\s+table)?|update)\s+(?:only\s+)?{_IDENT}", "rows"),
        (rf"\bdrop\s+index\s+(?:concurrently\s+)?(?:if\s+exists\s+)?{_IDENT}", "index"),
        (rf"\bdrop\s+constraint\s+(?:if\s+exists\s+)?{_IDENT}", "constraint"),
        (rf"\bdrop\s+policy\s+(?:if\s+exists\s+)?{_IDENT}", "policy"),
        (rf"\bdrop\s+(?:type|domain|extension|schema)\s+(?:if\s+exists\s+)?{_IDENT}", "type"),
    )
)
#: ALTER TABLE orders DROP score: the word COLUMN may be left out
_ALTER_TABLE = re.compile(r"\balter\s+table\b([^;]*)", re.IGNORECASE)
_BARE_COLUMN = re.compile(
    rf"(?:^|,|\s)drop\s+(?:if\s+exists\s+)?(?!(?:column|constraint|default|not|expression|identity|if)\b){_IDENT}", re.IGNORECASE
)
_CASCADE = re.compile(r"\bcascade\b", re.IGNORECASE)
#: What commits by itself or can't run in a transaction, or hides what it does
_OUTSIDE = re.compile(
    r"\b(concurrently|commit|rollback|begin|vacuum|reindex|call|dblink\w*|do)\b|\balter\s+(system|type\s+\S+\s+add\s+value)\b|\b(create|drop|alter)\s+database\b",
    re.IGNORECASE,
)
_PLAIN = re.compile(r"^\s*(alter|drop|create|update|delete|insert|comment|truncate|set|select|grant|revoke)\b", re.IGNORECASE)
_CLASSES = {
    "table": LossClass.HIGH,
    "rows": LossClass.HIGH,
    "type": LossClass.HIGH,
    "unreadable": LossClass.HIGH,
    "column": LossClass.MEDIUM,
    "values": LossClass.MEDIUM,
    "enum": LossClass.MEDIUM,
}
_ORDER = (LossClass.NONE, LossClass.MEDIUM, LossClass.HIGH)


def read_loss(undone: Iterable[Revision]) -> tuple[Loss, ...]:
    """In the order of undoing. Column names carry their table where the script says it."""
    found: list[Loss] = []
    for one in undone:
        for kind, name in _read_script(one.source) if one.language == "sql" else _read(one.source):
            loss = Loss(kind=kind, name=name, revision=one.revision, certain=kind != "unreadable" and "?" not in name)
            if loss not in found:
                found.append(loss)
    return tuple(found)


def loss_class(losses: Iterable[Loss]) -> LossClass:
    """The highest of its parts. What is counted and empty is no loss; indexes, constraints and policies hold no data (they have their own lines)."""
    classes = (_CLASSES.get(loss.kind, LossClass.NONE) for loss in losses if loss.count != 0)
    return max(classes, key=_ORDER.index, default=LossClass.NONE)


def higher(one: LossClass, other: LossClass) -> bool:
    return _ORDER.index(one) > _ORDER.index(other)


def attributed(found: Iterable[Loss], foreseen: Iterable[Loss], undone: Sequence[str]) -> tuple[Loss, ...]:
    """What was found by comparing, with the revision that reading the scripts gives it; all of it is that revision's when only one is undone."""
    said = list(foreseen)
    return tuple(one.model_copy(update={"revision": undone[0] if len(undone) == 1 else _revision_of(one, said)}) for one in found)


def _revision_of(one: Loss, said: Iterable[Loss]) -> str:
    for each in said:
        if each.kind == one.kind and one.name.casefold().endswith(f".{each.name.casefold()}"):
            return each.revision
    return ""


def resolved(foreseen: Iterable[Loss], objects: Iterable[str]) -> tuple[Loss, ...]:
    """What scripts name, by the names of the catalog: 'orders.score' is 'public.orders.score' where only one column is called so."""
    known: dict[str, list[tuple[str, ...]]] = {"table": [], "column": []}
    by_parts: dict[tuple[str, ...], str] = {}
    for key in objects:
        kind, _, name = key.partition(" ")
        if kind in known:
            parts = _parts(name)
            known[kind].append(parts)
            by_parts[parts] = name
    found = []
    for one in foreseen:
        wanted = _parts(one.name)
        lies = known.get({"rows": "table"}.get(one.kind, one.kind), [])
        hits = [parts for parts in lies if parts[-len(wanted) :] == wanted]
        found.append(one.model_copy(update={"name": by_parts[hits[0]]}) if len(hits) == 1 else one)
    return tuple(found)


def _parts(name: str) -> tuple[str, ...]:
    """'public."Odd.Name".score' -> ('public', 'Odd.Name', 'score'), as SQL reads it."""
    return tuple(quoted.replace('""', '"') if quoted else bare.lower() for quoted, bare in re.findall(r'"((?:[^"]|"")*)"|([^".]+)', name))


def surely_one_transaction(undone: Iterable[Revision]) -> bool:
    """True only when every downgrade is nothing but known operations and literal plain SQL: deny by default (databases.md F4)."""
    return all(_stays_inside(one.source) if one.language == "sql" else _is_plain(one.source) for one in undone)


def _stays_inside(script: str) -> bool:
    try:
        return not any(outside(statement) for statement in split(script))
    except BrokenScript:
        return False


def _read_script(script: str) -> Iterator[_Found]:
    """A way down that is written in SQL. Literals and comments say nothing."""
    try:
        statements = split(script)
    except BrokenScript as error:
        yield "unreadable", str(error)
        return
    for statement in statements:
        if statement.words[:1] in (("do",), ("call",)):
            yield "unreadable", "a block of code in SQL"
        else:
            yield from _read_text(masked(statement.text))


def _function(source: str) -> ast.FunctionDef | None:
    try:
        body = ast.parse(textwrap.dedent(source)).body
    except (SyntaxError, ValueError):
        return None
    return next((node for node in body if isinstance(node, ast.FunctionDef)), None)


def _read(source: str) -> Iterator[_Found]:
    function = _function(source)
    if function is None:
        yield "unreadable", "downgrade() can't be read"
        return
    batch = _batches(function)
    for call in (node for node in ast.walk(function) if isinstance(node, ast.Call)):
        yield from _read_call(call, batch)


def _batches(function: ast.FunctionDef) -> dict[str, str]:
    """`with op.batch_alter_table('orders') as batch:` -> {'batch': 'orders'}"""
    found: dict[str, str] = {}
    for node in ast.walk(function):
        if not isinstance(node, ast.With):
            continue
        for item in node.items:
            call, name = item.context_expr, item.optional_vars
            if isinstance(call, ast.Call) and _attribute(call) == "batch_alter_table" and isinstance(name, ast.Name):
                found[name.id] = _literal(call.args[0]) or "?" if call.args else "?"
    return found


def _attribute(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id if isinstance(call.func, ast.Name) else ""


def _owner(call: ast.Call) -> str:
    value = call.func.value if isinstance(call.func, ast.Attribute) else None
    return value.id if isinstance(value, ast.Name) else ""


def _literal(node: ast.expr) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Call) and _attribute(node) in ("text", "f") and node.args:  # sa.text("..."), op.f("...")
        return _literal(node.args[0])
    return None


def _argument(call: ast.Call, place: int, *names: str) -> str:
    for keyword in call.keywords:
        if keyword.arg in names:
            return _literal(keyword.value) or "?"
    return (_literal(call.args[place]) or "?") if len(call.args) > place else "?"


def _read_call(call: ast.Call, batch: dict[str, str]) -> Iterator[_Found]:
    name, owner = _attribute(call), _owner(call)
    if name == "drop_table":
        yield "table", _argument(call, 0, "table_name")
    elif name == "drop_column" and owner in batch:
        yield "column", f"{batch[owner]}.{_argument(call, 0, 'column_name')}"
    elif name == "drop_column":
        yield "column", f"{_argument(call, 0, 'table_name')}.{_argument(call, 1, 'column_name')}"
    elif name in ("drop_index", "drop_constraint"):
        yield _DROPS[name], _argument(call, 0, "index_name", "constraint_name")
    elif name in _RUNS_SQL:
        yield from _read_sql(call)
    elif name == "bulk_insert":
        yield "rows", "bulk_insert"
    elif not _is_quiet(name, owner):
        yield "unreadable", f"what {name}() does" if name else "a call that is put together while it runs"


def _is_quiet(name: str, owner: str) -> bool:
    return owner == "sa" or name in _QUIET or name in _HARMLESS or name == "alter_column" or name[:1].isupper()


def _read_sql(call: ast.Call) -> Iterator[_Found]:
    sql = _literal(call.args[0]) if call.args else None
    if sql is None:
        yield "unreadable", "a statement that is built while it runs"
        return
    yield from _read_text(sql)
    if re.search(r"\bdo\s+\$|\bcall\b", sql, re.IGNORECASE):
        yield "unreadable", "a block of code in SQL"


def _read_text(sql: str) -> Iterator[_Found]:
    for pattern, kind in _SQL:
        for match in pattern.finditer(sql):
            yield from ((kind, name) for name in re.findall(_NAME, match[1]))
    for statement in _ALTER_TABLE.finditer(sql):
        for match in _BARE_COLUMN.finditer(statement[1]):
            yield "column", match[1]
    if _CASCADE.search(sql):
        yield "unreadable", "CASCADE: what depends on it goes too"


def _is_plain(source: str) -> bool:
    function = _function(source)
    if function is None:
        return False
    for node in ast.walk(function):
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Try | ast.While):
            return False
        if isinstance(node, ast.Call) and not _plain_call(node):
            return False
    return True


def _plain_call(call: ast.Call) -> bool:
    name, owner = _attribute(call), _owner(call)
    if owner == "sa" or name in ("print", "range", "text"):
        return True
    if name in _DROPS or name in _HARMLESS or name == "alter_column":
        return not any(keyword.arg == "postgresql_concurrently" for keyword in call.keywords)
    if name != "execute" or not call.args:
        return False
    sql = _literal(call.args[0])
    return sql is not None and bool(_PLAIN.match(sql)) and not _OUTSIDE.search(sql)
