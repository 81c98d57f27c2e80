"""Where dumps are kept."""

from __future__ import annotations

from bot.stores.directory import DirectoryStore
from bot.stores.s3 import S3Store

STORES = {"directory": DirectoryStore, "s3": S3Store}
