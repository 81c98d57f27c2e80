"""What can be said of a migration script from its text alone. Nothing is imported, nothing is called."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import suppress

from bot.model import DowngradeKind

_ONLY_TALK = {"print", "debug", "info", "warning", "error"}


def downgrade_kind(source: str | None) -> DowngradeKind:
    """From the text of downgrade(): None is a script without one, unreadable text is unknown. The rehearsal has the last word."""
    if source is None:
        return "missing"
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return "unknown"
    function = tree.body[0] if tree.body else None
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        return "unknown"
    rest = [node for node in function.body if not _does_nothing(node)]
    if not rest:
        return "empty"
    return "raises" if isinstance(rest[0], ast.Raise) else "real"


def _does_nothing(node: ast.stmt) -> bool:
    match node:
        case ast.Pass() | ast.Import() | ast.ImportFrom() | ast.Return(value=None | ast.Constant()) | ast.Expr(value=ast.Constant()):
            return True
        case ast.Expr(value=ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) as call):
            # What is talked about may be the work itself: print(op.drop_table("x"))
            words = [*call.args, *(word.value for word in call.keywords)]
            return name in _ONLY_TALK and not any(isinstance(part, ast.Call | ast.Await) for word in words for part in ast.walk(word))
    return False


def version_table(env: str) -> tuple[str, str | None]:
    """version_table and version_table_schema as env.py writes them: for when it can't be run to its end."""
    try:
        tree = ast.parse(env)
    except (SyntaxError, ValueError):
        return "alembic_version", None
    constants = dict(_constants(tree))
    found: dict[str, str] = {}
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "configure":
            for word in call.keywords:
                value = constants.get(word.value.id) if isinstance(word.value, ast.Name) else _text(word.value)
                if word.arg and value is not None:
                    found[word.arg] = value
    return found.get("version_table", "alembic_version"), found.get("version_table_schema")


def _constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = _text(node.value)
            if value is not None:
                yield node.targets[0].id, value


def _text(node: ast.expr) -> str | None:
    with suppress(ValueError):
        value = ast.literal_eval(node)
        return value if isinstance(value, str) else None
    return None
