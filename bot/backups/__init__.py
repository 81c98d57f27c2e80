"""How a copy of the data is made and proven, and where a server of an earlier moment comes from."""

from __future__ import annotations

from typing import Any

from bot.backups.dump import DumpBackup
from bot.backups.pgbackrest import PgBackRest
from bot.backups.provider import GuidedProvider
from bot.backups.railway import RailwayBackups
from bot.backups.wal_folder import WalFolder

BACKUPS = {"dump": DumpBackup}
#: each implements recovering.Source, and is made with its settings, the folder where relative paths begin, and where programs are found
POINTS_IN_TIME: dict[str, type[Any]] = {"pgbackrest": PgBackRest, "wal_folder": WalFolder}
#: each implements keeping.Provider
PROVIDERS: dict[str, type[Any]] = {
    "railway": RailwayBackups, "aws-rds": GuidedProvider, "google-cloud-sql": GuidedProvider, "azure": GuidedProvider,
}  # fmt: skip
