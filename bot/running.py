"""Where the application and its migration tool run: the ports of runners, platforms, services, and of the tool itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bot.errors import Refusal
from bot.keeping import Work
from bot.model import CodeSeen, History, Plan
from bot.place import Connect


class Program(Protocol):
    """A running program: one merged stream of stdout and stderr."""

    pid: int

    def output(self) -> AsyncIterator[bytes]: ...
    async def send(self, data: bytes) -> None: ...
    async def close_stdin(self) -> None: ...
    async def wait(self) -> int: ...
    async def kill(self) -> None:
        """End the whole process group and see it gone."""


class Inside(NamedTuple):
    """A container in which programs are executed, so that it has to run while they do."""

    host: str  #: the engine's address
    name: str


class Runner(Protocol):
    """Where a target's own programs run: beside Backout, in a container, in a pod. Leaving the context ends what still runs, over there."""

    #: the program's environment begins with Backout's own few variables (PATH, HOME, ...); False: with those of the place
    inherits: bool
    #: what has to run while the tool does; None: the runner makes a place of its own
    inside: Inside | None

    def seen(self, connect: Connect, *, copy: bool) -> Connect:
        """How that database is reached from there. Raises Refusal(rehearsal_impossible) for a copy that can't be reached."""

    def start(self, argv: Sequence[str], *, env: Mapping[str, str], directory: Path, name: str, copy: bool) -> AbstractAsyncContextManager[Program]:
        """`name` is the attempt's application_name, by which what is left is known; `copy`: for a rehearsal. Raises ProgramMissing, StepFailed."""

    async def prepare(self, argv: Sequence[str], *, env: Mapping[str, str], directory: Path) -> None:
        """A program may be started ahead, where that costs nothing else; `start` takes it for exactly these words. It may wait for long."""

    async def ready(self) -> tuple[Refusal, ...]:
        """What stands in its way right now; a warning is not in the way."""

    async def clean(self, running: Collection[str]) -> None:
        """Remove what dead processes left over there: all of ours whose run is not among `running`, and what was started ahead."""


class Platform(Protocol):
    """Where the application runs."""

    kind: str
    #: does it stop anybody? False: nothing can be promised about what is written meanwhile
    stops: bool
    #: it has services whose start can be watched
    has_services: bool
    #: the application upgrades the database when it starts
    migrates_on_start: bool
    #: the application is rolled back before it is started again
    rolls_back: bool

    async def ready(self) -> tuple[Refusal, ...]:
        """What stands in its way right now; a warning is not in the way."""

    async def stop_writers(self, work: Work) -> Mapping[str, Any]:
        """What was there is remembered first, then stopped, then seen stopped. `says` is the line for people. Raises StepFailed."""

    async def prove_stopped(self, work: Work) -> None:
        """In the same second as the destruction. Raises StepFailed, which names who is still there."""

    async def start_writers(self, work: Work) -> Mapping[str, Any]:
        """Exactly what was stopped, as `work.stopped` says; twice is harmless. `says` is the line for people."""

    async def entrance(self, work: Work) -> Connect | None:
        """How the tool enters while writers are stopped; None: as always."""

    async def former(self) -> Mapping[str, Any]:
        """What the application was before its last change, by place and service; empty where nothing can be rolled back."""

    async def roll_back(self, former: Mapping[str, Any], work: Work) -> Mapping[str, Any]:
        """Make the application what it was; `says` is the line for people."""

    async def logs(self, lines: int) -> Mapping[str, tuple[str, ...]]:
        """The newest lines of each service; what can't be read says why in its one line."""


class Services(Protocol):
    """What an application consists of, at one place: containers, deployments. `noted` is what `look` returned before they were stopped.

    Everything but `stop`, `start`, `roll_back` and `restart` only reads. Those are RERUN: done twice they come to the same.
    Raises StepFailed, which names the service, what happened, and what to do; Refusal where the place can't be asked at all.
    """

    kind: str

    async def ready(self, inside: Inside | None = None) -> tuple[Refusal, ...]:
        """What stands in the way right now: a service that isn't there, a right that is missing (which verb on what).

        `inside`: where the tool is executed, which can't be among what is stopped for it.
        """

    async def look(self) -> Mapping[str, Any]:
        """What is there now, by service: small JSON with all that `start` gives back."""

    async def stop(self, noted: Mapping[str, Any], work: Work) -> str:
        """All of them, and see them gone; what was stopped already stays as it is. Returns the line for people."""

    async def prove_stopped(self, noted: Mapping[str, Any]) -> None:
        """Nothing of it runs now. Raises StepFailed, which names what does."""

    async def start(self, noted: Mapping[str, Any], work: Work) -> str:
        """Exactly what ran, one by one, each ready before the next. Raises StepFailed with the one that would not, the others untouched after it
        unless `work.leaving`: then the rest is started all the same and the error names all that would not."""

    def by_hand(self, noted: Mapping[str, Any]) -> tuple[str, ...]:
        """The commands for a person at a shell that start them again."""

    async def logs(self, lines: int) -> Mapping[str, tuple[str, ...]]:
        """The newest lines of each service, oldest first, without secrets."""

    async def former(self) -> Mapping[str, Any]:
        """What each service was before its last change, by service: small JSON with `says`; what has no former is left out."""

    async def roll_back(self, former: Mapping[str, Any], work: Work) -> str:
        """Make them what they were; what is stopped stays stopped. Returns the line for people."""


class MigrationTool(Protocol):
    """How a schema goes back. Reads in the application's own environment; `read` changes nothing."""

    kind: str

    async def read(self, *, unmarked: bool = False) -> History:
        """History and current revision; `unmarked`: a database without a version table stands nowhere, which is no error.

        Raises Refusal (tool_missing, broken_history, wrong_database, version_table_missing, ...)."""

    async def prepare(self) -> None:
        """It will be asked soon. Raises nothing."""

    async def upgrade(self, to: str, work: Work, *, from_: tuple[str, ...], scripts: Mapping[str, str] | None) -> Mapping[str, Any]:
        """Forward to an absolute revision; `scripts` are the planned hashes, None: whatever lies there. Facts and errors as `downgrade`."""

    async def downgrade(self, to: str, work: Work) -> Mapping[str, Any]:
        """To an absolute revision, on a connection that was proven and fenced. Returns facts: statements, transactions, output, seconds.

        Raises StepFailed (the tool said no; nothing is known to have changed), OutcomeUnknown (the connection or the tool was lost)."""

    async def stamp(self, to: str, work: Work) -> Mapping[str, Any]:
        """Write down that the database stands at an absolute revision, from whatever was written there; no script runs. As `downgrade`."""

    async def code(self, plan: Plan) -> CodeSeen:
        """How far the code has followed the database, where `History.code_follows`. Changes nothing. Raises Refusal."""
