"""The nouns, frozen, and the state table of a run. Words are those of docs/architecture.md; shapes are what the journal stores."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field

from bot.evidence import BackupFile, Loss, LossClass, Noun, Rehearsal, digest_of, spelled
from bot.merges import MergeRule
from bot.place import Identity
from bot.strategy import WAYS, Strategy, Way


class State(StrEnum):
    PLANNING = "planning"
    REHEARSING = "rehearsing"
    AWAITING_APPROVAL = "awaiting_approval"
    RUNNING = "running"
    NEEDS_DECISION = "needs_decision"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    ABORTED = "aborted"
    REJECTED = "rejected"
    EXPIRED = "expired"
    REFUSED = "refused"


_S = State
#: The only changes of state there are. The journal refuses any other.
TRANSITIONS: dict[State, frozenset[State]] = {
    _S.PLANNING: frozenset({_S.REHEARSING, _S.AWAITING_APPROVAL, _S.REFUSED, _S.ABORTED}),
    _S.REHEARSING: frozenset({_S.AWAITING_APPROVAL, _S.REFUSED, _S.ABORTED}),
    _S.AWAITING_APPROVAL: frozenset({_S.RUNNING, _S.REJECTED, _S.EXPIRED, _S.ABORTED, _S.REFUSED}),
    _S.RUNNING: frozenset(
        {
            _S.NEEDS_DECISION,
            _S.REHEARSING,
            _S.AWAITING_APPROVAL,
            _S.SUCCEEDED,
            _S.FAILED,
            _S.ABORTED,
            _S.REFUSED,
            _S.REJECTED,
            _S.EXPIRED,
        }
    ),
    _S.NEEDS_DECISION: frozenset({_S.RUNNING}),
    **{end: frozenset() for end in (_S.SUCCEEDED, _S.FAILED, _S.ABORTED, _S.REJECTED, _S.EXPIRED, _S.REFUSED)},
}
ENDS: frozenset[State] = frozenset(state for state, following in TRANSITIONS.items() if not following)
OPEN: frozenset[State] = frozenset(TRANSITIONS) - ENDS


class Severity(StrEnum):
    """The incident's."""

    CRITICAL = "critical"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


DowngradeKind = Literal["real", "empty", "raises", "missing", "unknown"]


class Revision(Noun):
    """One migration script as its tool reads it where it is deployed."""

    revision: str
    down: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    message: str = ""
    date: str | None = None
    path: str = ""
    sha256: str = ""
    downgrade: DowngradeKind = "unknown"
    #: the source of its way down, for reading what it destroys; empty when it can't be had
    source: str = ""
    language: Literal["python", "sql"] = "python"
    #: why there is no way down, where its tool can say more than `downgrade` does
    why: str = ""
    #: its way down was written by a program just now, so that nobody has it as a file yet: people are shown all of it
    generated: bool = False


class History(Noun):
    """What a migration tool said about a target: its scripts, and where the database stands."""

    revisions: tuple[Revision, ...]
    heads: tuple[str, ...]
    bases: tuple[str, ...]
    current: tuple[str, ...]
    version_table: str = "alembic_version"
    version_table_schema: str | None = None
    #: how the revisions where the database stands are read; None: the column version_num of that table
    version_query: str | None = None
    #: the tool opens one transaction for the whole downgrade (False: one per migration, or none)
    one_transaction: bool = False
    #: things a reader of the card should know, e.g. a statement that a read-only session refused
    remarks: tuple[str, ...] = ()
    #: the code has to follow by hand, and its tool can say how far it has (`MigrationTool.code`)
    code_follows: bool = False


class Undone(Noun):
    revision: str
    message: str
    date: str | None
    sha256: str
    #: its way down in full, where a program wrote it; `sha256` covers it
    script: str = ""


class CodeSeen(Noun):
    """How far the code has followed the database, as its tool sees it. `left` are sentences of what is still to do."""

    says: str
    left: tuple[str, ...] = ()
    #: the tool's own schema beside the database: None where they were not compared, and `why` says why not
    same: bool | None = None
    #: how they differ, in the tool's own words
    difference: str = ""
    why: str = ""


class PlanStep(Noun):
    name: str
    params: dict[str, Any] = Field(default_factory=dict)


class Option(Noun):
    """A way back, beside the others. `seconds` None: not measured."""

    name: Literal["downgrade", "restore", "point in time", "fix forward"]
    loses: str
    seconds: float | None = None
    certain: str
    possible: bool = True
    recommended: bool = False
    why: str = ""


class Plan(Noun):
    """Frozen: what will be done to which database. `loss` is what the rehearsal found; before it, and without one, what the scripts say."""

    target: str
    strategy: Strategy = "downgrade"
    from_: str
    to: str
    #: in the order in which they run: newest first, for a reapply oldest first
    undone: tuple[Undone, ...]
    #: on a copy, before anybody is asked; empty when the target is not rehearsed
    rehearse: tuple[PlanStep, ...] = ()
    steps: tuple[PlanStep, ...]
    #: what reading the scripts says
    foreseen: tuple[Loss, ...] = ()
    loss: tuple[Loss, ...] = ()
    loss_class: LossClass = LossClass.NONE
    identity: Identity
    version_table: str = "alembic_version"
    version_table_schema: str | None = None
    version_query: str | None = None
    one_transaction: bool = False
    #: names of the sql verifications, so that editing one changes the digest
    verify: tuple[str, ...] = ()
    #: the run whose archive is put back; for a reapply
    archive: str | None = None
    #: the copy that comes back: a file of the store, or a database beside this one
    source: BackupFile | None = None
    #: the tables that come back out of it, as SQL names them
    tables_back: tuple[str, ...] = ()
    rule: MergeRule = MergeRule()
    #: the instant to which it is recovered, ISO 8601 with its zone
    point: str | None = None
    rehearsal: Rehearsal | None = None
    options: tuple[Option, ...] = ()
    expected_seconds: float | None = None
    remarks: tuple[str, ...] = ()

    @property
    def version(self) -> tuple[str, str | None, str | None]:
        """Where the database's own revision is read: table, schema, and the tool's query instead of the table."""
        return self.version_table, self.version_table_schema, self.version_query

    @property
    def way(self) -> Way:
        return WAYS[self.strategy]

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that it locks or takes from, as far as is known."""
        locked = [one.table for one in self.rehearsal.locks] if self.rehearsal else []
        return tuple(dict.fromkeys([*locked, *(one.table for one in self.loss if one.table)]))

    @property
    def stops_writers(self) -> bool:
        return any(step.name == "stop_writers" for step in self.steps)

    @property
    def versions(self) -> str:
        """The tool's own table, as the catalog spells it."""
        return spelled(*([self.version_table_schema] if self.version_table_schema else []), self.version_table)

    def data(self, losses: Iterable[Loss]) -> tuple[Loss, ...]:
        """Without the tool's own table, which changes in any case."""
        return tuple(one for one in losses if one.name != self.versions and not one.name.startswith(f"{self.versions}."))

    def digest(self) -> str:
        """sha256, hex, of the canonical JSON of what can be equal twice (databases.md F6): objects and classes of loss, never counts or times.

        The postmaster's start is not part of it: a restart is the same database.
        """
        body = self.model_dump(mode="json", exclude={"expected_seconds", "remarks", "options", "rehearsal", "loss", "foreseen"})
        body["identity"].pop("started")
        for undone in body["undone"]:
            undone.pop("script")
        for name in ("loss", "foreseen"):
            body[name] = sorted(loss.thing() for loss in getattr(self, name))
        body["rehearsal"] = self.rehearsal.covered() if self.rehearsal else None
        return digest_of(body)


class Person(Noun):
    """Who is asking. `team` is the Slack team; "cli" for the command line, whose people proved themselves by a token."""

    id: str
    team: str = ""


class Seat(Noun):
    """One needed approval. `by` is None while it is open."""

    role: str
    by: str | None = None
    at: dt.datetime | None = None


class Need(Noun):
    """What the policy asks for: seats in the policy's order, how long a seat waits, whether the requester may sit."""

    roles: tuple[str, ...]
    within: dt.timedelta
    self_approval: bool = False
    advice: str | None = None


class Request(Noun):
    """The command, as it was stored before it was acknowledged."""

    target: str
    rev: str
    reason: str
    severity: Severity
    by: Person
    strategy: Strategy = "downgrade"
    #: the Slack channel of the card; None when the target has none
    channel: str | None = None
    #: where a private answer may go; emptied once used
    response_url: str | None = Field(default=None, repr=False)


class AttemptState(StrEnum):
    INTENDED = "intended"
    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Attempt(Noun):
    """One try at one step. `facts` is its evidence: small JSON, shown on the decision card and in the post-mortem."""

    step: str
    attempt: int
    state: AttemptState
    executor: str
    #: of the run: another plan begins another round
    round: int = 1
    began: dt.datetime
    ended: dt.datetime | None = None
    summary: str = ""
    progress: str = ""
    facts: dict[str, Any] = Field(default_factory=dict)

    @property
    def seconds(self) -> float | None:
        return None if self.ended is None else round((self.ended - self.began).total_seconds(), 3)


class Event(Noun):
    """One line of the journal. `seq` grows by one within a run; `data` is small JSON."""

    seq: int
    at: dt.datetime
    kind: str
    data: dict[str, Any] = Field(default_factory=dict)


class Run(Noun):
    """One request, from the command to the report, as the journal has it now."""

    id: str
    target: str
    state: State
    request: Request
    plan: Plan | None = None
    digest: str | None = None
    seats: tuple[Seat, ...] = ()
    #: roles of the ladder that were asked besides the seats' own
    escalated: tuple[str, ...] = ()
    #: where the run is heading once the writers are started again: aborted or failed
    ending: State | None = None
    #: the decision that waits to be carried out
    decision: str | None = None
    refusal: dict[str, str] | None = None
    attempts: tuple[Attempt, ...] = ()
    round: int = 1
    seq: int
    created: dt.datetime
    ended: dt.datetime | None = None

    @property
    def current(self) -> tuple[Attempt, ...]:
        """The attempts at this plan; those at a plan before it are history."""
        return tuple(a for a in self.attempts if a.round == self.round)

    def last_attempt(self, step: str) -> Attempt | None:
        mine = [a for a in self.current if a.step == step]
        return mine[-1] if mine else None

    @property
    def from_(self) -> str | None:
        return self.plan.from_ if self.plan else None

    @property
    def to(self) -> str:
        return self.plan.to if self.plan else self.request.rev


class Delivery(Noun):
    """What the channel already has of a run: the card's place, and the events and texts that were sent."""

    channel: str
    ts: str
    content: str = ""


class Alarm(Noun):
    """A deadline. `kind` is 'seat' (an approval waits) or 'down' (the target is down for too long)."""

    run: str
    kind: str
    due: dt.datetime


class SeatView(Noun):
    """A seat with who could fill it: user ids, the ladder's escalated holders included."""

    role: str
    title: str
    by: str | None = None
    holders: tuple[str, ...] = ()


class StepView(Noun):
    """A planned step and its newest attempt. `state` is 'waiting' before the first."""

    name: str
    says: str
    state: str = "waiting"
    attempt: int = 0
    seconds: float | None = None
    summary: str = ""
    progress: str = ""


class View(Noun):
    """Everything that a card, a thread, `status` and the report are rendered from; nothing else is looked up."""

    run: Run
    events: tuple[Event, ...]
    seats: tuple[SeatView, ...] = ()
    steps: tuple[StepView, ...] = ()
    #: until when the open seats wait before the next rung is asked
    until: dt.datetime | None = None
    #: role -> title, for every role that is named
    titles: dict[str, str] = Field(default_factory=dict)
    advice: str | None = None
    #: when-not-to-roll-back questions, and the checklist; answers are events of kind 'ticked'
    questions: tuple[str, ...] = ()
    checklist: tuple[str, ...] = ()
    ticked: tuple[str, ...] = ()
    #: commands that restore the backup by hand, once there is one
    restore_commands: tuple[str, ...] = ()
    now: dt.datetime
