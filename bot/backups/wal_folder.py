"""Base backups of pg_basebackup in a folder, and a folder of archived WAL: both are only read.

A base backup counts when its backup_manifest is whole: without it nobody can say when it was complete, nor whether it still is.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from bot.backups import manifest as manifests
from bot.backups import unpacking, wal
from bot.backups.commits import last_commit
from bot.backups.covering import Base, Live, Stretch
from bot.backups.manifest import Manifest
from bot.errors import ProgramFailed, Refusal, StepFailed
from bot.process import run
from bot.settings import inherited

_AT_MOST = dt.timedelta(days=1)  # the step's own deadline is shorter
#: pg_verifybackup of the wheel's 18 dies of a signal, every time (components.md 1); this one, which the wheel brings too, does not
_VERIFIES = 16
Say = Callable[[str], Awaitable[None]]


class WalFolder:
    """Implements recovering.Source."""

    kind = "wal_folder"

    class Settings(BaseModel):
        """What `backups.pitr` says. Relative paths begin where backout.yml lies."""

        model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
        kind: Literal["wal_folder"] = "wal_folder"
        base: Path = Field(description="A folder of base backups, each a folder of its own, or one base backup.")
        wal: Path = Field(description="The folder that archive_command writes to.")

    def __init__(self, settings: Settings, directory: Path, programs: Callable[[int], Awaitable[Path]]) -> None:
        self._base = directory / settings.base
        self._wal = directory / settings.wal
        self._programs = programs

    async def stretches(self, live: Live) -> tuple[tuple[Stretch, ...], tuple[str, ...]]:
        """What each base backup reaches; and why others are of no use. Raises Refusal(pitr_impossible | pitr_nothing_archived)."""
        archive = await Archived.read(self._wal, live, await self._programs(live.major))
        found, why = [], []
        for folder in await asyncio.to_thread(_folders, self._base):
            try:
                found.append(await _stretch(archive, folder.name, await asyncio.to_thread(manifests.read, folder)))
            except StepFailed as error:
                why.append(f"Base backup {folder.name}: {error.message}")
        return tuple(found), tuple(why) if found or why else (f"There is no base backup in {self._base}.",)

    async def restore(self, base: Base, live: Live, data: Path, tablespaces: Path, say: Say) -> None:
        """Copied, and the copy proven by the manifest's checksums. Raises Refusal(pitr_backup_damaged), StepFailed."""
        folder = next(each for each in await asyncio.to_thread(_folders, self._base) if each.name == base.name)

        async def copied(done: int) -> None:
            await say(f"base backup {base.name}: {done * 100 // max(1, base.size):.0f} % of {base.size // 10**6} MB copied")

        try:
            await unpacking.in_thread(lambda going: _bring(folder, data, tablespaces, going), copied)
        except unpacking.Torn as error:
            raise _damaged(base, error.message) from error
        shutil.copyfile(folder / manifests.NAME, data / manifests.NAME)
        await say(f"base backup {base.name}: checking every file")
        await self._verified(base, data, live)

    async def take_wal(self, stretch: Stretch, live: Live, time: dt.datetime, to: Path, data: Path, say: Say) -> None:
        """The segments from the base backup on until a transaction after that moment, and the timelines' histories. Raises StepFailed."""
        archive = await Archived.read(self._wal, live, await self._programs(live.major))
        end = await archive.first_after(stretch, time)
        numbers = range(stretch.segment, min(end + 1, stretch.last) + 1)
        for taken, number in enumerate(numbers):
            await archive.take(stretch.line.segment(number, archive.size), to)
            if taken % 20 == 0:
                await say(f"WAL: {taken} of {len(numbers)} segments")
        await archive.take_histories(to)

    async def room(self, stretch: Stretch, live: Live) -> int:
        """Bytes that a recovery may need."""
        archive = await Archived.read(self._wal, live, await self._programs(live.major))
        return stretch.base.size + (stretch.last - stretch.segment + 2) * archive.size

    async def _verified(self, base: Base, data: Path, live: Live) -> None:
        code, output = await self._verify(live.major, data, data / manifests.NAME)
        if code < 0:
            older = data / f"{manifests.NAME}.older"
            await asyncio.to_thread(manifests.write_older, data / manifests.NAME, older)
            code, output = await self._verify(_VERIFIES, data, older, "--ignore", older.name)
            older.unlink()
        if code != 0:
            raise _damaged(base, (output.strip().splitlines() or [f"pg_verifybackup ended with {code}"])[0])

    async def _verify(self, major: int, data: Path, manifest: Path, *more: str) -> tuple[int, str]:
        argv = [str(await self._programs(major) / "pg_verifybackup"), "--no-parse-wal", "--quiet", "--manifest-path", str(manifest), *more, str(data)]
        try:
            done = await run(argv, env={**inherited(), "LC_ALL": "C"}, timeout=_AT_MOST)
        except ProgramFailed as error:
            raise StepFailed(f"The base backup can't be verified: {error}.") from error
        return done.code, done.output


def _damaged(base: Base, why: str) -> Refusal:
    return Refusal(
        "pitr_backup_damaged",
        f"The base backup {base.name} is not what was made: {why.strip().rstrip('.')}.",
        "Take it out of the folder; the one before it is used then. Or take another way back.",
    )


# ------------------------------------------------------------------ base backups


def _folders(base: Path) -> list[Path]:
    """Raises Refusal(pitr_impossible)."""
    try:
        if (base / manifests.NAME).exists():
            return [base]
        return sorted(each for each in base.iterdir() if (each / manifests.NAME).exists() or (each / "backup_label").exists())
    except OSError as error:
        raise _unreadable(base, error) from error


def _unreadable(path: Path, error: OSError) -> Refusal:
    way_out = "Let the user who runs Backout read it, or mend backups.pitr."
    return Refusal("pitr_impossible", f"{path} can't be read: {error.strerror}.", way_out)


async def _stretch(archive: Archived, name: str, made: Manifest) -> Stretch:
    """Raises StepFailed: why this one is of no use."""
    if not archive.line.holds(made.timeline, made.start):
        raise StepFailed(f"it is of timeline {made.timeline}, which did not lead to where the live server is (timeline {archive.line.timeline}).")
    first = made.start // archive.size
    last = wal.unbroken(archive.line, first, archive.size, archive.names)
    if last is None or (last + 1) * archive.size < made.end:
        raise StepFailed(f"WAL that it needs is not in the archive ({archive.line.segment(first if last is None else last + 1, archive.size)}).")
    inside = await archive.newest(first, (made.end - 1) // archive.size, made.end)
    until, last = await archive.reaches(first, last)
    base = Base(name, made.timeline, made.start, made.end, made.size)
    since = max(filter(None, (made.began, inside)))
    return Stretch(base, archive.line, first, since, until or since, last)


def _bring(folder: Path, data: Path, tablespaces: Path, going: unpacking.Going) -> None:
    """In a thread. A folder as it is, or tars; WAL comes from the archive."""
    tar = next((folder / f"base.tar{ending}" for ending in unpacking.ENDINGS if (folder / f"base.tar{ending}").exists()), None)
    if tar is None:
        unpacking.copy_folder(folder, data, going, _not_ours)
        for link in sorted((folder / "pg_tblspc").glob("*")):
            _tablespace(data, tablespaces, link.name)
            unpacking.copy_folder(link.resolve(), tablespaces / link.name, going, lambda _: False)
    else:
        unpacking.unpack(tar, data, going, _not_ours)
        for other in sorted(folder.iterdir()):
            oid, _, ending = other.name.partition(".tar")
            if oid.isdigit() and ending in unpacking.ENDINGS:
                _tablespace(data, tablespaces, oid)
                unpacking.unpack(other, tablespaces / oid, going, lambda _: False)
    (data / "pg_wal" / "archive_status").mkdir(0o700, parents=True, exist_ok=True)


def _not_ours(path: PurePosixPath) -> bool:
    """WAL comes from the archive, slots are production's, and links of tablespaces lead to the live server's files."""
    top = path.parts[0]
    return top in {"pg_wal", manifests.NAME} or (top in {"pg_replslot", "pg_tblspc"} and len(path.parts) == 2)


def _tablespace(data: Path, tablespaces: Path, oid: str) -> None:
    (tablespaces / oid).mkdir(0o700)
    (data / "pg_tblspc").mkdir(0o700, exist_ok=True)
    (data / "pg_tblspc" / oid).symlink_to(tablespaces / oid)


# ------------------------------------------------------------------ the archive


class Archived:
    """The WAL that lies in a folder, on the way to the live server's timeline."""

    def __init__(self, programs: Path, names: Mapping[str, Path], histories: Mapping[str, Path], size: int, line: wal.Lineage) -> None:
        self._programs = programs
        self._paths = names
        self._histories = histories
        self._known: dict[tuple[int, int | None], dt.datetime | None] = {}
        self.size = size
        self.line = line

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._paths)

    @staticmethod
    async def read(folder: Path, live: Live, programs: Path) -> Archived:
        """Raises Refusal: it can't be read, is empty, or is another server's."""
        try:
            files = await asyncio.to_thread(_listed, folder)
        except OSError as error:
            raise _unreadable(folder, error) from error
        names = {stem: path for stem, path in files.items() if wal.SEGMENT.fullmatch(stem)}
        histories = {stem: path for stem, path in files.items() if wal.HISTORY.fullmatch(stem)}
        head = await asyncio.to_thread(_head, names)
        if head is None:
            raise Refusal("pitr_nothing_archived", f"There is no WAL in {folder}.", "Let archive_command write there, or mend backups.pitr.wal.")
        if head.system != live.system:
            message = f"The WAL in {folder} is another server's (system identifier {head.system}, the live one is {live.system})."
            raise Refusal("pitr_impossible", message, "Mend backups.pitr.wal.")
        own = histories.get(f"{live.timeline:08X}.history")
        text = await asyncio.to_thread(_text, own) if own else None
        whole = await asyncio.to_thread(_whole, names, live.segment)
        return Archived(programs, whole, histories, live.segment, wal.lineage(live.timeline, text))

    async def newest(self, first: int, last: int, before: int | None = None) -> dt.datetime | None:
        """The time of the newest transaction in those segments. Raises StepFailed."""
        for number in range(last, first - 1, -1):
            if (found := await self._commit(number, before)) is not None:
                return found
        return None

    async def reaches(self, first: int, last: int) -> tuple[dt.datetime | None, int]:
        """The newest transaction of that run, and its last segment that can be read."""
        number = last
        while number >= first:
            try:
                if (found := await self._commit(number)) is not None:
                    return found, last
            except StepFailed:
                last = number - 1  # torn: the run ends before it
            number -= 1
        return None, last

    async def first_after(self, stretch: Stretch, time: dt.datetime) -> int:
        """The first segment of the stretch with a transaction after that moment: halving, since times grow with the WAL."""
        low, high = stretch.segment, stretch.last
        while low < high:
            middle = (low + high) // 2
            found = await self.newest(low, middle)
            low, high = (low, middle) if found is not None and found > time else (middle + 1, high)
        return low

    async def take(self, name: str, to: Path) -> None:
        """Raises StepFailed."""
        path = self._paths[name]
        size = await unpacking.in_thread(lambda going: unpacking.copy_plain(path, to / name, going))
        if size != self.size:
            raise StepFailed(f"{path} holds {size} bytes of WAL instead of {self.size}: it is torn.")

    async def take_histories(self, to: Path) -> None:
        for name, path in self._histories.items():
            await asyncio.to_thread(_keep, path, to / name)

    async def _commit(self, number: int, before: int | None = None) -> dt.datetime | None:
        if (number, before) not in self._known:
            self._known[number, before] = await self._looked(self.line.segment(number, self.size), before)
        return self._known[number, before]

    async def _looked(self, name: str, before: int | None) -> dt.datetime | None:
        if self._paths[name].suffix == "":
            return await last_commit(self._programs, self._paths[name], before)
        place = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="backout-wal-"))
        try:
            await self.take(name, place)
            return await last_commit(self._programs, place / name, before)
        finally:
            await asyncio.to_thread(shutil.rmtree, place)


def _listed(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), reverse=True):  # so that the plain one wins
        stem = next((path.name.removesuffix(ending) for ending in reversed(unpacking.ENDINGS) if path.name.endswith(ending)), path.name)
        found[stem] = path
    return found


def _head(names: Mapping[str, Path]) -> wal.Header | None:
    """What the newest segment that can be read says."""
    for name in sorted(names, reverse=True):
        try:
            if (found := wal.header(unpacking.beginning(names[name], wal.HEADER))) is not None:
                return found
        except unpacking.Torn:
            continue
    return None


def _whole(names: Mapping[str, Path], size: int) -> dict[str, Path]:
    """Without plain segments that are still being written, or were cut off."""
    return {name: path for name, path in names.items() if path.suffix or path.stat().st_size == size}


def _text(path: Path) -> str:
    return unpacking.beginning(path, 2**20).decode("ascii", "replace")


def _keep(path: Path, to: Path) -> None:
    to.write_text(_text(path))
