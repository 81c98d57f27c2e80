"""Alembic, in the application's own Python and environment.

The helper (alembic_helper/) runs there. It redirects every connection that SQLAlchemy makes to the database meant and proves it by our
challenge (databases.md F14), sets and reads back the session's bounds (F13), takes the attempt's fence on the connection that does the work,
and waits for our `go`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from bot.keeping import Work
from bot.model import CodeSeen, History, Plan
from bot.ports import Database
from bot.running import Runner
from bot.tools.alembic_moving import Move, Order
from bot.tools.alembic_program import HelperProgram
from bot.tools.alembic_reading import read
from bot.tools.alembic_settings import AlembicSettings

_NOTHING: Mapping[str, str] = MappingProxyType({})


class AlembicTool:
    """Implements running.MigrationTool.

    `inherited` are the few variables that every program gets; `extra` are more of tool.env's kind, with the same {templates}: on a copy,
    BACKOUT_REHEARSAL=1 and what rehearsal.env names. With that variable no address but the copy's is even tried.
    """

    kind = "alembic"
    Settings = AlembicSettings

    def __init__(
        self,
        settings: AlembicSettings,
        runner: Runner,
        database: Database,
        *,
        inherited: Mapping[str, str],
        extra: Mapping[str, str] = _NOTHING,
    ) -> None:
        self.settings = settings
        self._helper = HelperProgram(settings, runner, database, inherited=inherited, extra=extra)

    async def read(self, *, unmarked: bool = False) -> History:
        """Changes nothing: env.py runs in a read-only session. Raises Refusal, as alembic_reading.read lists."""
        return await read(self._helper, unmarked=unmarked)

    async def prepare(self) -> None:
        """Python with alembic in it takes a second to start, which nobody has to wait for behind stopped writers."""
        await self._helper.prepare()

    async def downgrade(self, to: str, work: Work) -> Mapping[str, Any]:
        """Exactly the plan's revisions, with the planned scripts.

        Returns facts: statements [{sql, ms, rows, revision, lock, table, held}], statements_total, statements_sha256, locks [{table, mode, held}]
        (only when rehearsing; held in ms), transactions, revisions, output, seconds, driver, one_transaction, connections, blockers.
        Raises StepFailed and OutcomeUnknown with the same facts.
        """
        plan = work.plan
        scripts = {undone.revision: undone.sha256 for undone in plan.undone}
        return await Move(self._helper, Order("downgrade", to, () if plan.from_ == "base" else (plan.from_,), scripts), work).carry_out()

    async def upgrade(self, to: str, work: Work, *, from_: tuple[str, ...], scripts: Mapping[str, str] | None) -> Mapping[str, Any]:
        """From the heads `from_` (none: an empty database) with exactly `scripts`; None: whatever lies there. Facts and errors as `downgrade`."""
        return await Move(self._helper, Order("upgrade", to, from_, scripts), work).carry_out()

    async def stamp(self, to: str, work: Work) -> Mapping[str, Any]:
        """By alembic's own stamp. Facts and errors as `downgrade`."""
        from_ = work.plan.from_
        return await Move(self._helper, Order("stamp", to, () if from_ == "base" else (from_,), {}), work).carry_out()

    async def code(self, plan: Plan) -> CodeSeen:
        """Alembic applies nothing unasked, and its models are Python: there is nothing that can be seen from here."""
        return CodeSeen(says="nothing to say", why="Alembic's models are Python")
