"""The sample shop on a real server: its history goes up and down again, its newest migration breaks the checkout, and undoing it heals it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest
import yaml

from bot.config import load
from playground.shop import DIRECTORY, alembic, backout_yml, fill, serving
from tests.conftest import MakeDatabase

COUNTS = {"customers": 20_000, "products": 500, "orders": 40_000, "order_items": 80_000, "reviews": 10_000}


async def asked(method: str, url: str, **more: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.request(method, url, **more) as answer:
        return answer.status, await answer.json()


async def one(url: str, question: str) -> Any:
    async with await psycopg.AsyncConnection.connect(url) as connection:
        row = await (await connection.execute(question.encode())).fetchone()
    assert row is not None
    return row[0]


async def test_the_checkout_is_down_until_the_scoring_migration_is_undone(make_database: MakeDatabase) -> None:
    url = make_database("shop").url()
    await fill(url)
    assert {table: await one(url, f"SELECT count(*) FROM {table}") for table in COUNTS} == COUNTS
    assert await one(url, "SELECT version_num FROM alembic_version") == "0005"
    assert await one(url, "SELECT count(*) FROM orders WHERE risk_score IS NULL OR scored_at IS NULL") == 0
    async with serving(url) as shop:
        status, said = await asked("GET", f"{shop}/health")
        assert (status, said["status"]) == (503, "unhealthy")
        assert 'null value in column "risk_score"' in said["reason"]
        assert (await asked("POST", f"{shop}/checkout", json={"customer": 5, "product": 3}))[0] == 500
        await alembic(url, "downgrade", "0004")
        assert await asked("GET", f"{shop}/health") == (200, {"status": "healthy"})
        assert await one(url, "SELECT count(*) FROM orders") == COUNTS["orders"]
        assert (await asked("POST", f"{shop}/checkout", json={"customer": 5, "product": 3}))[0] == 201
        assert await one(url, "SELECT count(*) FROM orders") == COUNTS["orders"] + 1


async def test_the_whole_history_goes_down_and_up_again(make_database: MakeDatabase) -> None:
    url = make_database("shop").url()
    await alembic(url, "upgrade", "head")
    await alembic(url, "downgrade", "base")
    assert await one(url, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'") == 0
    await alembic(url, "upgrade", "head")
    assert await one(url, "SELECT count(*) FROM pg_indexes WHERE indexname = 'orders_open_idx' AND indexdef LIKE '%WHERE%'") == 1
    with pytest.raises(psycopg.errors.CheckViolation):
        await one(url, "INSERT INTO reviews (product_id, customer_id, stars) VALUES (1, 1, 6) RETURNING id")


_REDIRECT = """
import os, sys
from alembic.config import main
from sqlalchemy import event
from sqlalchemy.engine import Engine, make_url

meant = make_url(os.environ["MEANT"])

@event.listens_for(Engine, "do_connect")
def redirect(dialect, record, arguments, parameters):
    parameters.update(host=meant.host, port=meant.port, user=meant.username, password=meant.password, database=meant.database)

main(["-c", sys.argv[1], "upgrade", "0002"])
"""


async def test_another_program_can_redirect_its_connection(make_database: MakeDatabase) -> None:
    meant = make_database("shop").url()
    process = await asyncio.create_subprocess_exec(  # noqa: TID251  a program of its own is what is tested
        sys.executable, "-c", _REDIRECT, str(DIRECTORY / "alembic.ini"), env={"MEANT": meant, "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    )  # fmt: skip
    assert await process.wait() == 0
    assert await one(meant, "SELECT version_num FROM alembic_version") == "0002"


async def test_a_migration_that_fails_says_why(make_database: MakeDatabase) -> None:
    with pytest.raises(RuntimeError, match="Can't locate revision"):
        await alembic(make_database("shop").url(), "upgrade", "0009")


async def test_a_shop_without_its_database_is_unhealthy_and_a_bad_order_is_refused(make_database: MakeDatabase) -> None:
    url = make_database("shop").url()
    async with serving(url) as shop:
        assert (await asked("GET", f"{shop}/health"))[0] == 503
        assert (await asked("POST", f"{shop}/checkout", json={"customer": "x"}))[0] == 400
        await alembic(url, "upgrade", "0004")
        assert (await asked("POST", f"{shop}/checkout", json={"product": 1}))[0] == 400


def test_backout_itself_reads_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "backout.yml"
    path.write_text(backout_yml("http://127.0.0.1:8000/health", store=tmp_path))
    config = load(path, {"SHOP_DATABASE_URL": "postgresql://shop:secret@127.0.0.1:5432/shop"})
    assert [check.name for check in config.targets["shop"].verify] == ["no order lost", "every item has its order"]


def test_the_configuration_is_yaml_whatever_the_paths_are(tmp_path: Path) -> None:
    store = tmp_path / 'a "quoted": place'
    config = yaml.safe_load(backout_yml("http://127.0.0.1:8000/health", store=store))
    target = config["targets"]["shop"]
    assert target["backups"]["store"] == str(store)
    assert target["tool"]["directory"] == str(DIRECTORY)
    assert target["tool"]["env"] == {"DATABASE_URL": "postgresql+asyncpg://{user}:{password}@{host}:{port}/{database}"}
    assert (DIRECTORY / target["tool"]["config"]).is_file()
    named = {role for rule in config["policy"].values() for role in {**rule, **rule.get("approve", {})}} & set(config["roles"])
    assert named == {"dba", "team-lead"}
    assert set(config["escalation"]["ladder"]) <= set(config["roles"])
