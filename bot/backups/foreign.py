"""Backups that others made: recognised by their content, looked at, proven, and restored as what they are: programs by somebody else."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import heapq
import re
import zlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from bot.backups import packed, plain, programs
from bot.backups.clients import client_for
from bot.backups.spool import Spool
from bot.errors import StepFailed
from bot.evidence import BackupFile, Found, Stored, digest_of
from bot.keeping import Store
from bot.process import Finished, run
from bot.settings import inherited

_HEAD = 64 << 10  # bytes that are enough to recognise it
_TAIL = 4 << 10
_WHOLE = 64 << 20  # bytes that are read through when the list is shown
_NEWEST = 100  # files that are looked at
_HOUR = dt.timedelta(hours=1)
_ARCHIVE_FORMAT = {1: "custom", 3: "tar", 5: "directory"}
_NAMED = re.compile(r"\.(sql|dump|tar|backup|bak|pgdump)(\.gz)?$|\.sql\.\w+$|/toc\.dat$", re.IGNORECASE)
_TOC = re.compile(r"^\d+; \d+ \d+ (.+)$")
_VERSIONS = re.compile(rb"^COPY \S+ \(version_num\) FROM stdin;\n(.*?)\n\\\.\n", re.DOTALL | re.MULTILINE)
_OURS = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18.{4}backout archive ", re.DOTALL)


class Foreign:
    """What others put into a store. `restore` gives the newest pg_restore there is here."""

    def __init__(self, store: Store, spool: Spool, embedded: Callable[[int], Path]) -> None:
        self._store, self._spool, self._embedded = store, spool, embedded
        self._seen: dict[tuple[str, str], Found] = {}

    async def found(self, known: Collection[str]) -> tuple[Found, ...]:
        newest: list[tuple[dt.datetime, str, Stored]] = []
        async for one in self._store.list():
            folder, _, last = one.name.rpartition("/")
            if one.name in known or (folder and last != "toc.dat"):
                continue
            (heapq.heappush if len(newest) < _NEWEST else heapq.heappushpop)(newest, (one.made, one.name, one))
        looked = [await self._look(one) for _, _, one in sorted(newest, reverse=True)]
        return tuple(found for found in looked if found is not None)

    async def inspect(self, name: str) -> Found:
        """Raises StepFailed when there is no such backup."""
        toc = f"{name}/toc.dat"
        there = await self._store.stat(name if "/" in name else toc) or await self._store.stat(name)
        found = None if there is None else await self._look(there, whole=True)
        if found is None:
            raise StepFailed(f"{self._store.where(name)} is no backup of Postgres.")
        return found

    async def _look(self, there: Stored, *, whole: bool = False) -> Found | None:
        """None when it is something else; damaged and hostile ones are told with the reason."""
        key = (there.name, there.version)
        if key in self._seen and (not whole or self._seen[key].file.sha256):
            return self._seen[key]
        head = b"".join([block async for block in self._store.read(there.name, 0, min(_HEAD, there.size))])
        kind = recognised(head) or _csv(there.name, head)
        if kind and there.name.endswith("/toc.dat"):
            kind = "directory"  # its own header says tar
        if kind == "ours":
            return None
        name, size = there.name.removesuffix("/toc.dat"), there.size
        file = BackupFile(name=name, path=self._store.where(name), sha256="", size=size, format=kind or "?", foreign=True)
        found = Found(file=file, made=there.made)
        if not kind:
            return found.model_copy(update={"refused": "It is no dump of Postgres."}) if _NAMED.search(there.name) else None
        try:
            if whole or (size <= _WHOLE and kind != "directory"):
                found = await self._read(found)
            else:
                found = await self._glance(found, head, there)
        except StepFailed as error:
            found = found.model_copy(update={"refused": error.message})
        self._seen[key] = found
        return found

    # ------------------------------------------------------------------ at its beginning and end

    async def _glance(self, found: Found, head: bytes, there: Stored) -> Found:
        kind = found.file.format
        if kind == "plain":
            tail = b"".join([block async for block in self._store.read(there.name, max(0, there.size - _TAIL))])
            if plain.TRAILER not in tail:
                raise StepFailed("It is torn: its end is missing.")
            scan = plain.Scan()
            await asyncio.to_thread(scan.feed, head[: head.rfind(b"\n") + 1])
            return found.model_copy(update={"postgres": scan.postgres})
        if kind == "directory":
            async with self._spool.room(there.size) as folder:
                await self._spool.copy(there.name, folder / "toc.dat")
                return await self._told(found, folder)
        if kind == "custom":
            return await self._told(found, self._store.local(there.name) or self._store.read(there.name))
        return found

    async def _told(self, found: Found, source: programs.Source) -> Found:
        """By its table of contents."""
        restore = await self._pg_restore()
        said, tables, roles, extensions, objects = dict[str, str](), list[str](), set[str](), set[str](), 0
        async with aclosing(programs.contents(restore, source)) as listed:
            async for line in listed:
                if line.startswith(";"):
                    key, _, value = line.lstrip("; ").partition(": ")
                    said.setdefault(key.strip(), value.strip())
                elif entry := _TOC.match(line):
                    objects += 1
                    _learn(entry[1], tables, roles, extensions)
        made = re.search(r"created at (.*)$", " ".join(key + ": " + value for key, value in said.items() if "created at" in key))
        return found.model_copy(
            update={
                "file": found.file.model_copy(update={"objects": objects}), "postgres": said.get("Dumped from database version", ""),
                "database": said.get("dbname", ""), "tables": tuple(tables), "roles": tuple(sorted(roles)), "extensions": tuple(sorted(extensions)),
                "made": _time(made[1] if made else "") or found.made,
            }
        )  # fmt: skip

    # ------------------------------------------------------------------ to the last byte

    async def _read(self, found: Found) -> Found:
        if found.file.format.startswith("csv"):
            hashed = Hashed(self._store.read(found.file.name))
            async for _ in _text(found.file.format, hashed.blocks()):
                pass
            return found.model_copy(update={"file": found.file.model_copy(update={"sha256": hashed.sha256})})
        if found.file.format.startswith("plain"):
            hashed = Hashed(self._store.read(found.file.name))
            blocks = hashed.blocks()
            scan = await plain.scanned(packed.unpacked(blocks) if found.file.format.endswith(".gz") else blocks)
            file = found.file.model_copy(update={"sha256": hashed.sha256, "objects": len(scan.tables)})
            return found.model_copy(
                update={
                    "file": file, "postgres": scan.postgres, "revision": scan.revision, "tables": tuple(scan.tables),
                    "roles": tuple(sorted(scan.roles)), "extensions": tuple(sorted(scan.extensions)),
                }
            )  # fmt: skip
        async with self.opened(found.file) as (path, sha256, size):
            restore = await self._pg_restore()
            done = await run([restore, "--file", "/dev/null", str(path)], env=_english(), timeout=24 * _HOUR)
            programs.judge(done.code, done.output)
            told = await self._told(found, path)
            argv = [restore, "--data-only", "--table", "alembic_version", "--file", "-", str(path)]
            rows: Finished = await run(argv, env=_english(), timeout=_HOUR)
        revision = _VERSIONS.search(rows.output.encode())
        file = told.file.model_copy(update={"sha256": sha256, "size": size})
        return told.model_copy(update={"file": file, "revision": revision[1].decode(errors="replace")[:100] if revision else ""})

    async def rows(self, file: BackupFile) -> AsyncIterator[bytes]:
        """The text of a CSV. Raises StepFailed, at its end also when it was not the file that was looked at."""
        hashed = Hashed(self._store.read(file.name))
        async for block in _text(file.format, hashed.blocks()):
            yield block
        if hashed.sha256 != file.sha256:
            raise StepFailed(f"The backup {file.name} is not the file that was looked at. Look at it again.")

    @asynccontextmanager
    async def opened(self, file: BackupFile) -> AsyncIterator[tuple[Path, str, int]]:
        """As pg_restore wants it: a file or folder, with its checksum and size in the store. Raises StepFailed."""
        if file.format == "directory":
            async with self._directory(file) as made:
                yield made
            return
        async with self._spool.fetched(file.name) as (path, sha256):
            size = (await asyncio.to_thread(path.stat)).st_size
            told = sha256 or await self._store.checksum(file.name) or ""
            if file.format == "tar":
                await asyncio.to_thread(packed.prove_whole, path)
            if file.format in ("custom", "tar"):
                yield path, told, size
                return
            async with self._spool.room(2 * size) as folder:
                whole = await self._unpack(path, folder / "unpacked") if file.format.endswith(".gz") else path
                if "tar" in file.format:
                    await asyncio.to_thread(packed.prove_whole, whole)
                if file.format.startswith("directory tar"):
                    (parts := folder / "dump").mkdir(mode=0o700)
                    await asyncio.to_thread(packed.extract, whole, parts, self._spool.free(folder))
                    whole = parts
                yield whole, told, size

    async def _unpack(self, path: Path, to: Path) -> Path:
        with await asyncio.to_thread(to.open, "xb") as out:
            async for block in packed.unpacked(_blocks(path)):
                try:
                    await asyncio.to_thread(out.write, block)
                except OSError as error:
                    raise StepFailed(f"It can't be unpacked to {to.parent}: {error.strerror}.") from error
        return to

    @asynccontextmanager
    async def _directory(self, file: BackupFile) -> AsyncIterator[tuple[Path, str, int]]:
        parts = sorted([one async for one in self._store.list() if one.name.startswith(f"{file.name}/")], key=lambda one: one.name)
        if strange := [one.name for one in parts if not packed.PART.fullmatch(one.name.rpartition("/")[2])]:
            raise StepFailed(f"There is {strange[0][:80]!r} among its files, which no directory dump has.")
        size, local = sum(one.size for one in parts), self._store.local(file.name)
        if local is not None:
            yield local, digest_of({one.name: await self._store.checksum(one.name) for one in parts}), size
            return
        async with self._spool.room(size) as folder:
            yield folder, digest_of({one.name: await self._spool.copy(one.name, folder / one.name.rpartition("/")[2]) for one in parts}), size

    async def _pg_restore(self) -> str:
        """The newest one reads what all before it wrote."""
        return (await client_for(18, None, self._embedded)).program("pg_restore")


class Hashed:
    """A stream, and the sha256 of what came by."""

    def __init__(self, source: AsyncIterator[bytes]) -> None:
        self._source, self._hash = source, hashlib.sha256()

    async def blocks(self) -> AsyncIterator[bytes]:
        async for block in self._source:
            self._hash.update(block)
            yield block

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def recognised(head: bytes) -> str:
    """custom, tar, directory, directory tar or plain, with .gz behind it; 'ours' for an archive; empty for what is none of it."""
    if head[:2] == b"\x1f\x8b":
        try:
            inner = recognised(zlib.decompressobj(31).decompress(head, _HEAD))
        except zlib.error:
            return ""
        return f"{inner}.gz" if inner and inner != "ours" else ""
    if _OURS.match(head):
        return "ours"
    if head[:5] == b"PGDMP":
        return _ARCHIVE_FORMAT.get(head[10] if head[5:7] >= b"\x01\x07" else 0, "")
    if head[257:262] == b"ustar":
        inner = recognised(head[512:1024]) if head[:8] == b"toc.dat\0" else ""
        return "tar" if inner == "tar" else "directory tar"
    text = head[:4096].removeprefix(b"\xef\xbb\xbf")
    if re.search(rb"^-- PostgreSQL database (cluster )?dump\r?$", text, re.MULTILINE):
        return "plain"
    return ""


def _csv(name: str, head: bytes) -> str:
    """Known by its name alone: any text could be one."""
    if name.lower().endswith(".csv"):
        return "csv"
    return "csv.gz" if name.lower().endswith(".csv.gz") and head[:2] == b"\x1f\x8b" else ""


def _text(kind: str, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    return packed.unpacked(blocks) if kind.endswith(".gz") else blocks


def _learn(entry: str, tables: list[str], roles: set[str], extensions: set[str]) -> None:
    words = entry.split(" ")
    if entry.startswith("TABLE ") and words[1] not in ("DATA", "ATTACH"):
        tables.append(" ".join(words[1:-1]).replace(" ", ".", 1))
    if entry.startswith("EXTENSION - "):
        extensions.add(words[2])
    elif words[-1] and not entry.startswith("COMMENT"):
        roles.add(words[-1])


def _time(text: str) -> dt.datetime | None:
    """As pg_restore writes it: '2026-11-30 20:56:11 UTC'. Other zones' letters mean nothing to us: then the store's time holds."""
    found = re.match(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:UTC|GMT)$", text)
    return dt.datetime.fromisoformat(found[1]).replace(tzinfo=dt.UTC) if found else None


def _english() -> Mapping[str, str]:
    return {**inherited(), "LC_ALL": "C", "TZ": "UTC"}


async def _blocks(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while block := await asyncio.to_thread(file.read, 1 << 20):
            yield block
