"""A pgBackRest repository: only read, by the real program, with the operator's own configuration and paths of ours for what it writes.

Seen with 2.45: `info` knows the base backups to the second, `repo-ls` every segment and when it came; only `archive-get` knows what is in one.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bot.backups import wal
from bot.backups.commits import last_commit
from bot.backups.covering import Base, Live, Stretch, not_archived
from bot.errors import ProgramFailed, ProgramMissing, Refusal, StepFailed
from bot.process import redact, start
from bot.settings import inherited

_REPO = "--repo=1"
_STORED = re.compile(r"(?:[0-9A-F]{16}/)?(?P<name>[0-9A-F]{24})-[0-9a-f]{40}(?:\.\w+)?")
_PERCENT = re.compile(r"restore file .*, (\d+)(?:\.\d+)?%\)")
_ERROR = re.compile(r"ERROR: (?:\[\d+\]: )?(.*)")
_NOT_THERE = 1  # archive-get's exit code for a file that the repository does not have
Say = Callable[[str], Awaitable[None]]


class PgBackRest:
    """Implements recovering.Source."""

    kind = "pgbackrest"

    class Settings(BaseModel):
        """What `backups.pitr` says."""

        model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
        kind: Literal["pgbackrest"] = "pgbackrest"
        stanza: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", description="The stanza's name.")
        config: Path | None = Field(None, description="pgBackRest's configuration file, where it is not its default one.")

    def __init__(self, settings: Settings, directory: Path, programs: Callable[[int], Awaitable[Path]]) -> None:
        self._settings = settings
        self._config = None if settings.config is None else directory / settings.config
        self._programs = programs

    async def stretches(self, live: Live) -> tuple[tuple[Stretch, ...], tuple[str, ...]]:
        """What each base backup reaches; and why others are of no use. Raises Refusal(pitr_impossible | pitr_nothing_archived).

        `until` is when the last segment came into the repository: what is in it, only a recovery finds out.
        """
        stanza = await self._stanza()
        mine = [one for one in stanza["db"] if str(one["system-id"]) == live.system]
        if not mine:
            message = f"Stanza {self._settings.stanza} is another server's (the live one has system identifier {live.system})."
            raise Refusal("pitr_impossible", message, "Mend backups.pitr.stanza.")
        there = await self._segments(f"{mine[-1]['version']}-{mine[-1]['id']}")
        line = wal.lineage(live.timeline, None)
        found, why = [], []
        for backup in stanza["backup"]:
            try:
                found.append(_stretch(backup, mine[-1]["id"], live, line, there))
            except StepFailed as error:
                why.append(f"Base backup {backup['label']}: {error.message}")
        return tuple(found), tuple(why) if found or why else ("The stanza has no base backup.",)

    async def room(self, stretch: Stretch, live: Live) -> int:
        """Bytes that a recovery may need."""
        return stretch.base.size + (stretch.last - stretch.segment + 2) * live.segment

    async def restore(self, base: Base, live: Live, data: Path, tablespaces: Path, say: Say) -> None:
        """pgBackRest proves each file's checksum as it restores it. Raises StepFailed, Refusal."""
        shown = -1
        argv = ("--reset-pg1-host", "--archive-mode=off", "--type=preserve", f"--set={base.name}", f"--tablespace-map-all={tablespaces}")
        async with self._started("restore", *argv, f"--pg1-path={data}", f"--lock-path={data.parent}", log="detail") as told:
            async for line in told:
                if (found := _PERCENT.search(line)) and int(found[1]) >= shown + 5:
                    shown = int(found[1])
                    await say(f"base backup {base.name}: {shown} % of {base.size // 10**6} MB restored")

    async def take_wal(self, stretch: Stretch, live: Live, time: dt.datetime, to: Path, data: Path, say: Say) -> None:
        """One segment after the other, until there is a transaction after that moment. Raises StepFailed, Refusal(pitr_outside_window)."""
        came = await self._segments_of(live)
        programs = await self._programs(live.major)
        numbers = range(stretch.segment, stretch.last + 1)
        for taken, number in enumerate(numbers):
            name = stretch.line.segment(number, live.segment)
            if taken % 20 == 0:
                await say(f"WAL: {taken} segments of at most {len(numbers)}")
            if not await self._get(name, to / name, data):
                raise StepFailed(f"Segment {name} is not in the repository any more.")
            if came[name] > time and (newest := await last_commit(programs, to / name)) is not None and newest > time:
                await self._get(f"{live.timeline:08X}.history", to / f"{live.timeline:08X}.history", data)
                return
        raise not_archived(time)

    # ------------------------------------------------------------------ the program

    async def _stanza(self) -> dict[str, Any]:
        told: list[dict[str, Any]] = json.loads(await self._answer("info", "--output=json"))
        found = told[0] if told else {}
        if not found or found["status"]["code"] not in {0, 2}:  # 2: no valid backups, which is said better later
            said = found["status"]["message"] if found else "pgBackRest does not know it"
            raise _impossible(f"stanza {self._settings.stanza}: {said}")
        return found

    async def _segments_of(self, live: Live) -> dict[str, dt.datetime]:
        stanza = await self._stanza()
        (mine, *_) = [one for one in reversed(stanza["db"]) if str(one["system-id"]) == live.system]
        return await self._segments(f"{mine['version']}-{mine['id']}")

    async def _segments(self, archive: str) -> dict[str, dt.datetime]:
        """Name of each segment -> when it came."""
        place = f"archive/{self._settings.stanza}/{archive}"
        listed = json.loads(await self._answer("repo-ls", "--recurse", "--output=json", _REPO, place, stanza=False))
        found = {}
        for name, one in listed.items():
            if stored := _STORED.fullmatch(name):
                found[stored["name"]] = dt.datetime.fromtimestamp(one["time"], dt.UTC)
        return found

    async def _get(self, name: str, to: Path, data: Path) -> bool:
        """False: the repository does not have it."""
        async with self._started("archive-get", _REPO, "--no-archive-async", f"--pg1-path={data}", name, str(to), none=True) as told:
            async for _ in told:
                pass
        return await asyncio.to_thread(to.exists)

    async def _answer(self, command: str, *more: str, stanza: bool = True) -> str:
        lines = []
        async with self._started(command, *more, stanza=stanza, log="error") as told:
            async for line in told:
                lines.append(line)
        return "".join(lines)

    @asynccontextmanager
    async def _started(
        self, command: str, *more: str, stanza: bool = True, none: bool = False, log: str = "error"
    ) -> AsyncIterator[AsyncIterator[str]]:
        """Its lines. Afterwards: raises Refusal(pitr_impossible) for what the program says no to; `none`: that nothing was found is no error."""
        argv = ["pgbackrest", f"--log-level-console={log}", "--log-level-stderr=off", "--log-level-file=off"]
        argv += [f"--stanza={self._settings.stanza}"] if stanza else []
        argv += [f"--config={self._config}"] if self._config else []
        last: list[str] = []
        try:
            async with start([*argv, command, *more], env=_env(), directory=Path("/")) as program:
                await program.close_stdin()
                yield _lines(program.output(), last)
                code = await program.wait()
        except ProgramMissing as error:
            raise Refusal("pitr_impossible", f"There is no pgBackRest here: {error}", "Install it (on Debian: pgbackrest).") from error
        except ProgramFailed as error:
            raise _impossible(str(error)) from error
        if code != 0 and not (none and code == _NOT_THERE):
            raise _impossible(_error(last, code))


def _env() -> dict[str, str]:
    return {**inherited(), "LC_ALL": "C", "TZ": "UTC"}


async def _lines(output: AsyncIterator[bytes], last: list[str]) -> AsyncIterator[str]:
    """Whole lines; the errors among them stay in `last`."""
    rest = b""
    async for data in output:
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            text = line.decode(errors="replace")
            if "ERROR" in text:
                last.append(text)
            yield text
    if rest:
        last.append(rest.decode(errors="replace"))
        yield last[-1]


def _error(last: Sequence[str], code: int) -> str:
    found = next((match[1] for match in map(_ERROR.search, last) if match), "")
    return redact(found or f"it ended with {code}")


def _impossible(said: str) -> Refusal:
    return Refusal(
        "pitr_impossible", f"pgBackRest would not: {said.strip().rstrip('.')}.", "Try it by hand: pgbackrest info. Then mend backups.pitr."
    )


def _stretch(backup: Mapping[str, Any], database: int, live: Live, line: wal.Lineage, there: Mapping[str, dt.datetime]) -> Stretch:
    """Raises StepFailed: why this one is of no use."""
    if backup["database"]["id"] != database:
        raise StepFailed("it is of the server before its upgrade.")
    if backup["error"]:
        raise StepFailed("it holds pages with wrong checksums.")
    timeline = int(backup["archive"]["start"][:8], 16)
    start, end = wal.position(backup["lsn"]["start"]), wal.position(backup["lsn"]["stop"])
    if not line.holds(timeline, start):
        raise StepFailed(f"it is of timeline {timeline}, and the live server is on {line.timeline}.")
    first = start // live.segment
    last = wal.unbroken(line, first, live.segment, there)
    if last is None or (last + 1) * live.segment < end:
        raise StepFailed("WAL that it needs is not in the repository.")
    since = dt.datetime.fromtimestamp(backup["timestamp"]["stop"], dt.UTC) + dt.timedelta(seconds=1)
    base = Base(backup["label"], timeline, start, end, backup["info"]["size"])
    return Stretch(base, line, first, since, max(since, there[line.segment(last, live.segment)]), last)
