"""MLflow: 70 revisions, nearly half of them with an empty downgrade(), on tables that no revision makes. Psycopg 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.place import Connect
from tests.histories.conftest import MakeStory
from tests.histories.filling import fill
from tests.histories.installed import Installed, installed
from tests.histories.walk import Story

_INI = """\
[alembic]
script_location = {scripts}
sqlalchemy.url = postgresql+psycopg2://nobody@localhost/nowhere
"""
_MAKE = "import sys, sqlalchemy, mlflow.store.db.utils as u; u._initialize_tables(sqlalchemy.create_engine(sys.argv[1]))"


@pytest.fixture(scope="module")
def mlflow() -> Installed:
    return installed("mlflow")


@pytest.fixture
async def story(mlflow: Installed, make_story: MakeStory, tmp_path: Path) -> Story:
    """At the newest revision, made by MLflow's own hand: its first tables, then all revisions. Each table has rows."""
    scripts = mlflow.folder("mlflow/store/db_migrations")
    (tmp_path / "alembic.ini").write_text(_INI.format(scripts=scripts))

    def made(connect: Connect) -> None:
        code, output = mlflow.run("python", "-c", _MAKE, connect.url("postgresql+psycopg2"), environ={}, directory=tmp_path)
        assert code == 0, output
        there = fill(connect, 25)
        assert min(there.values()) > 5, there

    def by_hand(connect: Connect, direction: str, rev: str) -> tuple[int, str]:
        own = tmp_path / f"{connect.database}.ini"
        own.write_text(_INI.format(scripts=scripts).replace("postgresql+psycopg2://nobody@localhost/nowhere", connect.url("postgresql+psycopg2")))
        return mlflow.run("alembic", "-c", own, direction, rev, environ={}, directory=tmp_path)

    return await make_story(tool={"directory": str(tmp_path), "python": str(mlflow.python)}, made=made, by_hand=by_hand)


async def test_what_the_copy_showed_is_what_happens_down_to_the_first_empty_downgrade_and_past_it(story: Story) -> None:
    # tables and columns with rows in them; what is expected can't be built: no revision makes MLflow's first tables
    found = await story.goes_back("75868b020152")
    assert found["expected"] == "unverifiable"
    assert "can't be built from nothing" in found["findings"][0]
    assert found["one_transaction"] is True
    # a downgrade that computes old columns anew out of the new ones
    await story.goes_back("b7e2c1a4d9f3")
    await story.goes_back("17e22815139b")
    # `pass`: alembic would say that it worked
    await story.refuses("1971f2d9a75b", "empty_downgrade", "17e22815139b")
    await story.refuses("c1d2e3f4a5b6", "empty_downgrade", "17e22815139b")
    await story.past("1971f2d9a75b")
    # a jump over several: an index, a foreign key that is made anew, a column
    await story.goes_back("c1d2e3f4a5b6")
    # ten tables at once
    await story.goes_back("89d3d66ed43f")


async def test_a_downgrade_that_its_author_lets_fail_for_the_data_at_hand_fails_on_the_copy_first(story: Story) -> None:
    await story.past("1b5f0d9ad7c1")
    await story.fails("c8d9e0f1a2b3", "Downgrade aborted: merging workspaces would create duplicate")
