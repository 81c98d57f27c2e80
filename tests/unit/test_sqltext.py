"""Scripts are cut as psql cuts them, and what a statement does to a transaction is known from its words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.model import Revision
from bot.rollback import loss
from bot.sqltext import BrokenScript, Statement, control, outside, split, unwrapped

#: each is one statement, whatever it holds
WHOLE = [
    "SELECT 1",
    "CREATE TABLE \"a;b\" (x text DEFAULT ';', y text DEFAULT 'it''s;')",
    r"SELECT E'it\'s; \\', e'\''",
    r"SELECT 'a\', ';'",
    "SELECT U&'d\\0061t;a', U&\"d;ata\", B'1', X'1F', N'n;'",
    "DO $$ BEGIN RAISE NOTICE 'a;'; COMMIT; END $$",
    "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $fn$ BEGIN; RETURN $$1;$$; END; $fn$",
    "SELECT $1$, a$b$c FROM t",
    "CREATE FUNCTION g(a int) RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN a > 1 THEN 1 ELSE 2 END; END",
    "CREATE OR REPLACE PROCEDURE p() BEGIN ATOMIC INSERT INTO t VALUES (1); DELETE FROM t; END",
    "CREATE RULE r AS ON INSERT TO a DO ALSO (INSERT INTO b VALUES (1); INSERT INTO c VALUES (2))",
    "SELECT /* ; /* nested ; */ ; */ 1 -- ; one\n , 2",
    "SELECT 1 AS begin, 'x' AS \"end;\"",
    "COMMENT ON TABLE t IS 'ünï;cödé ☃'",
]


@given(st.lists(st.sampled_from(WHOLE), min_size=1, max_size=6), st.sampled_from([";", ";\n", " ;-- ;\n", ";/* ; */;\n;"]))
def test_whatever_statements_hold_they_are_cut_between_them(statements: list[str], between: str) -> None:
    assert [one.text for one in split(between.join(statements) + "\n")] == statements


@given(st.text(alphabet="a1;'\"$()\n -/*\\eE:.", max_size=60))
def test_statements_come_in_order_and_each_is_where_its_line_says(text: str) -> None:
    try:
        found = split(text)
    except BrokenScript:
        return
    at = 0
    for one in found:
        begins = text.index(one.text, at)
        assert one.line == text[:begins].count("\n") + 1
        at = begins + len(one.text)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("SELECT 1;\nSELECT 'never ends", "line 2 begins a quote"),
        ("SELECT 1;\n\n/* /* */ never", "line 3 begins a quote or comment"),
        ("SELECT $a$ $b$", "line 1 begins a quote"),
        ("\\connect other\nSELECT 1", "line 1 holds a command of psql's own"),
        ("SELECT 1 \\gexec", "a backslash"),
        ("COPY t (a) FROM STDIN", "line 1 copies rows"),
        ("SELECT 1;\nCOPY t (a) FROM stdin;\n1\n\\.\n", "line 2 copies rows"),
    ],
)
def test_what_only_psql_can_carry_out_is_refused_with_its_line(script: str, told: str) -> None:
    with pytest.raises(BrokenScript, match=told):
        split(script)


def test_the_line_of_a_statement_is_where_its_first_word_stands() -> None:
    assert [one.line for one in split("-- one\n/* two\n three */ SELECT\n1;\n\nSELECT 2")] == [3, 6]


@pytest.mark.parametrize(
    ("sql", "alone"),
    [
        ("CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)", True),
        ("DROP INDEX CONCURRENTLY IF EXISTS i", True),
        ("REINDEX (VERBOSE) TABLE CONCURRENTLY t", True),
        ("ALTER TABLE t DETACH PARTITION p CONCURRENTLY", True),
        ("ALTER TYPE mood ADD VALUE IF NOT EXISTS 'x'", True),
        ("VACUUM (ANALYZE) t", True),
        ("CREATE DATABASE d", True),
        ("ALTER SYSTEM SET work_mem = '1MB'", True),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY v", False),
        ("CREATE INDEX i ON t (a) -- not CONCURRENTLY", False),
        ("COMMENT ON TABLE t IS 'VACUUM CONCURRENTLY'", False),
        ("ALTER TYPE mood RENAME VALUE 'a' TO 'b'", False),
        ("ANALYZE t", False),
    ],
)
def test_what_can_not_be_in_a_transaction_is_known(sql: str, alone: bool) -> None:
    assert outside(Statement(sql, 1)) is alone


def test_a_begin_and_commit_round_a_whole_script_are_left_out() -> None:
    assert [one.text for one in unwrapped(split("BEGIN; SELECT 1; SELECT 2; COMMIT;"))] == ["SELECT 1", "SELECT 2"]


@pytest.mark.parametrize("script", ["SELECT 1; COMMIT; SELECT 2", "BEGIN; SELECT 1", "SAVEPOINT a", "BEGIN; SELECT 1; COMMIT; SELECT 2", "ROLLBACK"])
def test_a_script_that_ends_transactions_in_its_middle_is_refused(script: str) -> None:
    with pytest.raises(BrokenScript, match="may not end transactions"):
        unwrapped(split(script))


def test_a_functions_body_is_no_end_of_a_transaction() -> None:
    assert [control(one) for one in split(";".join(WHOLE))] == [None] * len(WHOLE)


# ------------------------------------------------------------------ what a way down in SQL destroys


def found(script: str) -> list[tuple[str, str]]:
    return [(one.kind, one.name) for one in loss.read_loss([Revision(revision="1", source=script, language="sql")])]


def test_losses_are_read_from_statements_and_not_from_comments_or_texts() -> None:
    script = "-- DROP TABLE a;\nDROP TABLE b; ALTER TABLE c DROP COLUMN d, DROP e; COMMENT ON TABLE f IS 'DROP TABLE g'; DELETE FROM h;"
    assert found(script) == [("table", "b"), ("column", "d"), ("column", "e"), ("rows", "h")]


@pytest.mark.parametrize("script", ["DO $$ BEGIN DROP TABLE a; END $$", "CALL tidy()", "DROP TABLE 'never"])
def test_what_can_not_be_read_counts_as_the_highest_class(script: str) -> None:
    assert "unreadable" in {kind for kind, _ in found(script)}


@pytest.mark.parametrize(("script", "one"), [("DROP TABLE a; DROP TABLE b", True), ("DROP INDEX CONCURRENTLY i", False), ("SELECT 'never", False)])
def test_one_transaction_is_promised_only_where_it_is_sure(script: str, one: bool) -> None:
    assert loss.surely_one_transaction([Revision(revision="1", source=script, language="sql")]) is one
