"""examples/a-trading-timescaledb on the real TimescaleDB, and vectors beside: from `/rollback` to the report, and forward again."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from bot.place import Connect
from tests import history
from tests.conftest import MakeDatabase
from tests.contract.servers import execute
from tests.harness import CHANNEL, PEOPLE, Bot, Json, configuration
from tests.platforms.timescale import running
from tests.scenario import parts, real
from tests.scenario.conftest import MakeBot

EXAMPLE = Path(__file__).parents[2] / "examples" / "a-trading-timescaledb"
PATIENCE = 180.0
FILL = """
INSERT INTO usdcop_m5_ohlcv (time, symbol, open, high, low, close, volume)
SELECT '2026-01-01'::timestamptz + i * interval '5 min', s, 4000 + i % 50, 4051, 3990, 4000 + i % 40, i
FROM generate_series(0, 2999) i, (VALUES ('USDCOP'), ('USDMXN')) AS v (s);
UPDATE usdcop_m5_ohlcv SET spread = 0.5 WHERE symbol = 'USDCOP';
INSERT INTO macro_indicators_daily SELECT '2025-12-01'::date + i, 100 + i FROM generate_series(0, 40) i;
INSERT INTO model_registry SELECT i, 'model ' || i FROM generate_series(1, 3) i;
INSERT INTO trading_signals SELECT '2026-01-05'::timestamptz + i * interval '10 min', 1 + i % 3, 0.5 FROM generate_series(0, 999) i;
"""
BARS = "SELECT md5(string_agg(b::text, ' ' ORDER BY symbol, time)) FROM (SELECT time, symbol, close, spread FROM usdcop_m5_ohlcv) b"
SIGNALS = "SELECT md5(string_agg(s::text, ' ' ORDER BY model_id, time)) FROM trading_signals s"
STANDS = "SELECT hypertable_name::text, num_chunks FROM timescaledb_information.hypertables ORDER BY 1"


@pytest.fixture(scope="module")
def server() -> Iterator[Connect]:
    with running() as connect:
        yield connect


def example(project: Path, root: Path) -> Json:
    """The example's own configuration: compose, MinIO and addresses are this machine's."""
    found: Json = yaml.safe_load((EXAMPLE / "backout.yml").read_text())
    target = found["targets"]["trading"]
    target |= {
        "database": "${TARGET_URL}", "admin": "${ADMIN_URL}", "channels": [CHANNEL], "platform": {"kind": "database"},
        "tool": {**target["tool"], "directory": str(project), "python": sys.executable}, "backups": {"store": str(root / "backups"), "keep": "7d"},
    }  # fmt: skip
    found["people"] = {user: {"name": name, "token": f"${{{user}_TOKEN}}"} for user, name in PEOPLE.items()}
    found["roles"]["devops"] = {"title": "DevOps", "users": ["U0SENIOR"]}
    return found


@pytest.fixture
async def trading(make_bot: MakeBot, make_database: MakeDatabase, server: Connect, tmp_path: Path) -> AsyncIterator[Bot]:
    bot = await make_bot(start=False)
    bot.target = make_database("trading")
    admin = server.model_copy(update={"database": bot.target.database})
    bot.environ["ADMIN_URL"] = admin.url()
    await execute(admin, "CREATE EXTENSION timescaledb")
    project = Path(shutil.copytree(EXAMPLE / "database", tmp_path / "database"))
    history.upgrade(project, bot.target)
    with psycopg.connect(bot.target.url(), autocommit=True) as session:
        session.execute(FILL)
    bot.config = example(project, bot.root)
    await bot.start()
    yield bot
    with psycopg.connect(server.url(), autocommit=True) as session:
        for (name,) in bot.journaled("select file->>'name' from backout.backups where file->>'format' = 'clone'"):
            session.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')  # type: ignore[arg-type]


async def approved(bot: Bot, text: str, *people: str) -> Json:
    """By the DBA, and these."""
    before = len(bot.cards())
    await bot.ask(text)
    await bot.until(lambda: len(bot.cards()) > before and bot.state() == "awaiting_approval", what="asked for approval", within=PATIENCE)
    card = await bot.card_in("awaiting_approval")
    evidence = real.rehearsed(bot)
    assert evidence["done"], evidence
    for user in (*people, "U0DBA"):
        await bot.slack.click(card, "approve", user)
    return card


def attempts(bot: Bot) -> dict[str, tuple[str, str]]:
    rows = bot.journaled("select step, state, summary from backout.attempts order by began")
    return {step: (state, summary) for step, state, summary in rows}


async def test_the_signals_are_taken_back_with_their_hypertable_and_put_back_again_and_the_report_says_how_each_stands(trading: Bot) -> None:
    bot = trading
    bars, signals, stands = bot.query(BARS), bot.query(SIGNALS), bot.query(STANDS)

    card = await approved(bot, "trading 0002 sev high because the signals are wrong", "U0LEAD")

    shown = str(card)
    assert "trading_signals" in shown
    assert "1,000" in shown, "rows are those of the chunks"
    assert "_timescaledb_internal" not in shown, "chunks are nobody's tables"
    evidence = real.rehearsed(bot)
    assert {(one["kind"], one["name"], one["count"]) for one in evidence["loss"] if one["kind"] in ("table", "column", "rows", "values")} == {
        ("table", "public.trading_signals", 1000), ("column", "public.usdcop_m5_ohlcv.spread", 3000),
    }  # fmt: skip
    await parts.ends(bot, "succeeded")
    assert bot.stands() == "0002"
    assert {state for state, _ in attempts(bot).values()} == {"done"}, attempts(bot)
    assert "1,000 rows of public.trading_signals" in attempts(bot)["archive"][1]
    assert bot.query("SELECT count(*) FROM usdcop_m5_ohlcv") == [(6000,)]
    assert [row[0] for row in bot.query(STANDS)] == ["usdcop_m5_ohlcv"]
    report = (await bot.reported()).replace("\\", "")  # of Markdown
    assert "hypertable public.usdcop_m5_ohlcv" in report
    assert "cut by time every 7 days" in report
    assert "| RED |" not in report

    before = len([file for file in bot.slack.files() if file.name.startswith("post-mortem-")])
    await approved(bot, "reapply trading 0003 sev high because it is mended")
    await bot.until(lambda: len([f for f in bot.slack.files() if f.name.startswith("post-mortem-")]) > before, what="reported again", within=PATIENCE)
    assert bot.stands() == "0003"
    assert (bot.query(BARS), bot.query(SIGNALS)) == (bars, signals), "to the last row"
    assert bot.query(STANDS) == stands


async def test_a_backup_is_swapped_in_with_its_hypertables(trading: Bot) -> None:
    bot = trading
    bars = bot.query(BARS)
    await approved(bot, "trading 0002 sev high because the signals are wrong", "U0LEAD")
    await parts.ends(bot, "succeeded")
    (name,) = bot.journaled("select name from backout.backups where revision = '0003' and file->>'format' = 'custom' order by made desc limit 1")[0]

    await approved(bot, f"restore trading {name} sev high because it was a mistake")
    await parts.ends(bot, "succeeded")

    assert bot.stands() == "0003"
    assert bot.query(BARS) == bars
    assert bot.query("SELECT count(*) FROM ONLY usdcop_m5_ohlcv") == [(0,)]
    assert [row[0] for row in bot.query(STANDS)] == ["trading_signals", "usdcop_m5_ohlcv"]
    parts.execute(bot, "INSERT INTO usdcop_m5_ohlcv (time, symbol, close) VALUES (now(), 'USDCOP', 1)")


# ------------------------------------------------------------------ vectors

RADAR = {
    "0001": history.Step("op.execute('CREATE TABLE papers (id int PRIMARY KEY, title text)')", "op.drop_table('papers')", "papers"),
    "0002": history.Step("op.create_index('ix_papers_title', 'papers', ['title'])", "op.drop_index('ix_papers_title')", "an index"),
    "0003": history.Step(
        "op.execute('CREATE EXTENSION IF NOT EXISTS vector')\nop.execute('ALTER TABLE papers ADD embedding vector(3)')\n"
        "op.execute('CREATE INDEX papers_near ON papers USING hnsw (embedding vector_cosine_ops)')",
        "op.drop_column('papers', 'embedding')",
        "embeddings",
    ),
}
PAPERS = "INSERT INTO papers SELECT i, 'p' || i, ARRAY[i, 1, -i]::real[]::vector FROM generate_series(1, 400) i"


async def test_a_column_of_vectors_is_taken_back_and_put_back_with_its_index(
    make_bot: MakeBot, make_database: MakeDatabase, server: Connect, tmp_path: Path
) -> None:
    bot = await make_bot(start=False)
    bot.target = make_database("radar")
    admin = server.model_copy(update={"database": bot.target.database})
    await execute(admin, "CREATE EXTENSION vector")
    directory = history.made(tmp_path / "radar", bot.target, RADAR, PAPERS)
    bot.environ["ADMIN_URL"] = admin.url()
    more: dict[str, Any] = {"rehearsal": {}, "admin": "${ADMIN_URL}"}
    bot.config = configuration(directory, bot.root, **more)
    bot.config["targets"]["shop"]["verify"] = [{"name": "no paper lost", "sql": "select count(*) from papers", "expect": "same"}]
    await bot.start()
    vectors = "SELECT id, embedding::text FROM papers ORDER BY id"
    before = bot.query(vectors)

    await approved(bot, "0002 sev high because the embeddings are of another model")
    await parts.ends(bot, "succeeded")
    assert bot.stands() == "0002"
    assert "400 rows of public.papers" in attempts(bot)["archive"][1]

    await approved(bot, "reapply 0003 sev high because it is mended")
    await bot.until(lambda: bot.stands() == "0003" and attempts(bot).get("put_back", ("", ""))[0] == "done", what="put back", within=PATIENCE)
    assert bot.query(vectors) == before
    assert bot.query("SELECT count(*) FROM pg_index WHERE indexrelid = 'papers_near'::regclass AND indisvalid") == [(1,)]
