"""Prisma's directories and rows as one line, and what of them Prisma itself would not say."""

from __future__ import annotations

import pytest

from bot.errors import Refusal
from bot.tools.prisma_line import Line, drawn
from bot.tools.prisma_rows import Row, checksum, reverse_name, reversed_by
from bot.tools.sql import SqlSettings

FOLDER = "prisma/migrations"
A, B, C = "20240101000000_a", "20240102000000_b", "20240103000000_c"
UP, DOWN = "CREATE TABLE t (id int);\n", "DROP TABLE t;\n"


def files(*names: str, up: str = UP, down: str | None = DOWN) -> dict[str, str]:
    found = {f"{FOLDER}/migration_lock.toml": 'provider = "postgresql"\n'}
    for name in names:
        found[f"{FOLDER}/{name}/migration.sql"] = up
        if down is not None:
            found[f"{FOLDER}/{name}/down.sql"] = down
    return found


def row(name: str, *, finished: bool = True, rolled_back: bool = False, logs: str = "", up: str = UP) -> Row:
    return Row(name, checksum(up), finished, rolled_back, logs)


def line(lying: dict[str, str], *rows: Row) -> Line:
    return drawn(lying, FOLDER, rows)


def ids(found: Line) -> list[str]:
    return [one.revision for one in found.migrations]


def kinds(found: Line) -> list[tuple[str, str]]:
    return [(told.downgrade, told.why) for told in (one.told(None) for one in found.migrations)]


def test_applied_ones_come_first_and_what_is_to_come_after_them() -> None:
    found = line(files(A, B, C), row(A), row(C))
    assert ids(found) == [A, C, B]
    assert any(B in one and "never applied, though the later" in one for one in found.remarks)


def test_a_folder_without_migrations_is_refused() -> None:
    with pytest.raises(Refusal, match=r"no migration\.sql in prisma/migrations"):
        line(files())


def test_a_migration_without_a_way_down_says_where_it_was_looked_for() -> None:
    [(kind, why)] = kinds(line(files(A, down=None), row(A)))
    assert (kind, why) == ("missing", f"there is no down.sql beside {FOLDER}/{A}/migration.sql")


def test_an_empty_migration_needs_no_way_down_and_an_empty_way_down_is_none() -> None:
    assert kinds(line(files(A, up="-- This is an empty migration.\n", down=None), row(A, up="-- This is an empty migration.\n"))) == [("real", "")]
    assert kinds(line(files(A, down="-- later\n"), row(A))) == [("empty", "")]


def test_a_way_down_that_can_not_be_cut_says_why() -> None:
    [(kind, why)] = kinds(line(files(A, down="\\connect other\n"), row(A)))
    assert kind == "missing"
    assert "down.sql: line 1 holds a command of psql's own" in why


def test_an_edited_migration_is_said() -> None:
    assert any("was edited after it was applied" in one for one in line(files(A, up=UP + "-- more"), row(A)).remarks)
    assert line(files(A), row(A)).remarks == ()


def test_a_directory_that_is_gone_is_said_and_only_a_way_across_it_is_refused() -> None:
    found = line(files(A, C), row(A), row(B), row(C))
    assert ids(found) == [A, B, C]
    assert kinds(found)[1] == ("missing", f"its directory {FOLDER}/{B} is gone from the code")
    assert any(B in one and "gone from the code" in one for one in found.remarks)
    assert ids(line(files(A, B), row(A), row(B), row(C))) == [A, B], "the newest is unknown to the scripts"


def test_a_failed_migration_stands_on_top_and_only_its_row_is_marked() -> None:
    found = line(files(A, B, C), row(A), row(B, finished=False, logs="ERROR:\n division by zero"), row(B, finished=False))
    assert ids(found) == [A, B, C]
    failed = found.migrations[1]
    assert (failed.nothing_there, failed.down is not None and failed.down.text) == (True, "")
    assert any("failed half-way: ERROR: division by zero" in one for one in found.remarks)


@pytest.mark.parametrize("up", ["CREATE INDEX CONCURRENTLY i ON t (a);", "SELECT 1; COMMIT; SELECT 2;"])
def test_a_failed_migration_that_commits_in_its_middle_is_a_persons_work(up: str) -> None:
    [(kind, why)] = kinds(line(files(A, up=up), row(A, finished=False)))
    assert kind == "missing"
    assert f"prisma migrate resolve --rolled-back {A}" in why


def test_what_was_taken_back_is_to_come_again_and_that_is_said() -> None:
    found = line(files(A, B), row(A), row(B, rolled_back=True))
    assert ids(found) == [A, B]
    assert any("taken back and its directory is still there" in one for one in found.remarks)
    assert line(files(A), row(A), row(B, rolled_back=True)).remarks == ()


def test_a_reversed_migration_and_its_reverse_are_not_applied() -> None:
    reverse = reverse_name(B, [A, B], 1)
    assert reverse == "20240102000001_reverse_of_" + B
    assert reversed_by(reverse) == B
    found = line({**files(A, B), f"{FOLDER}/{reverse}/migration.sql": UP}, row(A), row(B), row(reverse))
    assert ids(found) == [A, B]
    assert found.migrations[1].revision == B


def test_a_reverse_sorts_after_whatever_is_known_and_fits_the_table() -> None:
    assert reverse_name("0_init", ["0_init"], 2) == "20000101000002_reverse_of_0_init"
    assert reverse_name("x" * 240, [A], 1) is None


@pytest.mark.parametrize("patterns", [("{name}.sql",), ("{version}_{version}.sql",), ("{version}_{name}_{name}.sql",)])
def test_a_pattern_of_plain_sql_without_its_parts_is_refused(patterns: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="needs"):
        SqlSettings.model_validate({"directory": "x", "up": patterns})
