"""A way down that Prisma writes: `prisma migrate diff` from the migrations with this one to those without it, in the project's own environment.

Prisma replays the migrations in a shadow database, which it empties first. So it gets the address of `tool.shadow` and no other, and only after that
was seen to lie on another server than the target, and to be empty. What Prisma can't know is data: a column that comes back is empty.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import asyncpg

from bot.errors import ProgramMissing, Refusal
from bot.place import Connect
from bot.ports import Database
from bot.running import Runner
from bot.sqltext import masked
from bot.tools.sql_history import Migration, Way
from bot.tools.watched import cleaning

NEWEST = 5  #: so many migrations at the end of the line are looked at: each takes Prisma seconds
WAY = "written by `prisma migrate diff`, which can't know data"
_LONGEST = 1024 * 1024  # bytes of a script
# $1 the folder of the migrations, $2 a name, $3... Prisma. Whatever lies after $2 by name is left out; the folder is never written to.
_SCRIPT = """
with=$(mktemp -d) || exit 1; trap 'rm -rf "$with"' EXIT
folder=$1 name=$2; shift 2
mkdir "$with/a" "$with/b" || exit 1
for one in "$folder"/*; do
  base=$(basename "$one")
  if [ ! -d "$one" ]; then cp "$one" "$with/a/" && cp "$one" "$with/b/" || exit 1
  elif LC_ALL=C expr "x$base" '<' "x$name" >/dev/null; then cp -R "$one" "$with/a/" && cp -R "$one" "$with/b/" || exit 1
  elif [ "$base" = "$name" ]; then cp -R "$one" "$with/a/" || exit 1; fi
done
"$@" migrate diff --from-migrations "$with/a" --to-migrations "$with/b" --script >"$with/out" 2>"$with/err" ||
  { cat "$with/err" "$with/out"; exit 1; }
printf '\\036'; cat "$with/out"
"""
_BUSY = "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
_SEEN = (
    "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid::bigint = $1 AND objid::bigint = $2)"
)

_KNOWN: dict[str, str] = {}  # what Prisma wrote, by what it was given: the same for every copy of a target


class Differ:
    """Asks Prisma for the ways down that nobody wrote."""

    def __init__(
        self, runner: Runner, directory: Path, argv: Sequence[str], shadow: Connect, database: Database, env: Mapping[str, str], *, copy: bool
    ) -> None:
        self._runner, self._directory, self._argv, self._copy = runner, directory, tuple(argv), copy
        self._shadow, self._database, self._env = shadow, database, env
        self._clean = cleaning(shadow)

    async def completed(self, line: Sequence[Migration], folder: str, seconds: float) -> tuple[Migration, ...]:
        """The line, with a written way down where its newest ones had none. Raises Refusal(shadow_unusable)."""
        made, proven = list(line), False
        for place in range(max(0, len(line) - NEWEST), len(line)):
            one = line[place]
            if one.up is None or one.down is not None or "commits in its middle" in one.why:
                continue
            if not proven:
                await self._prove()
                proven = True
            made[place] = await self._one(one, line[: place + 1], folder, seconds)
        return tuple(made)

    async def _one(self, one: Migration, line: Sequence[Migration], folder: str, seconds: float) -> Migration:
        given = hashlib.sha256("\0".join([*self._argv, *(f"{each.revision}\0{each.sha256}" for each in line)]).encode()).hexdigest()
        if given not in _KNOWN:
            wrote, said = await self._ask(folder, one.revision, seconds)
            if wrote is None:
                return replace(one, why=f"{one.why}, and `prisma migrate diff` could not write one: {said}")
            _KNOWN[given] = wrote
        up = one.up.path if one.up else one.revision
        return replace(one, down=Way(f"{up} (its reverse, by prisma migrate diff)", _KNOWN[given]), way=WAY, why="", generated=True)

    async def _ask(self, folder: str, name: str, seconds: float) -> tuple[str | None, str]:
        """The script, or why there is none."""
        kept = bytearray()
        try:
            async with (
                asyncio.timeout(seconds),
                self._runner.start(
                    ["sh", "-c", _SCRIPT, "sh", folder, name, *self._argv], env=self._env, directory=self._directory,
                    name=f"backout/read/{secrets.token_hex(4)}", copy=self._copy,
                ) as program,
            ):  # fmt: skip
                await program.close_stdin()
                async for data in program.output():
                    kept += data[: max(0, _LONGEST - len(kept))]
                code = await program.wait()
        except TimeoutError:
            return None, f"it did not end within {seconds:g} s"
        except ProgramMissing as error:
            return None, str(error)
        text = kept.decode("utf-8", "replace")
        if code or "\x1e" not in text:
            return None, " ".join(self._clean(text).split())[-300:] or f"it ended with {code} and said nothing"
        wrote = text.partition("\x1e")[2]
        # Prisma was seen to end with 0 when its engine had died.
        return (wrote, "") if masked(wrote) else (None, "it ended well and wrote nothing")

    async def _prove(self) -> None:
        """Prisma empties it: it must be a database of another server, with nothing in it. Raises Refusal(shadow_unusable)."""
        shadow = self._shadow
        try:
            async with self._database.challenge() as challenge:
                session = await asyncpg.connect(
                    host=shadow.host, port=shadow.port, user=shadow.user, password=shadow.password or None, database=shadow.database,
                    ssl=shadow.sslmode or "prefer", timeout=10, server_settings={"application_name": "backout/shadow"},
                )  # type: ignore[call-overload,unused-ignore]  # fmt: skip
                try:
                    same = await session.fetchval(_SEEN, *(key % 2**32 for key in challenge))
                    holds = await session.fetchval(_BUSY)
                finally:
                    await session.close()
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
            raise _unusable(f"it can't be entered: {self._clean(str(error)) or type(error).__name__}") from error
        if same:
            raise _unusable("it lies on the target's own server")
        if holds:
            raise _unusable(f"it is not empty: {holds} relations are in it, and Prisma would empty it")


def _unusable(why: str) -> Refusal:
    return Refusal(
        "shadow_unusable", f"Prisma can't be asked for a way down: tool.shadow is no shadow database: {why}. Nothing was done to it.",
        "Name an empty database of another server, whose role may create databases, or write down.sql.",
    )  # fmt: skip
