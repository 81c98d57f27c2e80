"""How a copy of the data is made and proven."""

from __future__ import annotations

from bot.backups.dump import DumpBackup

BACKUPS = {"dump": DumpBackup}
