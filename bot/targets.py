"""The only file that knows every adapter of a target: its part of the configuration -> TargetParts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from bot.backups import BACKUPS
from bot.backups.archives import StoredArchives
from bot.config import Config, Rehearsal, TargetConfig, adapter_kind, adapter_settings
from bot.databases.door import Door
from bot.databases.postgres import PostgresDatabase
from bot.databases.scratch import ThrowawayScratches
from bot.durable import RehearsalRules, TargetParts
from bot.embedded import binaries
from bot.errors import ConfigError
from bot.place import Connect
from bot.platforms import ONCE, PLATFORMS, SERVICES
from bot.platforms.services import ServicesPlatform
from bot.platforms.several import Several, Strangers
from bot.ports import Database, MigrationTool
from bot.runners import RUNNERS
from bot.running import Platform
from bot.settings import inherited
from bot.stores import STORES
from bot.throwaway import Throwaways
from bot.tools import TOOLS

_NO_REHEARSAL = {
    "none": "The target says so (rehearsal.server: none).",
    "same": "Trying it on the target's own server is not built yet (rehearsal.server: same).",
}


def target(config: Config, name: str, journal_system: str, home: Path) -> TargetParts:
    """`home` is Backout's own folder. Raises ConfigError that names the key."""
    part, where, base = config.targets[name], f"targets.{name}", config.directory
    database = PostgresDatabase(
        target=name, tool=part.database, admin=part.admin, maintenance_database=part.maintenance_database, journal_system=journal_system
    )
    tools = _Tools(part, where, base)
    if not isinstance(part.backups.store, str):
        raise ConfigError(f"{where}.backups.store: write a folder, such as ./backups.")
    store = STORES["directory"](base / part.backups.store)
    backup_class = BACKUPS["dump"]

    def enter(connect: Connect) -> tuple[Database, MigrationTool]:
        other = PostgresDatabase(
            target=name, tool=connect, admin=part.admin, maintenance_database=part.maintenance_database, journal_system=journal_system
        )
        return other, tools.of(other)

    return TargetParts(
        name=name, channels=part.channels, tool=tools.of(database), database=database,
        backup=backup_class(store, part.admin, backup_class.Settings(), embedded=binaries, waiters=database.waiters),
        archives=StoredArchives(store), platform=_platform(part, where, database.strangers), rehearsal=_rehearsal(part, tools, home), enter=enter,
        triggers=part.put_back.triggers == "fire", verify=part.verify, health=part.health, watch=part.watch, keep=part.backups.keep,
        questions=part.questions, checklist=part.checklist,
    )  # fmt: skip


class _Tools:
    """The target's migration tool, for its own database and for copies."""

    def __init__(self, part: TargetConfig, where: str, base: Path) -> None:
        runner_class = RUNNERS[adapter_kind(part.runner, RUNNERS, f"{where}.runner")]
        self._runner = runner_class(adapter_settings(runner_class.Settings, part.runner, f"{where}.runner"))
        self._class = TOOLS[adapter_kind(part.tool, TOOLS, f"{where}.tool")]
        self._settings = adapter_settings(self._class.Settings, part.tool, f"{where}.tool").placed(base)

    def of(self, database: Database, extra: Mapping[str, str] | None = None) -> MigrationTool:
        return self._class(self._settings, self._runner, database, inherited=inherited() if self._runner.inherits else {}, extra=extra or {})


def _platform(part: TargetConfig, where: str, strangers: Strangers) -> Platform:
    maintenance = part.admin.model_copy(update={"database": part.maintenance_database})
    made: list[Platform] = []
    for number, options in enumerate(part.platform):
        place = f"{where}.platform" if len(part.platform) == 1 else f"{where}.platform[{number}]"
        kind = adapter_kind(options, [*PLATFORMS, *SERVICES], place)
        if kind in ONCE and len(part.platform) > 1 and (kind == "none" or kind in [one.kind for one in made]):
            raise ConfigError(f"{place}: {kind} {'stands alone' if kind == 'none' else 'stands once'}. Take it out of the list.")
        if kind in SERVICES:
            services_class = SERVICES[kind]
            settings = adapter_settings(services_class.Settings, options, place)
            named = sum(one.kind == kind for one in made)
            made.append(ServicesPlatform(services_class(settings), kind if not named else f"{kind} {named + 1}", settings))
        else:
            platform_class = PLATFORMS[kind]
            made.append(platform_class(adapter_settings(platform_class.Settings, options, place), Door(maintenance, part.database)))
    return made[0] if made[0].kind in ONCE and len(made) == 1 else Several(made, strangers)


def _rehearsal(part: TargetConfig, tools: _Tools, home: Path) -> RehearsalRules:
    rules: Rehearsal = part.rehearsal
    if rules.server != "throwaway":
        why = _NO_REHEARSAL.get(rules.server, "Trying it on another server is not built yet (rehearsal.server: URL).")
        return RehearsalRules(where=None, max_size=rules.max_size, within=rules.within, why_not=why)

    def at(tool: Connect, admin: Connect) -> tuple[Database, MigrationTool]:
        copy = PostgresDatabase(target="copy", tool=tool, admin=admin)
        return copy, tools.of(copy, {**rules.env, "BACKOUT_REHEARSAL": "1"})

    place = home / "scratch"
    where = ThrowawayScratches(part.admin, part.database, Throwaways(place), at, place)
    return RehearsalRules(where=where, max_size=rules.max_size, within=rules.within)
