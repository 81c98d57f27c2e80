"""Where dumps are kept."""

from __future__ import annotations

from bot.stores.directory import DirectoryStore

STORES = {"directory": DirectoryStore}
