"""Who may approve, cancel and decide: deny by default, monotone, one person on one seat."""

from __future__ import annotations

import datetime as dt
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.errors import Denied, Refusal
from bot.evidence import LossClass
from bot.model import Seat, Severity
from bot.policy import Rule, may_decide, need, open_seat

ROLES = ("dba", "team-lead", "cto", "senior-backend")
HOUR = dt.timedelta(hours=1)
roles = st.sampled_from(ROLES)
held = st.frozensets(roles)
counts = st.dictionaries(roles, st.integers(1, 3), min_size=1)
people = st.sampled_from(["U1", "U2", "U3", "U4"])
seats = st.lists(st.tuples(roles, st.none() | people)).map(lambda given: tuple(Seat(role=role, by=by) for role, by in given))


def rule(**approve: int) -> Rule:
    return Rule(approve={role.replace("_", "-"): count for role, count in approve.items()}, within=HOUR)


def asked(*wanted: str) -> tuple[Seat, ...]:
    return tuple(Seat(role=role) for role in wanted)


# ------------------------------------------------------------------ need


def test_without_loss_the_severity_alone_decides() -> None:
    asks = need(Severity.HIGH, LossClass.NONE, {Severity.HIGH: rule(dba=2, team_lead=1)}, {LossClass.HIGH: {"cto": 1}})

    assert asks.roles == ("dba", "dba", "team-lead")
    assert asks.within == HOUR
    assert not asks.self_approval


def test_the_larger_number_counts_and_roles_only_in_the_loss_come_last() -> None:
    asks = need(Severity.LOW, LossClass.HIGH, {Severity.LOW: rule(team_lead=1, dba=2)}, {LossClass.HIGH: {"cto": 1, "dba": 1, "team-lead": 2}})

    assert asks.roles == ("team-lead", "team-lead", "dba", "dba", "cto")


@pytest.mark.parametrize("rules", [{}, {Severity.LOW: rule(dba=1)}, {Severity.HIGH: rule()}, {Severity.HIGH: rule(dba=0)}])
@pytest.mark.parametrize("loss_class", LossClass)
def test_a_severity_that_names_nobody_is_refused_whatever_the_loss(rules: dict[Severity, Rule], loss_class: LossClass) -> None:
    with pytest.raises(Refusal) as caught:
        need(Severity.HIGH, loss_class, rules, {LossClass.HIGH: {"dba": 1}})

    assert caught.value.code == "no_policy_for_severity"
    assert "policy.high" in caught.value.next


@given(counts, counts)
def test_loss_never_takes_a_seat_away_and_nothing_adds_one_that_nobody_asked_for(by_severity: dict[str, int], by_loss: dict[str, int]) -> None:
    rules = {Severity.HIGH: Rule(approve=by_severity, within=HOUR)}

    with_loss = Counter(need(Severity.HIGH, LossClass.HIGH, rules, {LossClass.HIGH: by_loss}).roles)

    assert with_loss == Counter(by_severity) | Counter(by_loss)
    assert with_loss >= Counter(need(Severity.HIGH, LossClass.NONE, rules, {LossClass.HIGH: by_loss}).roles)


# ------------------------------------------------------------------ open_seat


def test_a_press_fills_the_first_open_seat_whose_role_the_person_holds() -> None:
    waiting = (Seat(role="dba", by="U9"), Seat(role="team-lead"), Seat(role="dba"))

    assert open_seat(waiting, "U1", {"dba", "team-lead"}, requester="U0", self_approval=False) == "team-lead"
    assert open_seat(waiting, "U1", {"dba"}, requester="U0", self_approval=False) == "dba"


def test_a_rung_that_was_asked_fills_a_seat_that_is_not_its_own() -> None:
    waiting = asked("dba", "team-lead")

    assert open_seat(waiting, "U1", {"cto"}, requester="U0", self_approval=False, escalated={"cto"}) == "dba"
    with pytest.raises(Denied):
        open_seat(waiting, "U1", {"cto"}, requester="U0", self_approval=False, escalated={"senior-backend"})


def test_whoever_holds_a_seats_role_takes_that_seat_before_the_ladders() -> None:
    assert open_seat(asked("dba", "cto"), "U1", {"cto"}, requester="U0", self_approval=False, escalated={"cto"}) == "cto"


def test_the_requester_sits_only_where_the_policy_lets_them() -> None:
    assert open_seat(asked("dba"), "U1", {"dba"}, requester="U1", self_approval=True) == "dba"
    with pytest.raises(Denied, match="somebody else has to approve"):
        open_seat(asked("dba"), "U1", {"dba"}, requester="U1", self_approval=False)


def test_a_denial_says_whose_approval_is_waited_for() -> None:
    with pytest.raises(Denied, match="for dba or team-lead"):
        open_seat(asked("dba", "dba", "team-lead"), "U1", {"cto"}, requester="U0", self_approval=False)


@given(seats, people, held)
def test_whoever_holds_nothing_is_denied(given_seats: tuple[Seat, ...], person: str, escalated: frozenset[str]) -> None:
    with pytest.raises(Denied):
        open_seat(given_seats, person, frozenset(), requester="U0", self_approval=True, escalated=escalated)


@given(seats, people, held, held)
def test_only_an_open_seat_is_filled_and_only_by_a_role_that_counts(
    given_seats: tuple[Seat, ...], person: str, roles_held: frozenset[str], escalated: frozenset[str]
) -> None:
    try:
        role = open_seat(given_seats, person, roles_held, requester="U0", self_approval=False, escalated=escalated)
    except Denied:
        return
    assert role in {seat.role for seat in given_seats if seat.by is None}
    assert role in roles_held or roles_held & escalated
    assert person not in {seat.by for seat in given_seats}


@given(seats, people, held, held, held, held)
def test_holding_more_or_asking_more_rungs_never_takes_a_right_away(
    given_seats: tuple[Seat, ...],
    person: str,
    roles_held: frozenset[str],
    more: frozenset[str],
    escalated: frozenset[str],
    later: frozenset[str],
) -> None:
    try:
        open_seat(given_seats, person, roles_held, requester="U0", self_approval=False, escalated=escalated)
    except Denied:
        return
    open_seat(given_seats, person, roles_held | more, requester="U0", self_approval=False, escalated=escalated | later)


@given(st.lists(roles, min_size=1), st.lists(st.tuples(people, held)), held)
def test_however_often_they_press_nobody_sits_twice(wanted: list[str], presses: list[tuple[str, frozenset[str]]], escalated: frozenset[str]) -> None:
    table = list(asked(*wanted))
    for person, roles_held in presses:
        try:
            role = open_seat(table, person, roles_held, requester="U4", self_approval=False, escalated=escalated)
        except Denied:
            continue
        at = next(number for number, seat in enumerate(table) if seat.role == role and seat.by is None)
        table[at] = Seat(role=role, by=person)

    sitting = [seat.by for seat in table if seat.by]
    assert len(sitting) == len(set(sitting))
    assert "U4" not in sitting


# ------------------------------------------------------------------ cancel and decide


@given(held, held)
def test_only_holders_of_the_runs_roles_may_decide(roles_held: frozenset[str], of_the_run: frozenset[str]) -> None:
    assert may_decide(roles_held, of_the_run) == (not roles_held.isdisjoint(of_the_run))
    assert not may_decide(frozenset(), of_the_run)
