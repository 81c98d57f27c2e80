"""An archive put back into the database after the upgrade: rows and values by key, in one transaction (databases.md F12).

What is a conflict, and is left alone and named:
- the row that a value belongs to is gone, or the row that it refers to;
- its key may have been given to another row (`_taken_by_another`);
- the schema moved on: a table, column, label or type that it needs isn't there or doesn't hold it;
- a constraint or trigger of the database refuses it, or changes it.
What the upgrade computed by itself is no conflict: the archived value wins, NULL too. Rows that are new since keep what they have.
Of `values` and `enum`, what a person wrote since into that very column, and nothing else of the row, can't be told from it: the archived value wins.
"""

# ruff: noqa: S608  names are quoted here, or by the server

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bot.databases import foreign_keys as fk
from bot.databases import hypertables, large_objects
from bot.databases.connecting import Connection, connected, quoted
from bot.databases.pieces import LONG, PINNED, recognised, text_of
from bot.databases.staging import Conflicts, Stage, literal, stage_objects, stage_part
from bot.databases.table_facts import advance, give_back, went_back
from bot.databases.unlocked import Unlocked
from bot.evidence import Archive, Part, PutBack
from bot.keeping import ArchiveSource
from bot.place import Connect
from bot.ports import Progress

_ALTERED = "A trigger or a rule of the table changed it or kept it out."


async def put_back(connect: Connect, archive: Archive, source: ArchiveSource, progress: Progress, *, triggers: bool) -> PutBack:
    """All of it, or nothing: one transaction. A second time it finds everything unchanged. `triggers` False: user triggers stay silent meanwhile.

    Raises StepFailed (torn member, a check at the end failed), OutcomeUnknown (a lock was not given, the connection was lost), Refusal.
    """
    async with connected(connect, {**PINNED, "default_transaction_read_only": "off"}) as session, session.transaction():
        return await _Putting(session, archive, source, progress).run(triggers=triggers)


class _Putting:
    """One transaction's work and what it found."""

    def __init__(self, session: Connection, archive: Archive, source: ArchiveSource, progress: Progress) -> None:
        self._session = session
        self._parts = archive.parts
        self._source = source
        self._progress = progress
        self._conflicts = Conflicts()
        self._notes: list[str] = []
        self._unchanged = 0

    async def run(self, *, triggers: bool) -> PutBack:
        for part in self._parts:
            if (then := part.table_facts.get("hypertable")) is not None:
                self._notes += await hypertables.make_again(self._session, part.table, then)
        unlocked = Unlocked(self._session, [part.table for part in self._parts])
        self._notes += await unlocked.open(triggers=triggers)
        stages = await self._stage()
        keys = await fk.foreign_keys(self._session, [stage.table.oid for stage in stages])
        whole = fk.parents_first([stage for stage in stages if stage.part.what in {"table", "rows"}], keys)
        values = [stage for stage in stages if stage not in whole]
        late = fk.backward(whole, keys)
        await fk.refuse_at_once(self._session, [stage.table.oid for stage in stages])
        await fk.defer(self._session, late)
        await self._put_rows(whole, keys)
        await fk.remove_orphans(self._session, whole, late)
        await self._put_values(values, keys)
        done = await self._count(whole, values)
        await self._execute("SET CONSTRAINTS ALL IMMEDIATE")
        await fk.undefer(self._session, late)
        await unlocked.close()
        await self._give_back(stages)
        return done.model_copy(
            update={"notes": tuple(self._notes), "conflicts": tuple(self._conflicts.listed), "conflicts_total": self._conflicts.total}
        )

    async def _stage(self) -> list[Stage]:
        stages = []
        for number, part in enumerate(self._parts, 1):
            await self._progress(f"Putting back {part.table}, {number} of {len(self._parts)}.")
            stage = await stage_part(self._session, part, number, self._source, self._conflicts)
            if stage is None:
                continue
            stages.append(stage)
            objects = await stage_objects(self._session, part, number, self._source)
            if objects is not None:
                made, others = await large_objects.put(self._session, part.table, objects)
                self._notes += [f"{made} large objects that columns of {part.table} name were made again."] if made else []
                for conflict in others:
                    self._conflicts.add(conflict)
        return stages

    async def _execute(self, sql: str, *arguments: Any) -> int:
        """Rows that it touched, as the server counted them."""
        tag = await self._session.execute(sql, *arguments, timeout=LONG)
        last = tag.split()[-1]
        return int(last) if last.isdigit() else 0

    # ------------------------------------------------------------------ rows

    async def _put_rows(self, stages: Sequence[Stage], keys: Sequence[fk.ForeignKey]) -> None:
        for stage in stages:
            await self._compare(stage)
        for stage in stages:
            await fk.mark_orphans(self._session, stages, keys)
            if stage.part.key and stage.part.what == "table":
                await self._overwrite(stage)
            await stage.insert(self._session)

    async def _compare(self, stage: Stage) -> None:
        """Rows that are there just so leave the stage; of a table that lost only some rows, all that are there do."""
        name, source = stage.name, stage.table.source
        if not stage.part.key:
            self._unchanged += await self._execute(_same_rows(stage))
            return
        self._unchanged += await self._execute(f"DELETE FROM {name} s USING {source} l WHERE {stage.same_key} AND {stage.same_values}")
        if stage.part.what == "table":
            await self._execute(f"UPDATE {name} s SET present = true FROM {source} l WHERE {stage.same_key}")
        elif edited := await self._execute(f"DELETE FROM {name} s USING {source} l WHERE {stage.same_key}"):
            self._notes.append(
                f"{edited} rows of {stage.part.table} are there with other values than in the archive; they were not lost, and left alone."
            )

    async def _overwrite(self, stage: Stage) -> None:
        await stage.update(self._session, [name for name in stage.values if not stage.table.fields[name].always], "s.present AND ")

    # ------------------------------------------------------------------ values

    async def _put_values(self, stages: Sequence[Stage], keys: Sequence[fk.ForeignKey]) -> None:
        for stage in stages:
            name, source = stage.name, stage.table.source
            same = await self._execute(f"DELETE FROM {name} s USING {source} l WHERE {stage.same_key} AND {stage.same_values}")
            self._unchanged += same * len(stage.values)
            gone = f"NOT EXISTS (SELECT FROM {source} l WHERE {stage.same_key})"
            await self._execute(f"UPDATE {name} s SET bad = 'The row is gone.' WHERE bad IS NULL AND {gone}")
            await self._taken_by_another(stage)
            await fk.mark_orphans(self._session, [stage], keys)
            await stage.update(self._session, stage.values, "")

    async def _taken_by_another(self, stage: Stage) -> None:
        """Mark rows under whose key there may be another row now, by the hashes of the columns that were not lost.

        A key that people or other systems choose names anything: any column that differs is enough. So it is for a generated key when its sequence
        has handed out less than it had then, and for values of a column that was there all the time, which somebody may have written. Else a
        generated key names the same row and edits are ordinary, unless nothing of the row is left: all of its (two or more) other values differ,
        or all of its birth marks do (columns filled when a row is made: created_at, a second uuid).
        """
        facts = stage.part.table_facts
        others = [(place, name) for place, name in enumerate(facts["others"], 1) if name in stage.table.fields]
        if not others and stage.part.what == "values":
            await self._execute(
                f"UPDATE {stage.name} SET bad = 'It is another value now, and nobody can say whether a person wrote it.' WHERE bad IS NULL"
            )
            return
        strict = stage.part.what == "values" or not facts["generated"] or await went_back(self._session, stage.table.oid, facts)
        kinds = dict(zip(facts["others"], facts["others_types"], strict=True))
        differs = {name: f"s.o{place} IS DISTINCT FROM {recognised('l.' + quoted(name), kinds[name])}" for place, name in others}
        held = {name: f"s.o{place} IS NOT NULL" for place, name in others}
        if strict:
            named = ", ".join(f"CASE WHEN {test} THEN {literal(name)} END" for name, test in differs.items())
            where = " OR ".join(differs.values())
            why = f"'The row was changed since, and may be another one: ' || array_to_string(ARRAY[{named}]::text[], ', ') || '.'"
        else:
            marks = [name for name in facts["marks"] if name in differs]
            where = " OR ".join(_none_is_left(names, differs, held, least) for names, least in ((list(differs), 2), (marks, 1)) if names)
            why = "'Another row has its key now: nothing of the row that was archived is left.'"
        if where:
            sql = f"UPDATE {stage.name} s SET bad = {why} FROM {stage.table.source} l WHERE s.bad IS NULL AND {stage.same_key} AND ({where})"
            await self._execute(sql)

    # ------------------------------------------------------------------ the end

    async def _count(self, whole: Sequence[Stage], values: Sequence[Stage]) -> PutBack:
        """What was put is read again."""
        rows = put = 0
        for stage in [*whole, *values]:
            if stage.part.key:
                same = f"SELECT FROM {stage.table.source} l WHERE {stage.same_key} AND {stage.same_values}"
                await self._execute(f"UPDATE {stage.name} s SET bad = $1 WHERE bad IS NULL AND NOT EXISTS ({same})", _ALTERED)
            good = int(await self._session.fetchval(f"SELECT count(*) FROM {stage.name} WHERE bad IS NULL"))
            rows += good if stage in whole else 0
            put += 0 if stage in whole else good * len(stage.values)
            await self._conflicts.gather(self._session, stage.part, stage.name)
        return PutBack(rows=rows, values=put, unchanged=self._unchanged)

    async def _give_back(self, stages: Sequence[Stage]) -> None:
        for stage in stages:
            if stage.part.what in {"table", "rows"}:
                self._notes += await advance(self._session, stage.table.oid, stage.table.source, stage.part.table_facts)
        for stage in stages:
            self._notes += await give_back(self._session, _facts(stage.part))


def _none_is_left(names: Sequence[str], differs: dict[str, str], held: dict[str, str], least: int) -> str:
    """All of these that had a value then have another one, and there were enough of them."""
    count = " + ".join(f"({held[name]})::int" for name in names)
    return f"({count} >= {least} AND {' AND '.join(f'(NOT {held[name]} OR {differs[name]})' for name in names)})"


def _same_rows(stage: Stage) -> str:
    """Without a key, rows are equal or not: as many of the stage's go as the table has of them."""
    live = ", ".join(text_of(quoted(name)) for name in stage.slots)
    kept = ", ".join(text_of(slot) for slot in stage.slots.values())
    return f"""
WITH live AS (SELECT h, count(*) AS times FROM (SELECT {_digest(live)} AS h FROM {stage.table.source}) l GROUP BY h),
  kept AS (SELECT n, h, row_number() OVER (PARTITION BY h ORDER BY n) AS time FROM (SELECT n, {_digest(kept)} AS h FROM {stage.name}) s)
DELETE FROM {stage.name} s USING kept JOIN live ON live.h = kept.h WHERE s.n = kept.n AND kept.time <= live.times"""


def _digest(texts: str) -> str:
    return f"sha256(convert_to(concat(ROW({texts})), 'UTF8'))"


def _facts(part: Part) -> dict[str, Any]:
    """What this part's loss took with it: everything of a table; of a column its own grants and statistics target."""
    if part.what == "table":
        return part.table_facts
    lost = [name for name in part.columns if name not in part.key] if part.what == "column" else []
    nothing: dict[str, Any] = {"publications": [], "owner": None, "replica_identity": None}
    tables = []
    for table in part.table_facts["tables"]:
        grants = [grant for grant in table["grants"] if grant["column"] in lost]
        tables.append({**table, **nothing, "grants": grants, "statistics": {name: table["statistics"].get(name) for name in lost}})
    return {"tables": tables, "sequences": []}
