"""`backups.pitr` becomes an adapter; what is wrong with it names its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bot import config, targets
from bot.errors import ConfigError
from bot.keeping import PointInTime

URL = "postgresql://app:only-for-this-test@127.0.0.1:1/shop"


def made(tmp_path: Path, pitr: Any) -> PointInTime | None:
    backups = {} if pitr is None else {"pitr": pitr}
    shop = {"database": URL, "tool": {"kind": "alembic", "directory": "."}, "backups": backups, "rehearsal": {"server": "none"}}
    (tmp_path / "backout.yml").write_text(yaml.safe_dump({"targets": {"shop": shop}}))
    return targets.target(config.load(tmp_path / "backout.yml", {}), "shop", "1", tmp_path / "home").pitr


def test_nothing_archived_is_nothing(tmp_path: Path) -> None:
    assert made(tmp_path, None) is None


@pytest.mark.parametrize("kind", ["wal_folder", "pgbackrest"])
def test_each_kind_is_made_from_its_settings(tmp_path: Path, kind: str) -> None:
    settings = {"wal_folder": {"base": "./base", "wal": "/wal"}, "pgbackrest": {"stanza": "main", "config": "./pgbackrest.conf"}}

    point = made(tmp_path, {"kind": kind, **settings[kind]})

    assert point is not None
    assert point.kind == kind


@pytest.mark.parametrize(
    ("pitr", "says"),
    [
        ({"kind": "barman"}, "targets.shop.backups.pitr.kind: no such kind. Write one of: pgbackrest, wal_folder."),
        ({"kind": "wal_folder", "base": "b"}, "targets.shop.backups.pitr.wal: missing. The folder that archive_command writes to."),
        ({"kind": "wal_folder", "base": "b", "wal": "w", "stanza": "s"}, "targets.shop.backups.pitr.stanza: unknown key."),
        ({"kind": "pgbackrest", "stanza": "--delta"}, "targets.shop.backups.pitr.stanza: "),
        ({"kind": "pgbackrest", "stanza": "main\n"}, "targets.shop.backups.pitr.stanza: "),
        ("pgbackrest", "targets.shop.backups.pitr: must be a mapping with a kind"),
    ],
)
def test_a_mistake_names_its_key(tmp_path: Path, pitr: Any, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(tmp_path, pitr)

    assert str(caught.value).startswith(says)
