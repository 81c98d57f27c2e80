"""Single tables out of a backup: merged by key into the live ones, which stay what they are (databases.md F16)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bot.durable import TargetParts
from bot.errors import Refusal
from bot.merges import MergeRule
from bot.model import Plan, PlanStep
from bot.ports import Journal
from bot.rollback import pace, plan_copies, route
from bot.steps.csv_beside import is_csv
from bot.steps.restore_point import is_clone

_ASKED = re.compile(r"(?P<tables>.+?)\s+from\s+(?P<backup>\S+)", re.IGNORECASE | re.DOTALL)
_NAME = re.compile(r'(?:[^",\s]+|"(?:[^"]|"")+")+')


async def tables(target: TargetParts, rev: str, journal: Journal, command: str) -> Plan:
    """`rev` is `T[,T] from BACKUP`. Raises Refusal(unknown_table, unknown_backup, ...)."""
    names, backup = asked(rev, command)
    source, kept = await plan_copies.chosen(target, backup, journal, command)
    if is_csv(source) and len(names) > 1:
        raise Refusal("tables_unclear", f"{source.name} has the rows of one table.", f"Name that one: {command} tables orders from {source.name}.")
    if source.foreign and not is_csv(source):
        raise Refusal("foreign_backup", f"{source.name} was made by others, so single tables can't be taken out of it.", "Restore all of it first.")
    await target.database.examine()
    for refusal in (*await target.platform.ready(), *await target.runner.ready()):
        if not refusal.warning:
            raise refusal
    history = await target.tool.read()
    there = await target.database.names()
    found = tuple(_known(name, there) for name in names)
    await plan_copies.may_make_beside(target)
    identity = await target.database.identity()
    await target.backup.ready(identity.version)
    stopped = ["stop_writers"] if target.platform.stops else []
    beside = [] if is_clone(source) else ["restore_beside"]
    steps = ["check_preconditions", *beside, *stopped, "restore_point", "merge_tables", "verify", *pace.back(target, {})]
    method = "dump" if not target.platform.stops or await target.database.may_clone() else "clone"
    made = tuple(PlanStep(name=name, params={"method": method} if name == "restore_point" else {}) for name in steps)
    current = ", ".join(history.current) or route.BASE
    tried = target.rehearsal.where is not None
    said = f"Rows of {', '.join(found)} that are only in {kept.name} come back; {_ruled(target.rule)}."
    return Plan.model_validate({
        "target": target.name, "strategy": "tables", "from_": current, "to": current, "undone": (), "identity": identity, "steps": made,
        "rehearse": (PlanStep(name="back_up"), PlanStep(name="try_tables")) if tried else (), "source": source, "tables_back": found,
        "rule": target.rule,
        "version_table": history.version_table, "version_table_schema": history.version_table_schema,
        "version_query": history.version_query, "one_transaction": True,
        "verify": tuple(one.name for one in target.verify), "expected_seconds": await pace.expected(target.name, made, [], journal),
        "remarks": (said, *pace.remarks(target)),
    })  # fmt: skip


def _ruled(rule: MergeRule) -> str:
    different = "rows that differ stay as they are" if rule.different == "keep" else "rows that differ are replaced"
    newer = "newer rows stay" if rule.newer == "keep" else "newer ones too"
    only = "rows that the backup does not have stay" if rule.only_here == "keep" else "rows that the backup does not have are deleted"
    return f"{different}, {newer}, {only}"


def asked(rev: str, command: str) -> tuple[tuple[str, ...], str]:
    """The tables and the backup. Raises Refusal(tables_unclear)."""
    found = _ASKED.fullmatch(rev.strip())
    names = tuple(_NAME.findall(found["tables"])) if found else ()
    if found is None or not names:
        raise Refusal(
            "tables_unclear",
            f"{route.shown(rev)} does not say which tables come from which backup.",
            f"Write {command} tables orders,items from BACKUP.",
        )
    return names, found["backup"]


def _known(name: str, objects: Iterable[str]) -> str:
    tables = [key.removeprefix("table ") for key in sorted(objects) if key.startswith("table ")]
    for spelled in (name, f"public.{name}"):
        if spelled in tables:
            return spelled
    close = [one for one in tables if one.rpartition(".")[2] == name.rpartition(".")[2]]
    shown = ", ".join((close or tables)[:5])
    raise Refusal("unknown_table", f"There is no table {route.shown(name)} now. There is: {shown}.", "Write it as SQL does, with its schema.")
