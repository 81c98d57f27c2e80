"""backup_manifest, as pg_basebackup writes it since 13: its checksums, when it began, and from where to where it needs WAL."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot.backups.wal import position
from bot.errors import StepFailed

NAME = "backup_manifest"
_TAIL = b'"Manifest-Checksum": "'


@dataclass(frozen=True)
class Manifest:
    """`began`: not before this moment. `start` and `end` are LSNs; `size` in bytes, unpacked."""

    began: dt.datetime
    timeline: int
    start: int
    end: int
    size: int


def read(folder: Path) -> Manifest:
    """Raises StepFailed: it is not there, was changed, or is none."""
    try:
        data = (folder / NAME).read_bytes()
    except OSError as error:
        raise StepFailed(f"It has no {NAME} that can be read.") from error
    head, found, tail = data.rpartition(_TAIL)
    if not found or hashlib.sha256(head).hexdigest().encode() != tail[:64]:
        raise StepFailed(f"Its {NAME} is torn or was changed.")
    try:
        return _manifest(json.loads(data))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise StepFailed(f"Its {NAME} is not one of pg_basebackup's.") from error


def _manifest(told: Any) -> Manifest:
    files = told["Files"]
    (label,) = (one for one in files if one.get("Path") == "backup_label")
    # Written by the server's clock as the backup begins, without the fraction.
    began = dt.datetime.strptime(label["Last-Modified"], "%Y-%m-%d %H:%M:%S GMT").replace(tzinfo=dt.UTC) + dt.timedelta(seconds=1)
    ranges = told["WAL-Ranges"]
    return Manifest(
        began=began, timeline=int(ranges[-1]["Timeline"]),
        start=min(position(one["Start-LSN"]) for one in ranges), end=max(position(one["End-LSN"]) for one in ranges),
        size=sum(int(one["Size"]) for one in files),
    )  # fmt: skip


def write_older(manifest: Path, to: Path) -> None:
    """The same in the words of 13 to 16: without the server's identifier, which 17 added."""
    lines = manifest.read_bytes().splitlines(keepends=True)
    kept = b"".join(line for line in lines[1:-1] if not line.startswith(b'"System-Identifier"'))
    text = b'{ "PostgreSQL-Backup-Manifest-Version": 1,\n' + kept
    to.write_bytes(text + _TAIL + hashlib.sha256(text).hexdigest().encode() + b'"}\n')
