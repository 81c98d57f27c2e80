"""When the transactions of a WAL segment were committed: pg_waldump says it, to the microsecond."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

from bot.errors import ProgramFailed, StepFailed
from bot.process import start
from bot.settings import inherited

#: COMMIT, ABORT, COMMIT_PREPARED, ABORT_PREPARED: what Postgres compares a recovery time with (xlogrecovery.c, recoveryStopsBefore)
_ENDED = re.compile(rb"lsn: ([0-9A-F]+)/([0-9A-F]+), prev .*?desc: (?:COMMIT|ABORT)(?:_PREPARED)? .*?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) UTC")


async def last_commit(programs: Path, segment: Path, before: int | None = None) -> dt.datetime | None:
    """Of the newest transaction in that plain segment, of those that ended before that LSN; None when there is none. Raises StepFailed."""
    argv = [str(programs / "pg_waldump"), "--rmgr=Transaction", str(segment)]
    last, rest, said = None, b"", b""
    try:
        async with start(argv, env={**inherited(), "LC_ALL": "C", "TZ": "UTC"}, directory=Path("/")) as program:
            await program.close_stdin()
            async for data in program.output():
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    said = line or said
                    found = _ENDED.search(line)
                    if found and (before is None or (int(found[1], 16) << 32) + int(found[2], 16) < before):
                        last = found[3]
            code = await program.wait()
    except ProgramFailed as error:
        raise StepFailed(f"The WAL can't be looked into: {error}.") from error
    # At the end of a segment it misses the next one, which is no error of the segment's.
    if code != 0 and last is None and b"could not find" not in said + rest and b"invalid record" not in said + rest:
        raise StepFailed(f"pg_waldump can't read {segment.name}: {(said or rest).decode(errors='replace')[:300]}")
    return dt.datetime.fromisoformat(last.decode()).replace(tzinfo=dt.UTC) if last else None
