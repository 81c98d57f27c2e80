"""A moment as people type it and read it: never without its zone, since a time without one means two things on the night of an incident."""

from __future__ import annotations

import datetime as dt
import re
import zoneinfo

from bot.errors import Refusal

_WRITTEN = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)[T ](?P<time>\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?) ?"
    r"(?P<zone>Z|z|UTC|GMT|[+-]\d\d(?::?\d\d)?|[A-Za-z_]+(?:/[A-Za-z_+-]+)+)?"
)
_WAY_OUT = "Write the day, the time and its zone: 2026-11-30T20:48:28Z, 2026-11-30 21:48:28+01:00, or 2026-11-30 21:48:28 Europe/Berlin."


def parse_moment(text: str) -> dt.datetime:
    """In UTC. Raises Refusal(pitr_time_unclear): no zone, no such day, or an hour that a change of clocks leaves out or has twice."""
    found = _WRITTEN.fullmatch(text.strip())
    if found is None:
        raise Refusal("pitr_time_unclear", f"'{text[:60]}' can't be read as a moment.", _WAY_OUT)
    if found["zone"] is None:
        raise Refusal("pitr_time_unclear", f"'{text[:60]}' has no time zone, so it means another moment for everybody who reads it.", _WAY_OUT)
    try:
        plain = dt.datetime.fromisoformat(f"{found['day']}T{found['time']}")
        return _in_zone(plain, found["zone"]).astimezone(dt.UTC)
    except (ValueError, OverflowError) as error:
        raise Refusal("pitr_time_unclear", f"'{text[:60]}' is no moment: {error}.", _WAY_OUT) from error


def _in_zone(plain: dt.datetime, zone: str) -> dt.datetime:
    if zone in {"Z", "z", "UTC", "GMT"}:
        return plain.replace(tzinfo=dt.UTC)
    if zone[0] in "+-":
        hours, minutes = int(zone[1:3]), int(zone[3:].lstrip(":") or 0)
        offset = dt.timedelta(hours=hours, minutes=minutes)
        return plain.replace(tzinfo=dt.timezone(-offset if zone[0] == "-" else offset))
    return _of_a_place(plain, zone)


def _of_a_place(plain: dt.datetime, zone: str) -> dt.datetime:
    try:
        place = zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, OSError) as error:
        raise ValueError(f"this machine knows no zone {zone}") from error
    first, second = plain.replace(tzinfo=place, fold=0), plain.replace(tzinfo=place, fold=1)
    if first.utcoffset() != second.utcoffset():
        raise ValueError(f"the clocks in {zone} change in that hour, so it is there twice or not at all; write it in UTC")
    return first


def told(moment: dt.datetime) -> str:
    """`2026-11-30 20:48:28 UTC`, with the fraction where there is one."""
    return f"{moment.astimezone(dt.UTC).replace(tzinfo=None).isoformat(sep=' ')} UTC"
