"""The words behind the command, to the letter of the contract."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.errors import UsageError
from bot.model import Severity
from handlers.grammar import VERBS, Command, asked, parse, revision

TARGETS = ("shop", "ledger")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", Command("rollback")),
        ("0004", Command("rollback", rev="0004")),
        ("shop 0004", Command("rollback", target="shop", rev="0004")),
        ("shop", Command("rollback", rev="shop")),
        ("shop plan", Command("rollback", target="shop", rev="plan")),
        ("0004 because orders fail", Command("rollback", rev="0004", reason="orders fail")),
        ("0004 sev high because orders fail", Command("rollback", rev="0004", reason="orders fail", severity=Severity.HIGH)),
        ("0004 BECAUSE orders fail SEV High", Command("rollback", rev="0004", reason="orders fail", severity=Severity.HIGH)),
        ("0004 because the sev high alarm rang", Command("rollback", rev="0004", reason="the sev high alarm rang")),
        ("0004 because x sev urgent", Command("rollback", rev="0004", reason="x sev urgent")),
        ('0004 because "a  bad day" sev low', Command("rollback", rev="0004", reason="a bad day", severity=Severity.LOW)),
        ("0004 because “it's bad”", Command("rollback", rev="0004", reason="it's bad")),
        ("0004 because", Command("rollback", rev="0004")),
        ('0004 because ""', Command("rollback", rev="0004")),
        ("0004 because sev low", Command("rollback", rev="0004", severity=Severity.LOW)),
        ("shop sev critical", Command("rollback", target="shop", severity=Severity.CRITICAL)),
        ("-1", Command("rollback", rev="-1")),
        ("–2", Command("rollback", rev="-2")),
        ("—3 sev low", Command("rollback", rev="-3", severity=Severity.LOW)),
        ("base", Command("rollback", rev="base")),
        ("a", Command("rollback", rev="a")),
        ("PLAN shop -1", Command("plan", target="shop", rev="-1")),
        ("plan shop", Command("plan", rev="shop")),
        ("reapply 0005 sev high because the fix is out", Command("reapply", rev="0005", reason="the fix is out", severity=Severity.HIGH)),
        ("Reapply shop 0005 because x sev low", Command("reapply", target="shop", rev="0005", reason="x", severity=Severity.LOW)),
        ("reapply", Command("reapply")),
        ("reapply head", Command("reapply", rev="head")),
        ("reapply sev high", Command("reapply", severity=Severity.HIGH)),
        ("shop reapply sev low because x", Command("rollback", target="shop", rev="reapply", reason="x", severity=Severity.LOW)),
        ("status", Command("status")),
        ("status r7k2", Command("status", run="r7k2")),
        ("Abort", Command("abort")),
        ("history ledger", Command("history", target="ledger")),
        ("check", Command("check")),
        ("note all is well", Command("note", text="all is well")),
        ("help", Command("help")),
        ("restore shop x.dump because y", Command("restore", target="shop", rev="x.dump", reason="y")),
        ("restore x.dump in place", Command("restore", rev="x.dump in place")),
        ("restore shop x.dump IN Place because y", Command("restore", target="shop", rev="x.dump in place", reason="y")),
        ("restore x.dump because in place", Command("restore", rev="x.dump", reason="in place")),
        ("restore -1", Command("restore", rev="-1")),
        ("tables shop orders, items from x.dump sev low", Command("tables", target="shop", rev="orders, items from x.dump", severity=Severity.LOW)),
        ("pitr 2026-01-17 10:00:00 UTC because y", Command("pitr", rev="2026-01-17 10:00:00 UTC", reason="y")),
        ("pitr", Command("pitr")),
        ("stamp shop 0004", Command("stamp", target="shop", rev="0004")),
    ],
)  # fmt: skip
def test_words_mean_what_the_contract_says(text: str, meant: Command) -> None:
    assert parse(text, TARGETS) == meant


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0004 orders fail", "because"),
        ("restore x.dump in", "one word too many"),
        ("restore x.dump place in", "one word too many"),
        ("restore x.dump in place now", "one word too many"),
        ("0004 in place", "one word too many"),
        ("0004 sev", "critical, high, medium, low"),
        ("0004 sev urgent", "critical, high, medium, low"),
        ("0004 sev low because x sev high", "Two severities"),
        ("-0", "-1 undoes"),
        ("plan", "/rollback plan"),
        ("plan 0004 sev high", "/rollback plan"),
        ("reapply 0005 orders work", "/rollback reapply 0005 sev high because"),
        ("reapply shop 0005 now", "/rollback reapply shop 0005 sev high because"),
        ("status one two", "/rollback status [RUN]"),
        ("history nowhere", "shop"),
        ("note", "/rollback note"),
    ],
)
def test_what_cannot_be_read_is_answered_with_what_could_be_written(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says.replace("[", r"\[").replace("]", r"\]")):
        parse(text, TARGETS)


def test_the_commands_own_name_stands_in_the_example() -> None:
    with pytest.raises(UsageError, match="/undo plan"):
        parse("plan", TARGETS, command="/undo")


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("restore x.dump", ("restore", "x.dump")),
        ("restore x.dump in place", ("in_place", "x.dump")),
        ("restore in", ("restore", "in")),
        ("0004", ("downgrade", "0004")),
        ("tables t from x.dump", ("tables", "t from x.dump")),
    ],
)
def test_a_database_is_dropped_for_a_backup_only_where_the_words_say_so(text: str, means: tuple[str, str]) -> None:
    assert asked(parse(text, TARGETS)) == means


WORDS = st.sampled_from(["shop", "0004", "-1", "—2", "sev", "SEV", "high", "because", '"', "x", "base", *VERBS])


@given(st.one_of(st.text(), st.lists(WORDS, max_size=8).map(" ".join)))
def test_no_text_crashes_it(text: str) -> None:
    with suppress(UsageError):
        parse(text, TARGETS)


@given(st.sampled_from("-–—"), st.integers(min_value=1, max_value=10**6))
def test_every_dash_counts_as_a_minus(dash: str, steps: int) -> None:
    assert revision(f"{dash}{steps}") == f"-{steps}"
