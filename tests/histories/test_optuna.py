"""Optuna: downgrades that move data through the ORM, one that was never written, and two that can't work. Psycopg 3."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import psycopg
import pytest

from bot.place import Connect
from tests.histories.conftest import MakeStory
from tests.histories.installed import Installed, installed
from tests.histories.walk import Story

_INI = """\
[alembic]
script_location = {scripts}
sqlalchemy.url = postgresql+psycopg://nobody@localhost/nowhere
[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys =
[logger_root]
level = WARN
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stderr,)
"""
#: studies and trials as Optuna's users make them; one of the values is infinite
_STUDY = """
import sys, optuna
optuna.logging.set_verbosity(optuna.logging.ERROR)
study = optuna.create_study(storage=sys.argv[1], study_name="Zażółć", directions=["minimize", "maximize"])
study.set_user_attr("who", {"name": "it's"})
def objective(trial):
    x = trial.suggest_float("x", -10, 10)
    trial.suggest_int("n", 1, 100, log=True)
    trial.suggest_float("y", 0.1, 1.0, step=0.1)
    trial.suggest_categorical("c", ["a", None, 2])
    trial.set_user_attr("seen", [1, 2.5])
    return x, (float("inf") if trial.number == 3 else x * 2)
study.optimize(objective, n_trials=12)
single = optuna.create_study(storage=sys.argv[1], study_name="single")
def reporting(trial):
    for step in range(3):
        trial.report(trial.suggest_float(f"s{step}", 0, 1) / 3, step)
    return 1 / 3
single.optimize(reporting, n_trials=5)
"""


@pytest.fixture(scope="module")
def optuna() -> Installed:
    return installed("optuna")


MakeStudy = Callable[..., Awaitable[Story]]


@pytest.fixture
def make_study(optuna: Installed, make_story: MakeStory, tmp_path: Path) -> MakeStudy:
    """`upgraded`: as a database that is older than the newest revision, and was brought to it by `optuna storage upgrade`."""
    scripts = optuna.folder("optuna/storages/_rdb/alembic")
    (tmp_path / "alembic.ini").write_text(_INI.format(scripts=scripts))

    def by_hand(connect: Connect, direction: str, rev: str) -> tuple[int, str]:
        own = tmp_path / f"{connect.database}.ini"
        own.write_text(_INI.format(scripts=scripts).replace("postgresql+psycopg://nobody@localhost/nowhere", connect.url("postgresql+psycopg")))
        return optuna.run("alembic", "-c", own, direction, rev, environ={}, directory=tmp_path)

    async def make(*, upgraded: bool) -> Story:
        def made(connect: Connect) -> None:
            url = connect.url("postgresql+psycopg")
            code, output = optuna.run("python", "-c", _STUDY, url, environ={}, directory=tmp_path)
            assert code == 0, output
            if upgraded:
                with psycopg.connect(connect.url()) as session:
                    session.execute("DROP INDEX ix_trials_study_id")
                    session.execute("UPDATE alembic_version SET version_num = 'v3.0.0.d'")
                code, output = optuna.run("optuna", "storage", "upgrade", "--storage", url, environ={}, directory=tmp_path)
                assert code == 0, output

        return await make_story(tool={"directory": str(tmp_path), "python": str(optuna.python)}, made=made, by_hand=by_hand)

    return make


async def test_values_that_a_downgrade_rewrites_are_counted_and_one_that_can_not_work_is_found_on_the_copy(make_study: MakeStudy) -> None:
    story = await make_study(upgraded=True)
    found = await story.goes_back("v3.0.0.d")
    assert found["expected"] == "same", found["findings"]
    found = await story.goes_back("v3.0.0.c")
    # infinity, which was null with a mark beside it, becomes the largest number that there is
    assert ("values", "public.trial_values.value", 1) in [(loss["kind"], loss["name"], loss["count"]) for loss in found["loss"]]
    # its author wrote a name that does not exist
    await story.fails("v3.0.0.b", "FloatTypeEnum")
    await story.refuses("v1.3.0.a", "empty_downgrade", "v2.4.0.a")


async def test_a_database_that_was_made_by_the_models_lacks_what_the_downgrade_drops(make_study: MakeStudy) -> None:
    story = await make_study(upgraded=False)
    await story.fails("v3.0.0.d", "trials_study_id_key")


async def test_the_packages_own_alembic_ini_names_sqlite_and_is_refused_by_that_name(make_study: MakeStudy, optuna: Installed) -> None:
    story = await make_study(upgraded=False)
    story.bot.config["targets"]["shop"]["tool"]["directory"] = str(optuna.folder("optuna/storages/_rdb"))
    story.bot.write()
    refusal = await story.refused("v3.0.0.d")
    assert refusal.code == "wrong_database"
    assert "sqlite" in refusal.message
