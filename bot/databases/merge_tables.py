"""Tables of a database beside merged into the live ones, in one transaction: the live tables stay what they are (databases.md F16).

Rows that only the backup has are inserted; what becomes of rows that differ, or are only here, the rule says. A row is left alone and named when
the database refuses it, when what it refers to is gone, or when rows would change or vanish along with it (cascades) that nobody asked about.
A second time it finds everything done.
"""

# ruff: noqa: S608  names are quoted here, or by the server

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bot.databases import foreign_keys as fk
from bot.databases import hypertables
from bot.databases.connecting import Connection, connected, quoted
from bot.databases.pieces import LONG, PINNED, text_of
from bot.databases.staging import Conflicts, Stage, bare, literal
from bot.databases.table_facts import advance, read_facts
from bot.databases.tables_beside import Laid, lay, reading
from bot.databases.unlocked import Unlocked
from bot.errors import StepFailed
from bot.evidence import BackupFile, Conflict
from bot.merges import Compared, Merged, MergedTable, MergeRule
from bot.place import Connect
from bot.ports import Progress

_ALTERED = "A trigger or a rule of the table changed it or kept it out."
_STILL = "Other rows still refer to it, so it was not deleted."


async def merge(live: Connect, source: Connect, file: BackupFile, tables: Sequence[str], rule: MergeRule, progress: Progress) -> Merged:
    """All of it or nothing. Raises StepFailed (a table can't be merged, a check at the end failed), OutcomeUnknown, Refusal."""
    settings = {**PINNED, "default_transaction_read_only": "off"}
    async with reading(source, file) as there, connected(live, settings) as here, here.transaction():
        return await _Merging(there, here, rule, progress).run(tables)


class _Merging:
    """One transaction's work and what it found."""

    def __init__(self, there: Connection, here: Connection, rule: MergeRule, progress: Progress) -> None:
        self._there, self._here, self._rule, self._progress = there, here, rule, progress
        self._conflicts = Conflicts()
        self._counts: dict[str, dict[str, int]] = {}

    async def run(self, tables: Sequence[str]) -> Merged:
        laid = await self._lay(tables)
        unlocked = Unlocked(self._here, [each.piece.table for each in laid])
        notes = await unlocked.open(triggers=self._rule.triggers)
        by_table = {each.piece.oid: each for each in laid}
        keys = await fk.foreign_keys(self._here, list(by_table))
        stages = fk.parents_first([each.stage for each in laid], keys)
        for each in laid:
            await self._sort(each)
        late = fk.backward(stages, keys)
        await fk.refuse_at_once(self._here, list(by_table))
        await fk.defer(self._here, late)
        await self._delete(stages)  # first: what it had may be another's, whose row comes now
        await self._put(stages, keys)
        await fk.remove_orphans(self._here, stages, late)
        await self._delete(stages)  # what was still referred to
        done = [await self._count(stage) for stage in stages]
        await self._here.execute("SET CONSTRAINTS ALL IMMEDIATE", timeout=LONG)
        await fk.undefer(self._here, late)
        await unlocked.close()
        for stage in stages:
            facts = await read_facts(self._there, by_table[stage.table.oid].theirs)
            notes += await advance(self._here, stage.table.oid, stage.table.source, facts)
            if then := facts.get("hypertable"):  # as in the backup, should it have become a plain table since
                notes += await hypertables.make_again(self._here, stage.part.table, then)
        conflicts = self._conflicts
        return Merged(tables=tuple(done), conflicts=tuple(conflicts.listed), conflicts_total=conflicts.total, notes=tuple(notes))

    async def _lay(self, tables: Sequence[str]) -> list[Laid]:
        laid: dict[int, Laid] = {}
        for number, table in enumerate(tables, 1):
            await self._progress(f"Loading {table} of the backup, {number} of {len(tables)}.")
            found = await lay(self._there, self._here, table, number)
            if isinstance(found, Compared):
                raise StepFailed(f"{found.table} can't be merged: {found.why} Nothing was changed.")
            laid.setdefault(found.piece.oid, found)
        return list(laid.values())

    async def _execute(self, sql: str, *arguments: Any) -> int:
        """Rows that it touched, as the server counted them."""
        last = (await self._here.execute(sql, *arguments, timeout=LONG)).split()[-1]
        return int(last) if last.isdigit() else 0

    # ------------------------------------------------------------------ what is to be done

    async def _sort(self, laid: Laid) -> None:
        """Only rows that are to be inserted or to replace one stay in the stage; those that are to be deleted are listed beside it."""
        stage, rule = laid.stage, self._rule
        source, name = stage.table.source, stage.name
        before = int(await self._here.fetchval(f"SELECT count(*) FROM {source}", timeout=LONG))
        keys = ", ".join(f"l.{quoted(column)} AS {stage.slots[column]}" for column in stage.key.columns)
        newer = laid.newer_only_here or "false"
        doomed = f"{_bool(rule.only_here == 'delete')} AND ({_bool(rule.newer == 'replace')} OR NOT ({newer}))"
        only_here = int(await self._here.fetchval(f"SELECT count(*) {laid.only_here}", timeout=LONG))
        await self._execute(f"CREATE TEMP TABLE {bare(_gone(stage))} ON COMMIT DROP AS SELECT {keys} {laid.only_here} AND ({doomed})")
        await self._execute(f"ANALYZE {_gone(stage)}")
        equal = await self._execute(f"DELETE FROM {name} s USING {source} l WHERE {stage.same_key} AND {stage.same_values}")
        newer = laid.newer_different or "false"
        kept = f"(NOT ({newer}) AND {_bool(rule.different == 'keep')}) OR (({newer}) AND {_bool(rule.newer == 'keep')})"
        different = await self._execute(f"DELETE FROM {name} s USING {source} l WHERE {stage.same_key} AND ({kept})")
        await self._execute(f"UPDATE {name} s SET present = true FROM {source} l WHERE {stage.same_key}")
        doomed_rows = int(await self._here.fetchval(f"SELECT count(*) FROM {_gone(stage)}"))
        self._counts[stage.part.table] = {"before": before, "equal": equal, "kept": different + only_here - doomed_rows, "deleted": 0}

    # ------------------------------------------------------------------ doing it

    async def _put(self, stages: Sequence[Stage], keys: Sequence[fk.ForeignKey]) -> None:
        for stage in stages:
            await self._mark_what_would_cascade(stage)
        for stage in stages:
            await fk.mark_orphans(self._here, stages, keys)
            await stage.update(self._here, [name for name in stage.values if not stage.table.fields[name].always], "s.present AND ")
            await stage.insert(self._here)

    async def _mark_what_would_cascade(self, stage: Stage) -> None:
        """A value that other rows refer to, beside the key: to change it would change or refuse them."""
        for key in await fk.referring(self._here, [stage.table.oid]):
            changing = [name for name in key.refers if name in stage.values]
            if changing:
                differs = " OR ".join(f"{text_of('l.' + quoted(name))} IS DISTINCT FROM {text_of('s.' + stage.slots[name])}" for name in changing)
                sql = f"UPDATE {stage.name} s SET bad = $1 FROM {stage.table.source} l WHERE s.bad IS NULL AND {stage.same_key}"
                why = f"Rows of {key.child_name} refer to its {', '.join(changing)}, which would change under them."
                await self._execute(f"{sql} AND ({differs}) AND {_referred(key)}", why)

    async def _delete(self, stages: Sequence[Stage]) -> None:
        """Children first, and rows that nothing refers to only: so nothing is deleted along with them. Again, as long as that frees others."""
        for stage in reversed(stages):
            free = " AND ".join(f"NOT {_referred(key)}" for key in await fk.referring(self._here, [stage.table.oid])) or "true"
            doomed = f"DELETE FROM {stage.table.source} l USING {_gone(stage)} s WHERE {stage.same_key} AND {free}"
            while count := await self._execute(doomed):
                self._counts[stage.part.table]["deleted"] += count

    # ------------------------------------------------------------------ what it came to

    async def _count(self, stage: Stage) -> MergedTable:
        """What was put is read again, and what was not deleted is named."""
        source, name, table = stage.table.source, stage.name, stage.part.table
        same = f"SELECT FROM {source} l WHERE {stage.same_key} AND {stage.same_values}"
        await self._execute(f"UPDATE {name} s SET bad = $1 WHERE bad IS NULL AND NOT EXISTS ({same})", _ALTERED)
        done = await self._here.fetchrow(
            f"SELECT count(*) FILTER (WHERE present) AS updated, count(*) FILTER (WHERE present IS NOT TRUE) AS inserted FROM {name} "
            "WHERE bad IS NULL"
        )
        await self._conflicts.gather(self._here, stage.part, name)
        left = f"FROM {_gone(stage)} s WHERE EXISTS (SELECT FROM {source} l WHERE {stage.same_key})"
        for row in await self._here.fetch(f"SELECT {_key_text(stage)} AS key {left} LIMIT 100"):
            self._conflicts.add(Conflict(table=table, key=row["key"], why=_STILL))
        self._conflicts.total += max(0, int(await self._here.fetchval(f"SELECT count(*) {left}")) - 100)
        after = int(await self._here.fetchval(f"SELECT count(*) FROM {source}", timeout=LONG))
        return MergedTable(table=table, after=after, **dict(done or {}), **self._counts[table])


def _gone(stage: Stage) -> str:
    """Keys of the rows that are to be deleted, named as in the stage."""
    return f"{stage.name}_gone"


def _key_text(stage: Stage) -> str:
    return f"concat_ws(', ', {', '.join(f'concat({literal(name)}, chr(61), s.{stage.slots[name]})' for name in stage.key.columns)})"


def _referred(key: fk.ForeignKey) -> str:
    """Some row refers to the live row l by that key. A row that refers to itself stands in nobody's way but its own."""
    there = " AND ".join(
        f"l.{quoted(refers)} {equal} c.{quoted(column)}" for column, refers, equal in zip(key.columns, key.refers, key.equal, strict=True)
    )
    return f"EXISTS (SELECT FROM {key.child_name} c WHERE {there})"


def _bool(value: bool) -> str:
    return "true" if value else "false"
