"""What is asked, against a history: where it leads, or the refusal that says why not."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.errors import Refusal
from bot.model import History, Revision
from bot.rollback.route import BASE, forward, route, shown

Edges = dict[str, tuple[str, ...]]

LINE: Edges = {"a1": (), "a2": ("a1",), "a3": ("a2",), "a4": ("a3",), "a5": ("a4",)}
#: a2 parts into a3 and b3, which m4 merges
DIAMOND: Edges = {"a1": (), "a2": ("a1",), "a3": ("a2",), "b3": ("a2",), "m4": ("a3", "b3"), "a5": ("m4",)}
TWO_BASES: Edges = {"a1": (), "b1": (), "m2": ("a1", "b1"), "a3": ("m2",)}


def history(edges: Edges, *current: str, depends: Edges | None = None, **kinds: str) -> History:
    """`kinds`: what downgrade() of a revision is; real where nothing is said."""
    revisions = [
        Revision(revision=one, down=down, depends_on=(depends or {}).get(one, ()), downgrade=kinds.get(one, "real"))
        for one, down in reversed(edges.items())
    ]
    return History(revisions=tuple(revisions), heads=(), bases=(), current=current)


def undone(rev: str, edges: Edges, current: str) -> list[str]:
    return [one.revision for one in route(rev, history(edges, current))[2]]


def refused(rev: str, found: History) -> Refusal:
    with pytest.raises(Refusal) as caught:
        route(rev, found)
    assert caught.value.message
    assert caught.value.next
    return caught.value


@pytest.mark.parametrize(
    ("rev", "to", "names"),
    [
        ("a4", "a4", ["a5"]),
        ("a2", "a2", ["a5", "a4", "a3"]),
        ("-1", "a4", ["a5"]),
        ("–2", "a3", ["a5", "a4"]),
        ("—4", "a1", ["a5", "a4", "a3", "a2"]),
        ("-5", BASE, ["a5", "a4", "a3", "a2", "a1"]),
        ("base", BASE, ["a5", "a4", "a3", "a2", "a1"]),
        ("BASE", BASE, ["a5", "a4", "a3", "a2", "a1"]),
    ],
)
def test_what_is_named_stays_and_everything_above_it_is_undone_newest_first(rev: str, to: str, names: list[str]) -> None:
    from_, found, revisions = route(rev, history(LINE, "a5"))
    assert (from_, found, [one.revision for one in revisions]) == ("a5", to, names)


def test_a_prefix_is_enough_when_it_is_unique_and_an_exact_id_wins() -> None:
    edges: Edges = {"abc": (), "abcd": ("abc",), "f00": ("abcd",)}
    assert route("abc", history(edges, "f00"))[1] == "abc"
    assert route("abcd", history(edges, "f00"))[1] == "abcd"
    assert refused("ab", history(edges, "f00")).code == "ambiguous_revision"
    assert undone("a", {"abc": (), "f00": ("abc",)}, "f00") == ["f00"]


def test_a_revision_that_is_called_base_is_refused_since_it_would_mean_everything() -> None:
    edges: Edges = {"a1": (), "base": ("a1",), "a3": ("base",)}
    for rev in ("base", "-1", "a1"):
        assert refused(rev, history(edges, "a3")).code == "broken_history"
    assert undone("Base", {"a1": (), "Base": ("a1",), "a3": ("Base",)}, "a3") == ["a3"]


def test_revisions_above_the_current_one_are_left_alone() -> None:
    assert undone("a2", LINE, "a3") == ["a3"]
    assert refused("a4", history(LINE, "a3")).code == "not_an_ancestor"


@pytest.mark.parametrize("rev", ["-0", "-6", "-9999", "-99999", "", " ", "head", "heads", "+1", "a6", "a5:a1", "%", "-", "--1", "\u202ea4"])
def test_a_word_that_names_nothing_is_unknown(rev: str) -> None:
    assert refused(rev, history(LINE, "a5")).code == "unknown_revision"


def test_counting_too_far_says_how_many_there_are() -> None:
    assert "5 migrations are applied" in refused("-6", history(LINE, "a5")).message


# ------------------------------------------------------------------ the refusals of a history


def test_where_the_database_stands_must_be_one_known_revision() -> None:
    assert refused("a1", history(LINE)).code == "version_table_empty"
    assert refused("a1", history(LINE, "a3", "a5")).code == "several_heads"
    assert refused("a1", history(LINE, "zz")).code == "revision_unknown_to_scripts"


@pytest.mark.parametrize(
    ("edges", "current", "following"),
    [
        (LINE, "a5", "a5 stays; to undo it: /rollback a4"),
        (LINE, "a1", "a1 stays; to undo it: /rollback base"),
        (DIAMOND, "m4", "m4 stays; to undo it: /rollback a2"),
        (TWO_BASES, "m2", "m2 stays; to undo it, a merge, go back by a restore."),
    ],
)
def test_asking_for_what_is_current_names_the_way_to_undo_it(edges: Edges, current: str, following: str) -> None:
    said = refused(current, history(edges, current))
    assert (said.code, said.next) == ("nothing_to_roll_back", following)


@pytest.mark.parametrize("rev", ["-2", "a3", "b3"])
def test_a_merge_on_the_way_is_refused_with_a_way_that_works(rev: str) -> None:
    said = refused(rev, history(DIAMOND, "a5"))
    assert said.code == "merge_point"
    assert said.next.endswith("/rollback a2")
    assert undone("a2", DIAMOND, "a5") == ["a5", "m4", "a3", "b3"]


def test_above_and_below_a_merge_is_no_matter() -> None:
    assert undone("m4", DIAMOND, "a5") == ["a5"]
    assert undone("-1", DIAMOND, "a5") == ["a5"]
    assert undone("a1", DIAMOND, "a5") == ["a5", "m4", "a3", "b3", "a2"]
    assert undone("base", DIAMOND, "a5") == ["a5", "m4", "a3", "b3", "a2", "a1"]


def test_two_beginnings_have_no_base_and_no_point_where_they_part() -> None:
    assert refused("base", history(TWO_BASES, "a3")).code == "several_bases"
    said = refused("a1", history(TWO_BASES, "a3"))
    assert (said.code, "by a restore" in said.next) == ("merge_point", True)


def test_what_depends_on_another_branch_is_refused() -> None:
    edges: Edges = {"a1": (), "a2": ("a1",), "b1": ()}
    said = refused("a1", history(edges, "a2", depends={"a2": ("b1",)}))
    assert said.code == "depends_on"
    assert "b1" in said.message


def test_a_circle_is_refused_and_not_followed_for_ever() -> None:
    edges: Edges = {"a1": ("a3",), "a2": ("a1",), "a3": ("a2",)}
    assert refused("a1", history(edges, "a3")).code == "broken_history"


@pytest.mark.parametrize(("kind", "code"), [("empty", "empty_downgrade"), ("missing", "empty_downgrade"), ("raises", "raising_downgrade")])
def test_a_downgrade_that_undoes_nothing_stops_only_ways_that_lead_over_it(kind: str, code: str) -> None:
    found = history(LINE, "a5", a3=kind)
    assert (refused("a2", found).code, refused("base", found).code) == (code, code)
    assert "a3" in refused("a2", found).message
    assert [one.revision for one in route("a3", found)[2]] == ["a5", "a4"]


def test_the_command_is_called_what_it_is_called_here() -> None:
    with pytest.raises(Refusal) as caught:
        route("a5", history(LINE, "a5"), command="/undo")
    assert caught.value.next == "a5 stays; to undo it: /undo a4"


def test_a_thousand_migrations_are_undone_in_order() -> None:
    names = [f"{number:05}" for number in range(1000)]
    edges: Edges = {name: (names[number - 1],) if number else () for number, name in enumerate(names)}
    assert undone("base", edges, names[-1]) == names[::-1]


# ------------------------------------------------------------------ hostile words, any history


@given(st.text(max_size=5000))
def test_what_was_typed_is_shown_as_one_short_line(text: str) -> None:
    said = shown(text)
    assert len(said) <= 41
    assert said.isprintable()


def outcome(rev: str, found: History) -> str | Refusal:
    """Where it leads, or the refusal."""
    try:
        return route(rev, found)[1]
    except Refusal as refusal:
        return refusal


@given(st.text(max_size=50))
def test_whatever_is_typed_ends_in_a_way_or_a_refusal_whose_sentences_are_one_line(text: str) -> None:
    found = outcome(text, history(LINE, "a5"))
    if isinstance(found, Refusal):
        assert found.message.isprintable()
        assert found.next.isprintable()
        assert len(found.message) < 300
    else:
        assert found in {*LINE, BASE}


@st.composite
def histories(draw: st.DrawFn) -> tuple[Edges, str]:
    """Any graph without circles, of up to 12 revisions, and where the database stands."""
    count = draw(st.integers(1, 12))
    names = [f"{number:x}{draw(st.sampled_from('ab'))}" for number in range(count)]
    edges: Edges = {}
    for number, name in enumerate(names):
        below = draw(st.lists(st.sampled_from(names[:number]), max_size=2, unique=True)) if number else []
        edges[name] = tuple(below)
    return edges, draw(st.sampled_from(names))


def ancestors(of: str, edges: Edges) -> set[str]:
    return {of}.union(*(ancestors(below, edges) for below in edges[of]))


def tops(of: Iterable[str], edges: Edges) -> set[str]:
    kept = set(of)
    return {one for one in kept if not any(one in edges[other] for other in kept)}


@given(histories(), st.data())
def test_a_way_leads_to_an_ancestor_undoes_all_above_it_and_leaves_it_alone_on_top(made: tuple[Edges, str], data: st.DataObject) -> None:
    edges, current = made
    rev = data.draw(st.sampled_from([*edges, "base", "-1", "-2", "-3"]))
    try:
        from_, to, revisions = route(rev, history(edges, current))
    except Refusal:
        return
    names = [one.revision for one in revisions]
    applied = ancestors(current, edges)
    assert from_ == current
    assert names
    assert len(set(names)) == len(names)
    if to == BASE:
        assert set(names) == applied
    else:
        assert to in applied - {current}
        assert set(names) == {one for one in applied if to in ancestors(one, edges)} - {to}
        assert tops(applied - set(names), edges) == {to}
    for place, name in enumerate(names):
        assert not ancestors(name, edges) & set(names[:place]), "nothing is undone before what stands on it"


@given(histories(), st.data())
def test_the_way_that_a_refusal_names_is_not_refused_for_the_same_reason(made: tuple[Edges, str], data: st.DataObject) -> None:
    edges, current = made
    rev = data.draw(st.sampled_from([*ancestors(current, edges), "-1", "-2", "-3"]))
    refusal = outcome(rev, history(edges, current))
    if isinstance(refusal, Refusal) and refusal.code in ("merge_point", "nothing_to_roll_back") and "/rollback " in refusal.next:
        named = refusal.next.rpartition("/rollback ")[2]
        assert outcome(named, history(edges, current)) == named


def applied(rev: str, edges: Edges, *current: str, heads: tuple[str, ...] = ()) -> list[str]:
    found = history(edges, *current).model_copy(update={"heads": heads})
    return [one.revision for one in forward(rev, found)[2]]


@pytest.mark.parametrize(
    ("rev", "edges", "current", "names"),
    [
        ("a5", LINE, "a3", ["a4", "a5"]),
        ("a4", LINE, "a3", ["a4"]),
        ("head", LINE, "a3", ["a4", "a5"]),
        ("m4", DIAMOND, "a2", ["a3", "b3", "m4"]),
    ],
)
def test_the_way_forward_is_applied_oldest_first(rev: str, edges: Edges, current: str, names: list[str]) -> None:
    found = applied(rev, edges, current, heads=("a5",))
    assert sorted(found) == names
    assert all(found.index(below) < found.index(one) for one in found for below in edges[one] if below in found)


def test_the_way_forward_may_begin_at_nothing() -> None:
    assert applied("a2", LINE) == ["a1", "a2"]


@pytest.mark.parametrize(
    ("rev", "edges", "current", "code"),
    [
        ("a3", LINE, "a3", "not_ahead"),
        ("a2", LINE, "a3", "not_ahead"),
        ("b3", DIAMOND, "a3", "not_ahead"),
        ("zz", LINE, "a3", "unknown_revision"),
        ("head", DIAMOND, "a2", "several_heads"),
    ],
)
def test_what_is_not_ahead_is_refused(rev: str, edges: Edges, current: str, code: str) -> None:
    with pytest.raises(Refusal) as caught:
        applied(rev, edges, current)
    assert caught.value.code == code
