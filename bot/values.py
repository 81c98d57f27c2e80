"""How durations, sizes, addresses and ids are written in backout.yml. No error shows the value: it may have come from a variable."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from types import NoneType
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

from bot.address import parse_url
from bot.errors import ConfigError
from bot.place import Connect

_DURATION = re.compile(r"([1-9]\d*)([smhd])")
_SIZE = re.compile(r"([1-9]\d*)(MB|GB|TB)")
_COMPARISON = re.compile(r"(=|!=|<=|>=|<|>)\s*(?P<value>.*)", re.DOTALL)
_DRIVER = re.compile(r"^(postgres(?:ql)?)\+\w+:")  # SQLAlchemy's way to name one: people paste it, it means nothing here
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


def _duration(value: Any) -> dt.timedelta:
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("is not a duration. Write a whole number and its unit: 90s, 15m, 4h or 7d")
    unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}[found[2]]
    try:
        return dt.timedelta(**{unit: int(found[1])})
    except OverflowError:
        raise ValueError("is too long a duration") from None


def _spelled_duration(value: dt.timedelta) -> str:
    seconds = int(value.total_seconds())
    if seconds % 86400 == 0 and seconds > 86400:
        return f"{seconds // 86400}d"
    size, unit = next((size, unit) for size, unit in ((3600, "h"), (60, "m"), (1, "s")) if seconds % size == 0)
    return f"{seconds // size}{unit}"


def _size(value: Any) -> int:
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("is not a size. Write a whole number and its unit: 500MB, 20GB or 1TB")
    unit: int = 1024 ** {"MB": 2, "GB": 3, "TB": 4}[found[2]]  # as Postgres reads them
    return int(found[1]) * unit


def _spelled_size(value: int) -> str:
    power, unit = next((power, unit) for power, unit in ((4, "TB"), (3, "GB"), (2, "MB")) if value % 1024**power == 0)
    return f"{value // 1024**power}{unit}"


def address(value: Any) -> Connect:
    if not isinstance(value, str):
        raise ValueError("must be a connection URL, as text")  # noqa: TRY004  pydantic's protocol
    try:
        return parse_url(_DRIVER.sub(r"\1:", value, count=1))
    except ConfigError as error:
        raise ValueError(str(error).rstrip(".")) from None


def _crontab(value: Any) -> str:
    from apscheduler.triggers.cron import CronTrigger  # noqa: PLC0415  only where a schedule is written

    try:
        CronTrigger.from_crontab(value, timezone="UTC")
    except (ValueError, AttributeError, TypeError):
        raise ValueError("is not a schedule. Write minute, hour, day, month and weekday as in a crontab, in UTC: 30 2 * * *") from None
    return str(value)


def next_time(crontab: str, after: dt.datetime) -> dt.datetime:
    """The first time after that moment that the schedule names, in UTC."""
    from apscheduler.triggers.cron import CronTrigger  # noqa: PLC0415  as above

    found = CronTrigger.from_crontab(crontab, timezone="UTC").get_next_fire_time(None, after + dt.timedelta(seconds=1))
    return found if isinstance(found, dt.datetime) else dt.datetime.max.replace(tzinfo=dt.UTC)


def _server(value: str) -> str:
    if value not in {"throwaway", "same", "none"}:
        address(value)
    return value


def _expectation(value: Any) -> Any:
    if not isinstance(value, str | int | float | NoneType):
        raise ValueError("must be same, none, one value (number, text, true, false, null) or a comparison such as '>= 10'")  # noqa: TRY004  pydantic's protocol
    compared = _COMPARISON.fullmatch(value.strip()) if isinstance(value, str) else None
    if compared and not compared["value"]:
        raise ValueError("compares with nothing. Write the value after the sign, such as '>= 10'")
    if compared and compared[1][0] in "<>" and not _NUMBER.fullmatch(compared["value"].strip()):
        raise ValueError("compares with something that is not a number. Write a number after the sign, such as '>= 10'")
    return value


def _options(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("must be a mapping with a kind, such as {kind: ...}")  # noqa: TRY004  pydantic's protocol
    if not isinstance(value.get("kind"), str):
        raise ValueError("has no kind. Write {kind: ...}")  # noqa: TRY004  pydantic's protocol
    return dict(value)


def _store(value: Any) -> str | dict[str, Any]:
    return value if isinstance(value, str) and value else _options(value)


def _platforms(value: Any) -> Any:
    return [value] if isinstance(value, Mapping) else value


def _id(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_]+", value):
        raise ValueError("must be the id that Slack shows under 'Copy ID' (such as U0DBA, C0INCIDENT or S0LEADS), not a name")
    return value


def _web_address(value: str) -> str:
    if not re.match(r"https?://[^/\s]", value):
        raise ValueError("must be a web address that begins with http:// or https://")
    return value


def _boxes(values: tuple[str, ...]) -> tuple[str, ...]:
    """Slack draws at most 10 boxes of at most 75 characters, and tells them apart by their text."""
    if len(values) > 10 or any(not 0 < len(value) <= 75 for value in values) or len(set(values)) < len(values):
        raise ValueError("must be at most 10 different lines of at most 75 characters")
    return values


Duration = Annotated[
    dt.timedelta,
    BeforeValidator(_duration),
    PlainSerializer(_spelled_duration, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": "^[1-9][0-9]*[smhd]$"}),
]
Crontab = Annotated[str, BeforeValidator(_crontab), WithJsonSchema({"type": "string"})]
Size = Annotated[
    int,
    BeforeValidator(_size),
    PlainSerializer(_spelled_size, when_used="json"),
    WithJsonSchema({"type": "string", "pattern": "^[1-9][0-9]*(MB|GB|TB)$"}),
]
Url = Annotated[Connect, BeforeValidator(address), WithJsonSchema({"type": "string", "format": "uri"})]
Options = Annotated[dict[str, Any], BeforeValidator(_options), WithJsonSchema({"type": "object", "required": ["kind"]})]
Id = Annotated[str, AfterValidator(_id)]
Seats = dict[str, Annotated[int, Field(ge=1)]]
WebAddress = Annotated[str, AfterValidator(_web_address)]
Server = Annotated[str, AfterValidator(_server)]
Expectation = Annotated[Any, AfterValidator(_expectation)]
Store = Annotated[Any, AfterValidator(_store), WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object", "required": ["kind"]}]})]
Platforms = Annotated[tuple[Options, ...], BeforeValidator(_platforms), Field(min_length=1)]
Boxes = Annotated[tuple[str, ...], AfterValidator(_boxes)]
