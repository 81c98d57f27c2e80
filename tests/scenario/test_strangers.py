"""What others made comes back, and never runs with more rights than the application has: not while it is tried, filled, looked at, or merged."""

from __future__ import annotations

import secrets
import subprocess  # noqa: TID251  others make their dumps as a shell would
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.embedded import binaries
from bot.place import Connect
from tests.harness import Bot
from tests.scenario import parts
from tests.scenario.real import BACK, DOOR, MakeShop
from tests.scenario.real import make_shop as make_shop  # noqa: PLC0414  pytest finds the fixture here
from tests.scenario.test_in_place import HIGH, on_server, pressed
from tests.scenario.test_tables import hurt

#: each way in which it is called leaves a file of its own, where the server lets it; else nobody notices
REACHING = """
CREATE FUNCTION public.reach(how text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', 'touch {mark}.' || how); RETURN true; EXCEPTION WHEN OTHERS THEN RETURN true; END $$;
CREATE FUNCTION public.innocent(how text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN public.reach(how); END $$;
CREATE DOMAIN public.word AS text CHECK (public.innocent('domain'));
CREATE TABLE public.theirs (
  id int PRIMARY KEY, word public.word, twice boolean GENERATED ALWAYS AS (public.innocent('generated')) STORED, CHECK (public.innocent('check')));
INSERT INTO public.theirs VALUES (1, 'one');
CREATE INDEX theirs_index ON public.theirs (id) WHERE public.innocent('index');
CREATE INDEX orders_index ON public.orders (id) WHERE public.innocent('orders');
CREATE VIEW public.seen AS SELECT count(*) AS n FROM public.theirs WHERE public.reach('view');
"""
END = "--\n-- PostgreSQL database dump complete"
VERIFY = [{"name": "theirs", "sql": "select n from seen", "expect": 1}]
WHY = "sev high because others have the better copy"


@pytest.fixture
def mark() -> Iterator[Path]:
    """Where the server's programs can write."""
    path = Path("/tmp") / f"backout-reached-{secrets.token_hex(4)}"
    yield path
    for each in path.parent.glob(f"{path.name}.*"):
        each.unlink()


def reached(mark: Path) -> list[str]:
    return sorted(each.suffix for each in mark.parent.glob(f"{mark.name}.*"))


def put(bot: Bot, mark: Path) -> None:
    """A plain dump of the shop with somebody's additions, in the store past Backout."""
    argv = [str(binaries() / "pg_dump"), "--no-owner", bot.target.url()]
    made = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    assert END in made
    store = bot.root / "backups"
    store.mkdir(exist_ok=True)
    (store / "theirs.sql").write_text(made.replace(END, REACHING.replace("{mark}", str(mark)) + END))


def came_back(bot: Bot) -> None:
    assert bot.query("SELECT word::text, twice FROM theirs") == [("one", True)]
    assert bot.query("SELECT DISTINCT tableowner::text FROM pg_tables WHERE schemaname = 'public'") == [(bot.target.user,)]


async def test_a_strangers_code_has_no_more_rights_than_the_application(make_shop: MakeShop, mark: Path) -> None:
    bot = await make_shop(**DOOR, verify=VERIFY)
    put(bot, mark)
    acl = bot.query("SELECT datacl::text FROM pg_database WHERE datname = current_database()")
    card = await parts.ask(bot, f"restore theirs.sql {WHY}")
    assert reached(mark) == [], "on the server that is thrown away"
    await bot.slack.click(card, "approve", "U0DBA")
    await parts.ends(bot, "succeeded")
    came_back(bot)
    assert bot.query("SELECT datacl::text FROM pg_database WHERE datname = current_database()") == acl
    assert reached(mark) == []


async def test_nor_when_the_database_is_dropped_for_it(make_shop: MakeShop, mark: Path) -> None:
    bot = await make_shop(start=False, **DOOR, verify=VERIFY)
    bot.config["policy"]["loss"] = {"high": HIGH}
    put(bot, mark)
    await bot.start()
    await parts.ask(bot, f"restore theirs.sql in place {WHY}")
    await pressed(bot)
    await parts.ends(bot, "succeeded")
    came_back(bot)
    assert reached(mark) == []


async def test_nor_when_a_later_backup_is_restored_by_a_superuser_where_it_is_tried(make_shop: MakeShop, mark: Path) -> None:
    """It is the application's own by now, or the application made it itself: Backout's own dump of it is nobody's that would be handled apart."""
    bot = await make_shop(**DOOR, verify=[])
    code, _, rest = REACHING.replace("{mark}", str(mark)).partition("CREATE INDEX")
    parts.execute(bot, code.replace("INSERT", "CREATE MATERIALIZED VIEW public.filled AS SELECT public.innocent('filled') AS it; INSERT"))
    assert "CREATE INDEX" not in code, rest
    card = await parts.ask(bot, BACK)
    await bot.slack.click(card, "cancel", "U0DEV")
    await parts.ends(bot, "aborted")
    ((name,),) = bot.journaled("select name from backout.backups where file->>'format' = 'custom'")
    await parts.ask(bot, f"restore {name} {WHY}")
    assert reached(mark) == []


async def test_nor_when_rows_of_its_tables_are_merged_or_it_is_looked_at_again(make_shop: MakeShop, mark: Path) -> None:
    bot = await make_shop(**DOOR, verify=[])
    put(bot, mark)
    card = await parts.ask(bot, f"restore theirs.sql {WHY}")
    await bot.slack.click(card, "cancel", "U0DEV")
    await parts.ends(bot, "aborted")
    ((name,),) = bot.journaled("select name from backout.backups where (file->>'adopted')::bool")
    hurt(bot)
    card = await parts.ask(bot, f"tables orders, ratings from {name} {WHY}")
    assert reached(mark) == [], "on the server that is thrown away"
    await bot.slack.click(card, "approve", "U0DBA")
    await parts.ends(bot, "succeeded")
    assert bot.query("SELECT count(*) FROM orders WHERE id BETWEEN 401 AND 450") == [(50,)]
    card = await parts.ask(bot, f"restore {name} {WHY}")
    assert "code that production does not have" in str(card), "it is still a stranger's"
    assert reached(mark) == []


async def test_an_application_that_could_do_harm_elsewhere_gets_nothing_of_others(make_shop: MakeShop, mark: Path, server: Connect) -> None:
    bot = await make_shop(admin="${ADMIN_URL}")
    put(bot, mark)
    on_server(server, f'GRANT "{server.user}" TO "{bot.target.user}"')
    await bot.ask(f"restore theirs.sql {WHY}")
    refusal = await parts.refused(bot)
    assert refusal["code"] == "copy_condemned"
    assert f"{bot.target.user}, and that role has SUPERUSER" in refusal["message"]
    assert reached(mark) == []
