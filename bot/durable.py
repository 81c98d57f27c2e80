"""The promises that every step must declare, where it is defined. A missing or contradictory promise is a TypeError at import."""

from __future__ import annotations

import datetime as dt
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

from bot.errors import BackoutError, Refusal
from bot.evidence import Rehearsal
from bot.keeping import Archives, Backup, PointInTime, Provider
from bot.merges import MergeRule
from bot.model import Attempt, AttemptState, Plan, State
from bot.place import Connect
from bot.ports import Clock, Database, Journal, Scratches, Web
from bot.running import MigrationTool, Platform, Runner


class OnCrash(StrEnum):
    """What may be done when the bot died between the intent and the outcome."""

    RERUN = "rerun"  #: twice is harmless
    PROBE = "probe"  #: ask the world whether it happened, then decide
    ASK = "ask"  #: a person decides on the evidence


class Happened(StrEnum):
    """A probe's answer. UNKNOWN makes it a person's decision."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Probed:
    happened: Happened
    summary: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """How a step ended well: one line for people, facts for the report."""

    summary: str
    facts: Mapping[str, Any] = field(default_factory=dict)


class SqlCheck(Protocol):
    """A named query of `verify`; `expected` is ... when the target names none."""

    @property
    def name(self) -> str: ...
    @property
    def sql(self) -> str: ...
    @property
    def expected(self) -> Any: ...
    @property
    def blocking(self) -> bool: ...


class HealthCheck(Protocol):
    """`expected`: dotted JSON path -> value."""

    @property
    def url(self) -> str: ...
    @property
    def expected(self) -> Mapping[str, Any] | None: ...


@dataclass(frozen=True)
class RehearsalRules:
    """`where` is None when the target is not rehearsed; then `why_not` says why. `max_size` in bytes."""

    where: Scratches | None
    max_size: int
    within: dt.timedelta
    why_not: str = ""
    #: what an operator should know of this way, though it is in nobody's
    warnings: tuple[Refusal, ...] = ()


@dataclass(frozen=True)
class TargetParts:
    """What a step may use of a target. While writers are stopped, `database` and `tool` enter as the platform says."""

    name: str
    channels: tuple[str, ...]
    tool: MigrationTool
    runner: Runner
    database: Database
    backup: Backup
    archives: Archives
    #: None: nothing is archived for the target
    pitr: PointInTime | None
    #: whoever runs the server and keeps backups of their own
    provider: Provider | None
    platform: Platform
    rehearsal: RehearsalRules
    #: database and tool, entered by another role
    enter: Callable[[Connect], tuple[Database, MigrationTool]]
    #: a database on a server that is ours, entered as its superuser
    elsewhere: Callable[[Connect], Database]
    #: what happens to live rows when tables come back
    rule: MergeRule
    #: whether the user's triggers fire when an archive is put back
    triggers: bool
    verify: tuple[SqlCheck, ...]
    health: HealthCheck | None
    #: how long the application is watched once its services are back; nothing: not at all
    watch: dt.timedelta
    #: how long a backup is kept after its run
    keep: dt.timedelta
    #: when what is done unasked comes next after a moment: 'backup', 'drill'
    schedules: Mapping[str, Callable[[dt.datetime], dt.datetime]]
    questions: tuple[str, ...]
    checklist: tuple[str, ...]


class PlanChanged(BackoutError):
    """Planned again, it comes out differently: approvals are void. `what` says why, in sentences."""

    def __init__(self, plan: Plan, what: tuple[str, ...]) -> None:
        super().__init__("; ".join(what))
        self.plan = plan
        self.what = what


@dataclass
class World:
    """What a step sees: the target's parts, the plan, its own attempt, and what earlier steps left. It is the ports' Work."""

    target: TargetParts
    plan: Plan
    run: str
    step: str
    attempt: int
    #: the attempt of each earlier step that was done
    earlier: Mapping[str, Attempt]
    #: earlier attempts at this step, oldest first
    former: tuple[Attempt, ...]
    journal: Journal
    clock: Clock
    web: Web
    #: plan again and compare; raises PlanChanged or Refusal
    replan: Callable[[], Awaitable[None]]
    #: everything that is checked after the downgrade
    verification: Callable[[World], Awaitable[list[dict[str, Any]]]]
    #: the application's health, as a list of checks
    health: Callable[[World], Awaitable[list[dict[str, Any]]]]
    #: one look at it: `ok`, `says`, `seconds`; raises StepFailed when there is no answer
    health_now: Callable[[World], Awaitable[dict[str, Any]]]
    #: what will be lost, counted now; raises PlanChanged when it grew beyond what was approved
    counted_again: Callable[[], Awaitable[None]]
    #: the plan on a copy
    rehearsal: Callable[[World], Awaitable[Rehearsal]]
    #: the copy that is to come back, looked at elsewhere; and an instant, recovered
    copy_tried: Callable[[World], Awaitable[Rehearsal]]
    instant_tried: Callable[[World], Awaitable[Rehearsal]]
    #: waits until a person enters where a provider recovered it
    address: Callable[[], Awaitable[Connect]]
    #: tables that are to come back, merged on a copy
    tables_tried: Callable[[World], Awaitable[Rehearsal]]
    #: the revision that is to be written down, built from nothing and compared with what is there
    stamp_tried: Callable[[World], Awaitable[Rehearsal]]
    changed: Callable[[], Awaitable[None]]
    rehearsing: bool = False
    leaving: bool = False
    stopped: Mapping[str, Any] = field(default_factory=dict)

    @property
    def application(self) -> str:
        return application(self.run, self.step, self.attempt)

    def on(self, database: Database) -> World:
        """The same work on another database, e.g. on a copy."""
        return replace(self, target=replace(self.target, database=database))

    async def may_begin(self) -> bool:
        """The last look before the tool is told to begin. Raises StepFailed when a writer is there."""
        run = await self.journal.run(self.run)
        last = run.last_attempt(self.step)
        mine = last is not None and last.attempt == self.attempt and last.state is AttemptState.INTENDED
        if self.rehearsing:
            return mine and run.state is State.REHEARSING
        if self.plan.stops_writers:
            await self.target.platform.prove_stopped(self)  # in the same second as the destruction (databases.md F8)
        return mine and run.digest == self.plan.digest()

    async def ending(self) -> bool:
        """The run was cancelled meanwhile."""
        return (await self.journal.run(self.run)).ending is not None

    async def remember(self, **facts: Any) -> None:
        await self.journal.remember(self.run, self.step, self.attempt, facts)

    async def progress(self, text: str) -> None:
        await self.journal.progress(self.run, self.step, self.attempt, text)
        await self.changed()


def application(run: str, step: str, attempt: int) -> str:
    """The application_name of every session that an attempt opens; Postgres cuts at 63 bytes."""
    return f"backout/{run}/{step}/{attempt}"[:63]


Body = Callable[[World], Awaitable[Evidence]]
Probe = Callable[[World, Attempt], Awaitable[Probed]]


@dataclass(frozen=True)
class Step:
    """A function bound to its promises."""

    name: str
    says: str
    body: Body
    on_crash: OnCrash
    timeout: dt.timedelta
    destructive: bool
    probe: Probe | None
    retries: int
    #: another database stands there afterwards, so the fence is taken anew
    replaces: bool
    #: the server itself goes away in it: an attempt after one that had begun that finds out by itself when it is there again
    restarts: bool


def step(
    *,
    on_crash: OnCrash,
    timeout: dt.timedelta,
    destructive: bool,
    says: str,
    probe: Probe | None = None,
    retries: int = 0,
    replaces: bool = False,
    restarts: bool = False,
) -> Callable[[Body], Step]:
    """Declare a step. `says` is its name on the card; `retries` happen unasked and so never on a destructive step."""
    if on_crash is OnCrash.PROBE and probe is None:
        raise TypeError("PROBE needs a probe")
    if on_crash is not OnCrash.PROBE and probe is not None:
        raise TypeError(f"{on_crash} has no use for a probe")
    if retries and (destructive or on_crash is OnCrash.ASK):
        raise TypeError("a destructive step, or one that asks, is never retried unasked")

    def bind(body: Body) -> Step:
        return Step(
            name=body.__name__,
            says=says,
            body=body,
            on_crash=on_crash,
            timeout=timeout,
            destructive=destructive,
            probe=probe,
            retries=retries,
            replaces=replaces,
            restarts=restarts,
        )

    return bind
