"""What a downgrade will destroy, copied out with COPY and proven by reading it twice (databases.md F7)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import asyncpg

from bot.databases import large_objects
from bot.databases.connecting import Connection, connected, words
from bot.databases.pieces import LONG, PINNED, Key, Piece, fields_of, pieces, unreadable
from bot.databases.table_facts import read_facts
from bot.errors import StepFailed
from bot.evidence import Loss, Part, Touched
from bot.finishing import both
from bot.keeping import ArchiveSink, ArchiveSource
from bot.place import Connect
from bot.ports import Progress

_BLOCK = 1 << 19  # bytes
_LINES = 1 << 128  # sums of hashes of lines are taken modulo this
_NOTHING: Mapping[str, Touched] = MappingProxyType({})


async def archive(
    connect: Connect, losses: Sequence[Loss], sink: ArchiveSink, progress: Progress, touched: Mapping[str, Touched] = _NOTHING
) -> tuple[tuple[Part, ...], Mapping[str, str]]:
    """The parts, and by name of the loss what can't be archived, with the reason. All of one instant; nothing is written there.

    A table: all its rows. A column: every row's key and value, also null, and hashes of the other columns, by which another row under the same key is
    recognised. `rows` and `values`: those that are `touched`; where that isn't known, all rows of the table.
    Raises StepFailed, OutcomeUnknown, Refusal.
    """
    async with _reading(connect) as session:
        chosen, left_out = await pieces(session, losses)
        parts = []
        for number, piece in enumerate((each.narrow(touched) for each in chosen), 1):
            if reason := await unreadable(session, piece):
                left_out.update(dict.fromkeys(piece.losses, reason))
                continue
            await progress(f"Archiving {piece.table}, {number} of {len(chosen)}.")
            parts.append(await _part(session, piece, f"part-{number}", sink, left_out))
    return tuple(parts), left_out


async def prove_archive(
    connect: Connect, parts: Sequence[Part], source: ArchiveSource, progress: Progress, touched: Mapping[str, Touched] = _NOTHING
) -> None:
    """The stored bytes are read again and compared with a second reading of the same rows, two tables at a time. Raises StepFailed when anything
    differs."""
    left = iter(enumerate(parts, 1))

    async def some() -> None:
        async with _reading(connect) as session:
            for number, part in left:
                await progress(f"Proving the archive of {part.table}, {number} of {len(parts)}.")
                piece = (await _piece(session, part)).narrow(touched)
                queries = [piece.query(leaf) for leaf in piece.leaves]
                await _prove(session, source, part.table, part.member, (part.rows, part.bytes, part.sha256), queries)
                if objects := part.table_facts.get("objects"):
                    expected = (objects["rows"], objects["bytes"], objects["sha256"])
                    await _prove(session, source, f"the large objects of {part.table}", objects["member"], expected, [large_objects.query(piece)])

    await both(some(), some())


@asynccontextmanager
async def _reading(connect: Connect) -> AsyncIterator[Connection]:
    async with connected(connect, PINNED) as session, session.transaction(isolation="repeatable_read", readonly=True):
        yield session


@dataclass
class Copied:
    """Takes what COPY writes, hashes it and hands it on a block behind, in threads, so that the server never waits for us."""

    write: Callable[[bytes], Awaitable[None]]
    rows: int = 0
    size: int = 0
    _hash: Any = field(default_factory=hashlib.sha256)
    _buffer: bytearray = field(default_factory=bytearray)
    _behind: asyncio.Task[None] | None = None

    @property
    def sha256(self) -> str:
        return str(self._hash.hexdigest())

    async def copy(self, session: Connection, queries: Sequence[str]) -> None:
        try:
            for query in queries:
                status = await session.copy_from_query(query, output=self._take, timeout=LONG)
                self.rows += int(status.split()[-1])
            await self._pass_on()
            await self._wait()
        finally:
            if self._behind is not None:
                self._behind.cancel()
                await asyncio.gather(self._behind, return_exceptions=True)

    async def _take(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) >= _BLOCK:
            await self._pass_on()

    async def _pass_on(self) -> None:
        await self._wait()
        block, self._buffer = bytes(self._buffer), bytearray()
        self.size += len(block)
        self._behind = asyncio.create_task(self._work(block))

    async def _wait(self) -> None:
        if self._behind is not None:
            await self._behind
            self._behind = None

    async def _work(self, block: bytes) -> None:
        await asyncio.to_thread(self._hash.update, block)
        await self.write(block)


async def _part(session: Connection, piece: Piece, member: str, sink: ArchiveSink, left_out: dict[str, str]) -> Part:
    facts: dict[str, Any] = await read_facts(session, piece)
    facts |= {"others": list(piece.others), "others_types": [piece.fields[name].type for name in piece.others]}
    facts |= {"generated": any(piece.fields[name].generated for name in piece.key.columns)}
    facts["marks"] = [name for name in piece.others if _birth_mark(piece, name)]
    async with sink.member(member) as write:
        copied = Copied(write)
        await copied.copy(session, [piece.query(leaf) for leaf in piece.leaves])
    if piece.large:
        facts["objects"] = await _objects(session, piece, f"{member}-objects", sink, left_out)
    return Part(
        table=piece.table,
        what=piece.what,
        key=piece.key.columns,
        columns=piece.columns,
        types=tuple(piece.fields[name].type for name in piece.columns),
        rows=copied.rows,
        bytes=copied.size,
        sha256=copied.sha256,
        member=member,
        table_facts=facts,
    )


async def _objects(session: Connection, piece: Piece, member: str, sink: ArchiveSink, left_out: dict[str, str]) -> dict[str, Any] | None:
    async with sink.member(member) as write:
        copied = Copied(write)
        try:
            async with session.transaction():
                await copied.copy(session, [large_objects.query(piece)])
        except asyncpg.InsufficientPrivilegeError as error:
            left_out[f"large objects of {piece.table}"] = f"Backout's role may not read them: {words(error)}."
            return None
    return {"member": member, "rows": copied.rows, "bytes": copied.size, "sha256": copied.sha256}


def _birth_mark(piece: Piece, name: str) -> bool:
    """A column that is filled when a row is made and, by its name, doesn't follow later changes."""
    column, plain = piece.fields[name], name.lower()
    if any(word in plain for word in ("updat", "modif", "chang", "touch", "last", "seen")):
        return False
    made = any(word in column.default for word in ("now()", "CURRENT_TIMESTAMP", "clock_timestamp", "uuid", "nextval("))
    return made or (column.time and any(word in plain for word in ("creat", "insert", "added", "born", "birth", "registered", "joined")))


async def _piece(session: Connection, part: Part) -> Piece:
    """The piece that a part was made of, so that it is read again in the same words."""
    kind = "table" if part.what == "table" else "rows"
    found, _ = await pieces(session, [Loss(kind=kind, name=part.table)])
    others = tuple(part.table_facts["others"])
    same = [piece for piece in found if {*part.columns, *others} <= set(piece.fields)]
    if not same:
        raise StepFailed(f"{part.table} isn't there any more as it was archived, so the archive of it can't be proven.")
    piece = same[0]
    fields = await fields_of(session, piece.oid)
    return Piece(part.table, piece.oid, part.what, Key(part.key), part.columns, fields, piece.leaves, others)


async def _prove(session: Connection, source: ArchiveSource, what: str, member: str, expected: tuple[int, int, str], queries: Sequence[str]) -> None:
    rows, size, sha256 = expected
    stored, seen = hashlib.sha256(), 0
    async for block in source.member(member):
        await asyncio.to_thread(stored.update, block)
        seen += len(block)
    if (seen, stored.hexdigest()) != (size, sha256):
        raise StepFailed(f"The archive of {what} is not what was written: {seen} of {size} bytes, with another checksum. Nothing was destroyed yet.")
    again = Copied(_nowhere)
    await again.copy(session, queries)
    if (again.rows, again.sha256) == (rows, sha256):
        return
    if again.rows != rows or await _sum_of_rows(session, queries) != await _sum_of_member(source, member):
        raise StepFailed(f"The archive of {what} has {rows} rows that are not the {again.rows} rows of the database any more. Archive it again.")


async def _nowhere(block: bytes) -> None:
    """The second reading is hashed only."""


class _Lines:
    """A checksum that doesn't depend on the order of lines."""

    def __init__(self) -> None:
        self.total = 0
        self._rest = b""

    async def add(self, block: bytes) -> None:
        *lines, self._rest = (self._rest + block).split(b"\n")
        for line in lines:
            self.total = (self.total + int.from_bytes(hashlib.blake2b(line, digest_size=16).digest())) % _LINES


async def _sum_of_rows(session: Connection, queries: Sequence[str]) -> int:
    lines = _Lines()
    for query in queries:
        await session.copy_from_query(query, output=lines.add, timeout=LONG)
    return lines.total


async def _sum_of_member(source: ArchiveSource, member: str) -> int:
    lines = _Lines()
    async for block in source.member(member):
        await lines.add(block)
    return lines.total
