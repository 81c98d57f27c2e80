"""What the journal keeps beside the runs: what was delivered, which copies there are, what came in and is not worked off yet."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, cast

from bot.evidence import Archive, BackupFile, Duty
from bot.journal.pooled import Pooled
from bot.model import Delivery


class Shelf(Pooled):
    async def deliveries(self, run: str) -> Mapping[str, Delivery]:
        async with self._transaction() as db:
            found = await db.fetch("select key, channel, ts, content from backout.deliveries where run = $1", run)
            return {row["key"]: Delivery(channel=row["channel"], ts=row["ts"], content=row["content"]) for row in found}

    async def deliver(self, run: str, key: str, delivery: Delivery) -> None:
        async with self._transaction() as db:
            await db.execute(
                "insert into backout.deliveries (run, key, channel, ts, content) values ($1, $2, $3, $4, $5)"
                " on conflict (run, key) do update set channel = excluded.channel, ts = excluded.ts, content = excluded.content",
                run, key, delivery.channel, delivery.ts, delivery.content,
            )  # fmt: skip

    async def run_of_thread(self, channel: str, ts: str) -> str | None:
        async with self._transaction() as db:
            return cast(
                str | None,
                await db.fetchval("select run from backout.deliveries where key = 'card' and channel = $1 and ts = $2", channel, ts),
            )

    async def undelivered(self) -> tuple[str, ...]:
        async with self._transaction() as db:
            found = await db.fetch(
                "select r.id from backout.runs r left join backout.deliveries d on d.run = r.id and d.key = 'seq'"
                " where r.request->>'channel' is not null and coalesce(d.content::integer, 0) < r.seq order by r.created"
            )
            return tuple(row["id"] for row in found)

    async def keep_backup(self, target: str, run: str, revision: str, file: BackupFile, until: dt.datetime) -> None:
        async with self._transaction() as db:
            await db.execute(
                "insert into backout.backups (target, name, run, revision, file, made, keep_until) values ($1, $2, $3, $4, $5, $6, $7)"
                " on conflict (target, name) do update"
                " set file = excluded.file, made = excluded.made, keep_until = excluded.keep_until, proven = null",
                target, file.name, run, revision, file.model_dump(mode="json"), self._clock.now(), until,
            )  # fmt: skip

    async def backups(self, target: str) -> tuple[Mapping[str, Any], ...]:
        async with self._transaction() as db:
            found = await db.fetch(
                "select b.name, b.run, b.revision, b.file, b.made, b.keep_until, b.proven,"
                " case when r.id is null then b.made else r.ended end as ended"
                " from backout.backups b left join backout.runs r on r.id = b.run where b.target = $1 order by b.made desc",
                target,
            )
            return tuple({**dict(row), "file": BackupFile(**row["file"])} for row in found)

    async def prove_backup(self, target: str, name: str) -> None:
        async with self._transaction() as db:
            await db.execute("update backout.backups set proven = $3 where target = $1 and name = $2", target, name, self._clock.now())

    async def forget_backup(self, target: str, name: str) -> None:
        async with self._transaction() as db:
            await db.execute("delete from backout.backups where target = $1 and name = $2", target, name)

    async def note_duty(self, target: str, duty: Duty) -> None:
        async with self._transaction() as db:
            await db.execute(
                "insert into backout.duties (target, kind, at, ok, says, told) values ($1, $2, $3, $4, $5, $6)"
                " on conflict (target, kind) do update set at = excluded.at, ok = excluded.ok, says = excluded.says, told = excluded.told",
                target, duty.kind, duty.at, duty.ok, duty.says, duty.told,
            )  # fmt: skip

    async def duties(self, target: str) -> tuple[Duty, ...]:
        async with self._transaction() as db:
            found = await db.fetch("select kind, at, ok, says, told from backout.duties where target = $1 order by kind", target)
            return tuple(Duty(**dict(row)) for row in found)

    async def keep_archive(self, archive: Archive, until: dt.datetime) -> None:
        async with self._transaction() as db:
            await db.execute(
                "insert into backout.archives (target, name, run, archive, made, keep_until) values ($1, $2, $3, $4, $5, $6)"
                " on conflict (target, name) do update set archive = excluded.archive, made = excluded.made, keep_until = excluded.keep_until",
                archive.target, archive.file.name, archive.run, archive.model_dump(mode="json"), self._clock.now(), until,
            )  # fmt: skip

    async def archives(self, target: str) -> tuple[tuple[Archive, dt.datetime], ...]:
        async with self._transaction() as db:
            found = await db.fetch("select archive, keep_until from backout.archives where target = $1 order by made desc", target)
            return tuple((Archive(**row["archive"]), row["keep_until"]) for row in found)

    async def forget_archive(self, target: str, name: str) -> None:
        async with self._transaction() as db:
            await db.execute("delete from backout.archives where target = $1 and name = $2", target, name)

    async def accept(self, key: str, kind: str, payload: Mapping[str, Any]) -> bool:
        async with self._transaction() as db:
            came = await db.execute(
                "insert into backout.inbox (key, kind, payload, came) values ($1, $2, $3, $4) on conflict (key) do nothing",
                key, kind, dict(payload), self._clock.now(),
            )  # fmt: skip
            return bool(came == "INSERT 0 1")

    async def pending(self) -> tuple[tuple[str, str, Mapping[str, Any]], ...]:
        async with self._transaction() as db:
            found = await db.fetch("select key, kind, payload, came from backout.inbox where done is null order by came, key")
            return tuple((row["key"], row["kind"], {**row["payload"], "_came": row["came"].isoformat()}) for row in found)

    async def done(self, key: str) -> None:
        now = self._clock.now()
        async with self._transaction() as db:
            await db.execute("update backout.inbox set done = $2, payload = null where key = $1", key, now)
            await db.execute("delete from backout.inbox where done < $1", now - dt.timedelta(days=1))

    async def ping(self) -> None:
        async with self._transaction() as db:
            await db.execute("select 1")
