"""One way back, three times: by hand on a twin of the database, on the copy of the rehearsal, and by Backout in production. They have to agree."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from bot import config as configuration
from bot.app import opened
from bot.errors import Refusal
from bot.model import Plan
from bot.place import Connect
from bot.settings import Settings
from tests.harness import Bot
from tests.histories import brute
from tests.histories.brute import Name, Photo
from tests.scenario import parts

#: (database, 'upgrade' or 'downgrade', revision) -> exit code and output: what a person would type
ByHand = Callable[[Connect, str, str], tuple[int, str]]
PATIENCE = 420.0  # seconds; a loaded machine starts these applications slowly
_RAN = """select facts->>'statements_total', facts->>'statements_sha256' from backout.attempts
where step = 'downgrade' and state = 'done' and run = (select id from backout.runs order by created desc limit 1)"""
DATA = ("table", "column", "rows", "values", "enum")
GUARDS = ("unique", "foreign key", "index", "constraint")


@dataclass(frozen=True)
class Hand:
    """What came of it by hand: down, and up again where that is asked."""

    code: int
    output: str
    after: Photo
    again: Photo | None = None
    up: int = 0


@dataclass
class Story:
    """`programs` has a pg_dump of the server's version."""

    bot: Bot
    server: Connect
    programs: Path
    by_hand: ByHand

    @property
    def target(self) -> Connect:
        return self.bot.target

    async def photo(self) -> Photo:
        return await asyncio.to_thread(brute.photo, self.target, self.programs)

    @contextmanager
    def twin(self) -> Any:
        """A database like production's, OIDs included, that nobody but us knows."""
        name = f"twin_{secrets.token_hex(4)}"
        own, new = sql.Identifier(self.target.user), sql.Identifier(name)
        with psycopg.connect(self.server.url(), autocommit=True) as admin:
            admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {} OWNER {}").format(new, sql.Identifier(self.target.database), own))
            try:
                yield self.target.model_copy(update={"database": name})
            finally:
                admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(new))

    async def tried(self, down: str, up: str) -> Hand:
        """Downgraded by hand on a twin, and upgraded again to `up`. In a thread: the local Slack lives in this loop."""
        return await asyncio.to_thread(self._tried, down, up)

    def _tried(self, down: str, up: str) -> Hand:
        with self.twin() as twin:
            code, output = self.by_hand(twin, "downgrade", down)
            after = brute.photo(twin, self.programs)
            if code:
                return Hand(code, output, after)
            back, said = self.by_hand(twin, "upgrade", up)
            return Hand(code, output + said, after, brute.photo(twin, self.programs), back)

    async def past(self, rev: str) -> None:
        """What Backout refuses and a person decides to do all the same."""
        code, output = await asyncio.to_thread(self.by_hand, self.target, "downgrade", rev)
        assert code == 0, output

    async def preview(self, rev: str) -> Plan:
        """Raises Refusal."""
        bot = self.bot
        settings = Settings(bot.env(BACKOUT_HOME=str(bot.root / "preview")))
        async with opened(settings, configuration.load(bot.root / "backout.yml", bot.env())) as app:
            return await app.rollbacks.preview("shop", rev)

    async def refused(self, rev: str) -> Refusal:
        """What the plan says no with; nothing has changed."""
        before = await self.photo()
        with pytest.raises(Refusal) as caught:
            await self.preview(rev)
        await self.assert_untouched(before)
        return caught.value

    async def asked(self, rev: str) -> dict[str, Any]:
        """The card of a new run, once it was tried on a copy or refused."""
        before = len(self.bot.cards())
        await self.bot.ask(f"{rev} sev high because a history is tried")
        await self.bot.until(
            lambda: len(self.bot.cards()) > before and self.bot.state() in {"awaiting_approval", "refused"}, what="asked or refused", within=PATIENCE
        )
        return await self.bot.card_in(str(self.bot.state()))

    def refusal(self) -> dict[str, Any]:
        return dict(self.bot.events("refused")[-1])

    # ------------------------------------------------------------------ the claims

    async def goes_back(self, rev: str) -> dict[str, Any]:
        """Plan, rehearsal and production say the same as the way by hand, and as each other. Returns the evidence."""
        before, stands = await self.photo(), str(self.bot.stands())
        hand = await self.tried(rev, stands)
        assert hand.code == 0, hand.output
        plan = await self.preview(rev)
        assert (plan.from_, plan.to) == (stands, rev)

        card = await self.asked(rev)
        assert self.bot.state() == "awaiting_approval", self.refusal()
        found = self.evidence()
        assert found["done"] is True, found["why"]
        lost, unguarded = brute.lost(before, hand.after), brute.unguarded(before, hand.after)
        assert told(found, DATA) == without_versions(lost), "the copy lost what is lost by hand"
        assert told(found, GUARDS).keys() == unguarded
        assert_foretold(plan, lost, hand.after)
        works = hand.up == 0 and hand.again is not None and hand.again.lines() == before.lines()
        assert (found["forward"] == "works") == works, (found["forward_says"], hand.output)
        await self.assert_untouched(before)

        await self.bot.slack.click(card, "approve", "U0DBA")
        await self.bot.until(lambda: self.bot.state() in {"succeeded", "needs_decision"}, what="carried out", within=PATIENCE)
        await parts.ends(self.bot, "succeeded")
        after = await self.photo()
        assert brute.lost(before, after) == lost, "production lost what the copy lost"
        assert after.schema == hand.after.schema
        assert_same_rows(after, hand.after)
        self.assert_same_statements(found)
        return found

    async def fails(self, rev: str, words: str) -> None:
        """By hand it fails, on the copy it fails, and production was never asked."""
        before = await self.photo()
        hand = await self.tried(rev, str(self.bot.stands()))
        assert hand.code != 0
        assert words in hand.output
        assert (await self.preview(rev)).to == rev
        card = await self.asked(rev)
        assert self.bot.state() == "refused"
        assert self.refusal()["code"] == "rehearsal_failed"
        assert words in str(card)
        await self.assert_untouched(before)

    async def refuses(self, rev: str, code: str, words: str) -> None:
        """Before anything is tried."""
        before = await self.photo()
        refusal = await self.refused(rev)
        assert refusal.code == code, refusal.message
        assert words in refusal.message
        told = len(self.bot.events("refused"))
        await self.bot.ask(f"{rev} sev high because a history is tried")
        # whether there is a card, too, depends on how quickly it is refused
        await self.bot.until(lambda: len(self.bot.events("refused")) > told, what="refused", within=PATIENCE)
        assert self.refusal()["code"] == code
        await self.assert_untouched(before)

    def evidence(self) -> dict[str, Any]:
        (found,) = self.bot.journaled("select plan->'rehearsal' from backout.runs order by created desc limit 1")
        return dict(found[0])

    async def assert_untouched(self, before: Photo) -> None:
        now = await self.photo()
        assert now.schema == before.schema
        assert now.rows() == before.rows()

    def assert_same_statements(self, found: dict[str, Any]) -> None:
        (ran,) = self.bot.journaled(_RAN)
        assert ran == (str(found["statements_total"]), found["statements_sha256"])


def told(found: dict[str, Any], kinds: Iterable[str]) -> dict[Name, int]:
    return {(loss["kind"], loss["name"]): loss["count"] for loss in found["loss"] if loss["kind"] in kinds}


def without_versions(lost: dict[Name, int]) -> dict[Name, int]:
    return {thing: count for thing, count in lost.items() if not thing[1].startswith("public.alembic_version")}


def assert_foretold(plan: Plan, lost: dict[Name, int], after: Photo) -> None:
    """The plan named each table and column that went, or said that it could not read a script; what it was certain of did go."""
    names = {(loss.kind, loss.name.split(".")[-1].strip('"')) for loss in plan.foreseen}
    unread = any(not loss.certain or loss.kind == "unreadable" for loss in plan.foreseen)
    gone = {(kind, name.split(".")[-1].strip('"')) for kind, name in lost if kind in {"table", "column"}}
    assert unread or gone <= names, f"not foretold: {gone - names}"
    left = {table.name.split(".")[-1] for table in after.tables.values()}
    for loss in plan.foreseen:
        if loss.kind == "table" and loss.certain:
            assert loss.name.split(".")[-1] not in left, f"{loss.name} was foretold, and is still there"


def assert_same_rows(one: Photo, other: Photo) -> None:
    mine, theirs = one.rows(), other.rows()
    assert mine.keys() == theirs.keys()
    assert [table for table in mine if mine[table] != theirs[table]] == []
