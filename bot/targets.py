"""The only file that knows every adapter of a target: its part of the configuration -> TargetParts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bot import cage
from bot.backups import BACKUPS, POINTS_IN_TIME, PROVIDERS
from bot.backups.archives import StoredArchives
from bot.backups.recovering import Recovering
from bot.clock import SystemClock
from bot.config import Config, Rehearsal, TargetConfig, adapter_kind, adapter_settings
from bot.databases import timescale
from bot.databases.connecting import connected
from bot.databases.door import Door
from bot.databases.postgres import PostgresDatabase
from bot.databases.scratch import ThrowawayScratches
from bot.databases.scratch_elsewhere import OtherServerScratches
from bot.databases.scratch_same import SameServerScratches
from bot.durable import RehearsalRules, TargetParts
from bot.embedded import binaries
from bot.errors import ConfigError, Refusal
from bot.keeping import PointInTime, Provider, Store
from bot.merges import MergeRule
from bot.place import Connect
from bot.platforms import ONCE, PLATFORMS, SERVICES
from bot.platforms.services import ServicesPlatform
from bot.platforms.several import Several
from bot.ports import Database, Scratches
from bot.runners import RUNNERS
from bot.running import Inside, MigrationTool, Platform, Runner
from bot.settings import inherited
from bot.stores import STORES
from bot.throwaway import Throwaways
from bot.tools import TOOLS
from bot.values import address, next_time

_NOT_HELD = Refusal(
    "not_held_back", "This machine's kernel has no Landlock, so code in a copy may do what the user of its throwaway server may.",
    "Run Backout on Linux 5.13 or later, or as a user that owns nothing but BACKOUT_HOME.", warning=True,
)  # fmt: skip


def target(config: Config, name: str, journal_system: str, home: Path) -> TargetParts:
    """`home` is Backout's own folder. Raises ConfigError that names the key."""
    part, where, base = config.targets[name], f"targets.{name}", config.directory
    database = PostgresDatabase(
        target=name, tool=part.database, admin=part.admin, maintenance_database=part.maintenance_database, journal_system=journal_system
    )
    tools = _Tools(part, where, base)
    store, spool = _store(part, where, base), home / "spool"
    backup_class = BACKUPS["dump"]

    def enter(connect: Connect) -> tuple[Database, MigrationTool]:
        other = PostgresDatabase(
            target=name, tool=connect, admin=part.admin, maintenance_database=part.maintenance_database, journal_system=journal_system
        )
        return other, tools.of(other)

    return TargetParts(
        name=name, channels=part.channels, tool=tools.of(database), runner=tools.runner, database=database,
        backup=backup_class(store, part.admin, backup_class.Settings(), embedded=binaries, waiters=database.waiters, spool=spool,
                            restoring={timescale.NAME: timescale.restoring}),
        archives=StoredArchives(store, spool), pitr=_pitr(part, where, base, home),
        provider=_provider(part, where),
        platform=_platform(part, where, database, tools.runner.inside),
        rehearsal=_rehearsal(part, tools, home), enter=enter, elsewhere=_elsewhere,
        rule=MergeRule(**part.tables.model_dump(), triggers=part.put_back.triggers == "fire"), triggers=part.put_back.triggers == "fire",
        schedules={kind: partial(next_time, text) for kind, text in (("backup", part.backups.schedule), ("drill", part.drill.schedule)) if text},
        verify=part.verify, health=part.health, watch=part.watch, keep=part.backups.keep,
        questions=part.questions, checklist=part.checklist,
    )  # fmt: skip


def _elsewhere(connect: Connect) -> Database:
    other = "template1" if connect.database == "postgres" else "postgres"
    return PostgresDatabase(target="copy", tool=connect, admin=connect, maintenance_database=other)


def _store(part: TargetConfig, where: str, base: Path) -> Store:
    written = part.backups.store
    options = {"kind": "directory", "path": written} if isinstance(written, str) else written
    store_class: Any = STORES[adapter_kind(options, STORES, f"{where}.backups.store")]
    made: Store = store_class.of(adapter_settings(store_class.Settings, options, f"{where}.backups.store"), base)
    return made


class _Tools:
    """The target's migration tool, for its own database and for copies."""

    def __init__(self, part: TargetConfig, where: str, base: Path) -> None:
        runner_class = RUNNERS[adapter_kind(part.runner, RUNNERS, f"{where}.runner")]
        self.runner: Runner = runner_class(adapter_settings(runner_class.Settings, part.runner, f"{where}.runner"))
        self._class = TOOLS[adapter_kind(part.tool, TOOLS, f"{where}.tool")]
        self._settings = adapter_settings(self._class.Settings, part.tool, f"{where}.tool").placed(base)

    def of(self, database: Database, extra: Mapping[str, str] | None = None) -> MigrationTool:
        return self._class(self._settings, self.runner, database, inherited=inherited() if self.runner.inherits else {}, extra=extra or {})


def _platform(part: TargetConfig, where: str, database: PostgresDatabase, inside: Inside | None) -> Platform:
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
            made.append(ServicesPlatform(services_class(settings), kind if not named else f"{kind} {named + 1}", settings, inside))
        else:
            platform_class = PLATFORMS[kind]
            made.append(platform_class(adapter_settings(platform_class.Settings, options, place), Door(maintenance, part.database)))
    return made[0] if made[0].kind in ONCE and len(made) == 1 else Several(made, database.strangers, wake=database.wake_workers)


def _pitr(part: TargetConfig, where: str, base: Path, home: Path) -> PointInTime | None:
    if part.backups.pitr is None:
        return None
    kind = adapter_kind(part.backups.pitr, POINTS_IN_TIME, f"{where}.backups.pitr")
    source_class = POINTS_IN_TIME[kind]
    settings = adapter_settings(source_class.Settings, part.backups.pitr, f"{where}.backups.pitr")
    clusters = Throwaways(home / "pitr")
    return Recovering(source_class(settings, base, clusters.programs), part.admin, clusters, connected, SystemClock(), home / "pitr")


def _provider(part: TargetConfig, where: str) -> Provider | None:
    if part.backups.provider is None:
        return None
    provider_class = PROVIDERS[adapter_kind(part.backups.provider, PROVIDERS, f"{where}.backups.provider")]
    made: Provider = provider_class(adapter_settings(provider_class.Settings, part.backups.provider, f"{where}.backups.provider"))
    return made


def _rehearsal(part: TargetConfig, tools: _Tools, home: Path) -> RehearsalRules:
    rules: Rehearsal = part.rehearsal

    def at(tool: Connect, admin: Connect, maintenance: str) -> tuple[Database, MigrationTool]:
        copy = PostgresDatabase(target="copy", tool=tool, admin=admin, maintenance_database=maintenance)
        return copy, tools.of(copy, {**rules.env, "BACKOUT_REHEARSAL": "1"})

    where: Scratches
    warnings: tuple[Refusal, ...] = ()
    match rules.server:
        case "none":
            why = "The target says so (rehearsal.server: none)."
            return RehearsalRules(where=None, max_size=rules.max_size, within=rules.within, why_not=why)
        case "same":
            where = SameServerScratches(part.admin, part.maintenance_database, part.database, at)
        case "throwaway":
            place = home / "scratch"
            where = ThrowawayScratches(part.admin, part.database, Throwaways(place), at, place)
            warnings = () if cage.version() else (_NOT_HELD,)
        case url:
            where = OtherServerScratches(part.admin, part.database, address(url), at)
    return RehearsalRules(where=where, max_size=rules.max_size, within=rules.within, warnings=warnings)
