"""The post-mortem: complete, the same bytes every time, and never more than text, whoever wrote what is in it."""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.evidence import Locked, Loss, LossClass, Ran, Rehearsal
from bot.model import Attempt, AttemptState, Event, Option, Plan, PlanStep, Seat, State, Undone, View
from bot.place import Identity
from bot.rollback import proof
from bot.rollback.markup import BLANK, code, plain
from bot.rollback.report import ending, markdown, summary
from bot.rollback.verify import check
from tests.unit import slack_parts
from tests.unit.slack_parts import NOON, attempt

#: pipes, fences, line breaks of every kind, mentions, markup, directions
HOSTILE = (
    "`a` ```b``` | c\n| d |\r\n# e\u2028- [x] f\u202eg\x1b[31m\x00 <!channel> <script>alert(1)</script> [h](http://i) ![j](k) **l** ~~m~~ \\| \\"
)
CELL_EDGE = re.compile(r"(?<!\\)(?:\\\\)*\|")

texts = st.text(min_size=1, max_size=80) | st.sampled_from([HOSTILE, "|", "\\|", "\\", "`", "\n# x", "a\n\n| b |", "{by}", "%s"])


def view(text: str = "plain words", state: State = State.SUCCEEDED, **changes: Any) -> View:
    """A run in which `text` stands everywhere where somebody else's words may."""
    lost = (
        Loss(kind="column", name=text, revision=text, count=7, newest=text, keys=(text,), why=text),
        Loss(kind="unreadable", name=text, revision="0005", certain=False),
    )
    tried = Rehearsal(
        done=True,
        server=text,
        partial=(text,),
        loss=lost,
        expected="differs",
        findings=(text,),
        forward="fails",
        forward_says=text,
        put_back=(text,),
        statements=(Ran(sql=text, ms=1.0, revision=text, lock=text, table=text, held=2.0),),
        locks=(Locked(table=text, mode=text, held=1.0),),
    )
    plan = Plan(
        target="shop", from_="0005", to="0004", rehearsal=tried, remarks=(text,),
        options=(Option(name="restore", loses=text, certain=text, why=text),),
        undone=(Undone(revision=text, message=text, date=text, sha256="a"),),
        steps=(PlanStep(name="back_up"), PlanStep(name="downgrade"), PlanStep(name="verify")),
        loss=lost,
        loss_class=LossClass.HIGH,
        identity=Identity(system="7", timeline=1, oid=1, database=text, version=180000, started=""),
    )  # fmt: skip
    sentence = {
        "by": text, "reason": text, "rev": text, "severity": "high", "text": text, "why": text, "message": text, "step": "downgrade",
        "attempt": 1, "seconds": 1.5, "summary": text, "code": text, "what": [text, text], "roles": [text], "people": [text],
        "role": text, "action": text, "decision": text, "state": "succeeded", "from": text, "to": text, "loss_class": "high",
        "until": NOON.isoformat(),
    }  # fmt: skip
    kinds: tuple[str, ...] = (
        "requested",
        "planned",
        "rehearsed",
        "refused",
        "voided",
        "asked",
        "approved",
        "withdrawn",
        "rejected",
        "cancel_requested",
        "denied",
        "escalated",
    )
    kinds += (
        "decided",
        "decision_needed",
        "step_started",
        "step_done",
        "step_failed",
        "step_unknown",
        "interrupted",
        "note",
        "ended",
        f"some {text}",
    )
    facts = {
        "file": {"path": text, "size": 10, "sha256": "f" * 64}, "statements": [{"ms": 1.0, "sql": text}], "sqlstate": text, "where": text,
        "blockers": [{"pid": 1, "user": text, "query": text}], "output": text,
        "checks": [check(text, ok, text, before=text, after=text) for ok in (True, False, None)],
    }  # fmt: skip
    ended = attempt("downgrade", AttemptState.UNKNOWN, facts).model_copy(update={"summary": text})
    part = slack_parts.archive().parts[0].model_copy(update={"table": text, "columns": (text,)})
    made = slack_parts.archive().model_copy(update={"parts": (part,), "left_out": {text: text}, "upper": text})
    conflict = {"table": text, "key": text, "why": text}
    kept = {
        "restore_point": {"file": made.file.model_dump(mode="json") | {"path": text, "sha256": text}, "until": text},
        "archive": {"archive": made.model_dump(mode="json"), "until": text},
        "stop_writers": {"logs": {text: [text, text]}},
        "reconcile": {"loss": [one.model_dump(mode="json") for one in lost], "more": [text]},
        "put_back": {"put_back": [{"rows": 1, "values": 1, "conflicts": [conflict], "conflicts_total": 9, "notes": [text]}]},
    }  # fmt: skip
    others = tuple(attempt(name, AttemptState.DONE, found) for name, found in kept.items())
    request = slack_parts.run().request.model_copy(update={"reason": text})
    of_run = {
        "plan": plan, "request": request, "attempts": (ended, ended.model_copy(update={"step": "verify"}), *others),
        "refusal": {"code": "moved", "message": text, "next": text}, "ended": NOON + dt.timedelta(minutes=5),
    }  # fmt: skip
    shown = slack_parts.view(state, events=[(kind, sentence) for kind in kinds], questions=(text,), checklist=(text,), ticked=(text,), **of_run)
    shown = shown.model_copy(update={"restore_commands": (text,)})
    return shown.model_copy(update={"run": shown.run.model_copy(update={"seats": (Seat(role="dba", by=text, at=NOON),)}), **changes})


def tables(markdown_text: str) -> list[list[str]]:
    """The lines of each table."""
    found: list[list[str]] = []
    previous = ""
    for line in markdown_text.split("\n"):
        if line.startswith("|"):
            if previous != "|":
                found.append([])
            found[-1].append(line)
        previous = line[:1]
    return found


def shape(text: str) -> list[str]:
    """What kind of line each line is; the same whatever words are in it."""
    return [re.match(r"\s*(?:#+ |- \[.\] |- |\|[-|]+\||\||)", line)[0] for line in text.split("\n")]  # type: ignore[index]


# ------------------------------------------------------------------ hostile words


@given(texts)
def test_whatever_is_written_the_page_has_the_same_lines_and_the_tables_the_same_cells(text: str) -> None:
    page, quiet = markdown(view(text)), markdown(view())
    assert shape(page) == shape(quiet)
    for rows, calm in zip(tables(page), tables(quiet), strict=True):
        assert [len(CELL_EDGE.findall(row)) for row in rows] == [len(CELL_EDGE.findall(row)) for row in calm]
        assert len({len(CELL_EDGE.findall(row)) for row in rows}) == 1, "every line of a table has as many cells as its head"


@given(texts)
def test_the_words_of_others_are_one_line_without_control_or_direction_characters(text: str) -> None:
    for said in (plain(text), code(text), plain(text, 20)):
        assert said.isprintable()
        assert "\n" not in said
    assert code(text).count("`") == 2
    assert len(plain(text, 20).replace("\\", "")) <= 21


def test_mentions_tags_and_links_are_shown_and_do_nothing() -> None:
    page = markdown(view(HOSTILE))
    outside_code = re.sub(r"(?<!\\)`[^`\n]*`", "", page)
    assert "<!channel>" in page.replace("\\", "")
    for live in ("<!channel>", "<script>", "[h](http://i)", "[j](k)", "**l**", "~~m~~"):
        assert not re.search(r"(?<!\\)" + re.escape(live), outside_code), live
    assert "\u202e" not in page
    assert "\x1b" not in page


@pytest.mark.parametrize("text", ["{by}", "{0}", "{seconds.__class__}", "%(x)s", "$HOME"])
def test_words_are_never_taken_for_a_template(text: str) -> None:
    assert f"note by {plain(text)}: {plain(text)}" in markdown(view(text))


def test_a_revision_with_a_line_break_does_not_break_the_first_line() -> None:
    seen = view()
    assert seen.run.plan is not None
    named = seen.run.plan.model_copy(update={"from_": "add_score\n# x", "to": "c\u202ed"})
    first = markdown(seen.model_copy(update={"run": seen.run.model_copy(update={"plan": named})})).split("\n")[0]
    assert first == "# Post-mortem: shop add_score # x -> c d: succeeded"


# ------------------------------------------------------------------ the same bytes


@given(texts)
def test_the_same_run_gives_the_same_bytes(text: str) -> None:
    assert markdown(view(text)).encode() == markdown(view(text)).encode()


def test_what_came_after_the_report_does_not_change_it() -> None:
    seen = view()
    reported = Event(seq=100, at=NOON, kind="reported", data={})
    later = Event(seq=101, at=NOON, kind="note", data={"by": "U0DEV", "text": "thanks all"})
    first = markdown(seen.model_copy(update={"events": (*seen.events, reported)}))
    again = seen.model_copy(update={"events": (*seen.events, reported, later), "now": NOON + dt.timedelta(days=9), "until": NOON})
    assert markdown(again) == first
    assert "thanks all" not in first


def test_times_are_utc_wherever_they_were_made() -> None:
    east = dt.timezone(dt.timedelta(hours=5, minutes=30))
    seen = view()
    moved = seen.model_copy(update={"events": tuple(event.model_copy(update={"at": event.at.astimezone(east)}) for event in seen.events)})
    assert markdown(moved) == markdown(seen)
    assert "| 03:00:00 |" in markdown(seen)


# ------------------------------------------------------------------ what must be in it


@pytest.mark.parametrize("state", sorted({State.SUCCEEDED, State.FAILED, State.ABORTED, State.REJECTED, State.EXPIRED, State.REFUSED}))
def test_every_end_has_its_first_line_and_its_sentence(state: State) -> None:
    page = markdown(view(state=state))
    assert page.startswith(f"# Post-mortem: shop 0005 -> 0004: {state}\n\n## Summary\n\n")
    assert "It is " not in summary(view(state=state))


def test_every_part_is_there_in_the_order_in_which_people_read() -> None:
    headings = [line[3:] for line in markdown(view()).splitlines() if line.startswith("## ")]
    assert headings == [
        "Summary", "Timeline (UTC)", "Rehearsal", "Who approved what", "What ran", "Verification", "What was lost", "Archive and restore point",
            "Logs of the application",
        "What went wrong", "Checklist", "To be filled in", "Action items",
    ]  # fmt: skip


def test_what_nobody_wrote_down_stays_blank_and_nothing_is_made_up() -> None:
    run = slack_parts.run(State.REJECTED, plan=None, digest=None, seats=())
    page = markdown(slack_parts.view(State.REJECTED).model_copy(update={"run": run}))
    assert page.startswith(f"# Post-mortem: shop {BLANK} -> 0004: rejected\n")
    for sentence in (
        "Nothing.",
        "Nothing was verified.",
        "Nothing: the downgrade did not begin.",
        "No approval was asked for.",
        f"Root cause: {BLANK}",
    ):
        assert sentence in page


def test_an_unknown_downgrade_is_not_told_as_done() -> None:
    page = markdown(view(state=State.FAILED))
    assert "The downgrade ended as unknown: this is what it would have destroyed" in page
    assert "2 attempts did not go well." in page


def test_red_warned_and_shown_checks_are_told_apart() -> None:
    checks = [check("a", True, ""), check("b", False, ""), check("c", False, "", blocking=False), check("d", None, "")]
    ended = attempt("verify", "done", {"checks": checks})  # type: ignore[arg-type]
    seen = slack_parts.view(State.SUCCEEDED, attempts=(ended,))
    found = re.findall(r"^\| ([abcd]) \| (\w+) \|", markdown(seen), re.MULTILINE)
    assert found == [("a", "ok"), ("b", "RED"), ("c", "warning"), ("d", "shown")]


def test_presses_that_were_denied_are_counted() -> None:
    denied = ("denied", {"by": "U0BYSTANDER", "action": "approve", "why": "no role"})
    page = markdown(slack_parts.view(State.REJECTED, events=[denied, denied]))
    assert "2 presses by people who may not" in page
    assert "U0BYSTANDER was denied (approve): no role" in page


def test_a_statement_whose_end_nobody_saw_is_told_as_such() -> None:
    facts = {"statements": [{"ms": 12.0, "sql": "drop table a"}, {"ms": None, "sql": "select pg_sleep(120)"}, {"sql": "drop table b"}]}
    page = markdown(slack_parts.view(State.FAILED, attempts=(attempt("downgrade", "unknown", facts),)))  # type: ignore[arg-type]
    assert "- 0.0 s: `drop table a`\n- did not end: `select pg_sleep(120)`\n- did not end: `drop table b`\n" in page


# ------------------------------------------------------------------ what was proven, lost, kept, put back


def ended(*attempts: Attempt, state: State = State.SUCCEEDED, **changes: Any) -> View:
    """A run of the proven plan with these attempts."""
    went = {"from": "0006", "to": "0004", "loss_class": "medium"}
    events = [("planned", went), ("rehearsed", went)]
    return slack_parts.view(state, events=events, attempts=attempts, **{"plan": slack_parts.proven(), **changes})


def done(step: str, **facts: Any) -> Attempt:
    return attempt(step, AttemptState.DONE, facts).model_copy(update={"summary": f"{step} as it went"})


ARCHIVED = done("archive", archive=slack_parts.archive().model_dump(mode="json"))
POINT = done("restore_point", file={"name": "c", "path": "database backout_1a_restore", "sha256": "", "size": 3_000_000, "format": "clone"})


def test_the_rehearsal_stands_beside_how_long_it_really_took() -> None:
    page = markdown(ended(done("downgrade", seconds=4.4)))
    assert "The downgrade was tried at 2026-11-20 03:00:00 UTC on a throwaway server, PostgreSQL 18: it took 3.1 s there." in page
    assert "In production it took 4.4 s." in page
    assert "- The schema came out as the scripts say." in page
    assert "- Going forward again works." in page


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (slack_parts.plan(), "It was not tried on a copy: it has 40.0 GB, more than rehearsal.max\\_size (20.0 GB)."),
        (slack_parts.plan(rehearsal=None), "It did not come to one."),
    ],
)
def test_a_run_without_a_rehearsal_says_so(plan: Plan, says: str) -> None:
    assert f"## Rehearsal\n\n{says}\n" in markdown(ended(state=State.REJECTED, plan=plan))


def test_what_was_lost_is_what_was_found_afterwards_else_the_copys_else_the_scripts() -> None:
    seen = slack_parts.SCORE.model_copy(update={"count": 1210})
    found = done("reconcile", loss=[seen.model_dump(mode="json")], more=["table public.notes"])
    page = markdown(ended(done("downgrade"), found))
    assert "Compared row by row with the restore point.\n\n- drops column public.orders.score: 1,210 values, 9.6 kB" in page
    assert "**More is gone than the copy had shown:** table public.notes." in page
    assert "As the copy showed it.\n\n- drops column public.orders.score: 1,204 values" in markdown(ended(done("downgrade")))
    assert "As far as reading the scripts goes.\n\n- drops column orders.score" in markdown(ended(done("downgrade"), plan=slack_parts.plan()))


def test_the_archive_is_named_with_its_rows_and_how_it_comes_back() -> None:
    seen = ended(POINT, ARCHIVED, done("downgrade"))
    assert summary(seen).endswith("What it destroyed is archived and can be put back.")
    assert "archived" not in summary(ended(POINT, ARCHIVED)), "what was not destroyed is there"
    page = markdown(seen)
    assert f"Archive: `/backups/shop-r7k2.archive`, 4.1 kB, sha256 {'a' * 64}.\n\n- 1,204 rows of public.orders: id, score\n" in page
    assert "To put it back: `reapply shop 0006`, as a slash command or as `backout reapply`." in page


def test_how_long_a_copy_is_kept_is_said_where_it_is_known() -> None:
    kept_until = ARCHIVED.model_copy(update={"facts": ARCHIVED.facts | {"until": "2026-11-21 03:00 UTC"}})
    assert "kept until 2026-11-21 03:00 UTC." in markdown(ended(kept_until, done("downgrade")))


def test_the_restore_point_comes_with_the_way_back_to_it() -> None:
    page = markdown(ended(POINT, done("downgrade")).model_copy(update={"restore_commands": ("ALTER DATABASE shop RENAME TO shop_bad",)}))
    assert "Restore point: `database backout_1a_restore`, 3.0 MB.\n" in page
    assert "To go back to it by hand; everything written since is lost:\n\n- `ALTER DATABASE shop RENAME TO shop_bad`\n" in page


def test_a_rehearsal_alone_changed_nothing_whatever_it_did_to_the_copy() -> None:
    seen = ended(done("back_up", file=POINT.facts["file"]), done("rehearse"), state=State.REJECTED)
    assert ending(seen.run) == "Nothing was changed."
    page = markdown(seen)
    assert "Nothing: the downgrade did not begin." in page
    assert "Backup from before the rehearsal: `database backout_1a_restore`" in page
    assert "The steps took" not in summary(seen)


def test_a_refusal_after_a_rehearsal_says_where_it_was_tried() -> None:
    seen = ended(attempt("rehearse", AttemptState.FAILED, {}), state=State.REFUSED)
    assert summary(seen) == "Backout refused it. It was tried on a copy; production was not touched. 1 attempt did not go well."


def test_a_reapply_is_told_as_an_upgrade_with_what_came_back() -> None:
    conflict = {"table": "public.orders", "key": "id=17", "why": "the row is gone"}
    back = done("put_back", put_back=[{"rows": 0, "values": 1203, "unchanged": 1, "conflicts": [conflict], "conflicts_total": 1}])
    seen = ended(done("upgrade"), back, done("verify"), plan=slack_parts.reapply())
    assert ending(seen.run) == "shop stands at 0005; put_back as it went; verify as it went. The steps took 36.0 s."
    assert summary(seen).startswith("The upgrade was done and verified.")
    page = markdown(seen)
    assert page.startswith("# Post-mortem: shop 0004 -> 0005: succeeded\n")
    assert "Applied, oldest first:" in page
    assert "The upgrade was tried" in page
    assert "- Put back on the copy: 0 rows and 1204 values are back" in page
    assert (
        "Put back: 0 rows and 1,203 values, 1 value was there already. 1 conflict left alone.\n\n- conflict: public.orders id=17: the row is gone"
        in page
    )


def test_a_reapply_that_ended_before_its_archive_was_back_says_so() -> None:
    assert "its archive is not back" in ending(ended(done("upgrade"), plan=slack_parts.reapply()).run)
    assert ending(ended(POINT, plan=slack_parts.reapply()).run).startswith("The upgrade had not begun.")


def test_the_applications_log_is_told_before_and_after_with_its_errors_counted() -> None:
    before = done("stop_writers", logs={"api": ["listening", "ERROR: column score does not exist", "Traceback (most recent call last):"]})
    page = markdown(ended(before, done("downgrade"), done("watch", logs={"api": ["listening"]})))
    assert "api, before they were stopped: 3 lines, 2 errors." in page
    assert "api, at the end: 1 line, 0 errors." in page
    assert "- `ERROR: column score does not exist`" in page


def test_a_run_whose_plan_changed_on_the_way_tells_its_last_plan() -> None:
    first = done("restore_point").model_copy(update={"round": 1})
    second = done("downgrade").model_copy(update={"round": 2})
    assert "Nothing was kept." in markdown(ended(first, second, round=2))


@given(texts)
def test_the_rehearsals_page_keeps_its_lines_whatever_is_written(text: str) -> None:
    plans = [seen.run.plan for seen in (view(text), view())]
    page, quiet = (proof.page("r7k2", plan, NOON) for plan in plans if plan)
    assert shape(page) == shape(quiet)
    for rows, calm in zip(tables(page), tables(quiet), strict=True):
        assert [len(CELL_EDGE.findall(row)) for row in rows] == [len(CELL_EDGE.findall(row)) for row in calm]


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"code": {"says": "1 thing left", "left": ["take it out"], "same": False, "difference": "[+] Added `x`"}}, "- [ ] take it out."),
        ({"code": {"says": "the code has followed", "same": True}}, "the code has followed."),
        ({"code": {"not_looked": "no tar"}}, "could not be looked at: no tar."),
        (None, "It was not looked at"),
    ],
)
def test_the_code_has_a_part_of_its_own_where_its_tool_can_tell(facts: dict[str, Any] | None, says: str) -> None:
    made = slack_parts.plan(steps=(PlanStep(name="downgrade"), PlanStep(name="look_at_code")))
    done = (attempt("look_at_code", AttemptState.DONE, facts),) if facts else ()
    assert says in markdown(slack_parts.view(State.SUCCEEDED, plan=made, attempts=done))
    assert "## The code" not in markdown(slack_parts.view(State.SUCCEEDED, attempts=done))
