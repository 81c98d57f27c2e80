"""What people learn from a rehearsal, on the card and in the thread: claims, each by the view that must show it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from bot.evidence import Loss, LossClass, Rehearsal
from bot.model import AttemptState, State, View
from handlers import thread
from handlers.blocks import Message
from handlers.card import card
from tests.unit.cards import CARDS, HIGH, TRIED
from tests.unit.slack_parts import DIGEST, SCORE, archive, attempt, plan, proven, reapply, rehearsal, steps, view

ON_A_PHONE = 40  # characters of a line
SCREEN = 32  # lines


def texts(message: Message) -> list[str]:
    """What each block says; a row of buttons by their labels."""
    found = []
    for block in message.blocks:
        if block["type"] == "actions":
            found.append(" | ".join(each["text"]["text"] if "text" in each else "boxes" for each in block["elements"]))
        else:
            found.append(block["text"]["text"] if "text" in block else block["elements"][0]["text"])
    return found


def decision(shown: View) -> list[str]:
    """The lines below the title."""
    return texts(card(shown))[1].split("\n")


def whole(shown: View) -> str:
    return "\n".join(texts(card(shown)))


def said(shown: View, place: int = -1) -> Message:
    found = thread.message(shown, shown.events[place])
    assert found is not None
    return found


def loss(**changes: Any) -> View:
    """Asked about one loss."""
    one = Loss(kind="column", name="public.orders.score", revision="0005").model_copy(update=changes)
    return view(plan=proven(rehearsal(loss=(one,))), events=TRIED)


def shown_above(message: Message) -> list[str]:
    """The blocks above the buttons, as they read: a date as its fallback, no marks."""
    above = []
    for block, text in zip(message.blocks, texts(message), strict=True):
        if str(block.get("block_id", "")).startswith("backout:"):
            break
        above.append(re.sub(r"<!date[^|]*\|([^>]*)>", r"\1", text).replace("`", "").replace("*", ""))
    return above


# ------------------------------------------------------------------ the decision


def test_the_decision_says_what_is_destroyed_with_counts_and_that_it_was_tried() -> None:
    first, second, third = decision(view(plan=proven(), events=TRIED))
    assert first == (
        "*Decide:* undo 2 migrations on `shop`, back from `0006` to `0004`? It *destroys* 1,204 values of `public.orders.score` "
        "(the newest of 2026-11-19 22:10). The data is archived first and can be put back."
    )
    assert re.fullmatch(r"Tried on a copy <!date\^.*>: 3\.1 s, 2 statements\.", second)
    assert third.startswith("It needs 1 more approval until")


def test_what_was_not_tried_says_so_in_its_very_first_words_and_why() -> None:
    first, second, *_ = decision(CARDS["untried"]())
    assert first.startswith("*Not tried on a copy:* it has 40.0 GB, more than rehearsal.max_size (20.0 GB).")
    assert "As far as reading the scripts tells, it *destroys* column `orders.score`" in second
    (confirm,) = [
        each["confirm"] for block in card(CARDS["untried"]()).blocks for each in block.get("elements", ()) if each.get("style") == "primary"
    ]
    assert "NOT tried on a copy" in confirm["text"]["text"]


def test_a_plan_whose_trial_broke_off_is_not_told_as_tried() -> None:
    broken = plan(rehearsal=Rehearsal(done=False, why="it did not end within 900 s (rehearsal.within)"))
    shown = view(plan=broken, events=TRIED)
    assert decision(shown)[0].startswith("*Not tried on a copy:* it did not end within 900 s")
    assert "Tried on a copy" not in whole(shown)
    assert said(shown).text.startswith("*Not tried on a copy:* it did not end")


def test_evidence_with_reservations_says_so_before_it_is_believed() -> None:
    shown = view(plan=proven(rehearsal(partial=("the copy ran on PostgreSQL 18, production is 15",))), events=TRIED)
    assert any(line.startswith("*Tried on a copy, with reservations,*") for line in decision(shown))
    assert "with reservations: the copy ran on PostgreSQL 18, production is 15" in whole(shown)


def test_a_single_migration_is_named_in_the_decision() -> None:
    one = proven(undone=plan().undone[1:])
    assert decision(view(plan=one, events=TRIED))[0].startswith("*Decide:* undo `0005` add orders.score on `shop`, back to `0004`?")


def test_nothing_lost_is_said_in_so_many_words() -> None:
    nothing = proven(rehearsal(loss=()), loss_class=LossClass.NONE)
    assert "It destroys nothing." in decision(view(plan=nothing, events=TRIED))[0]


def test_a_sample_is_said_first_and_proves_no_loss_and_no_time() -> None:
    sampled = rehearsal(sampled=12_345, partial=("tried on the schema with 12,345 sampled rows of 3 tables, not on a copy of the data",))
    first = decision(view(plan=proven(sampled), events=TRIED))
    assert first[0].startswith("*Tried on the schema with 12,345 sampled rows,*")
    assert "As far as sampled rows tell, it *destroys*" in first[1]
    nothing = view(plan=proven(sampled.model_copy(update={"loss": ()}), loss_class=LossClass.NONE), events=TRIED)
    assert "It destroys nothing" not in whole(nothing)
    assert "sampled rows showed nothing" in whole(nothing)
    assert "Expected time: not measured yet." in whole(view(plan=proven(sampled, expected_seconds=None), events=TRIED))


@pytest.mark.parametrize(
    ("known", "says"),
    [
        ({"count": 0}, "It destroys no data; gone would be column `public.orders.score`, which is empty."),
        ({"kind": "index"}, "It destroys no data; gone would be index `public.orders.score`."),
        ({"kind": "table", "count": 1}, "It *destroys* table `public.orders.score` with 1 row."),
        ({"count": 10_000, "written": 3}, "It *destroys* 10,000 values of `public.orders.score` (3 ever written differently from the default)."),
        ({"kind": "enum", "count": 12}, "It *destroys* the enum label `public.orders.score`, used by 12 rows."),
        ({"kind": "unreadable", "why": "can't"}, "It *destroys* what can't be read: `public.orders.score`. What can be archived is archived first."),
    ],
)
def test_a_loss_in_half_a_sentence(known: dict[str, Any], says: str) -> None:
    assert says in decision(loss(**known))[0]


def test_tenant_isolation_that_goes_is_a_warning_of_its_own() -> None:
    warned = [line for line in decision(CARDS["high_loss"]()) if line.startswith("*Tenants may see each other's rows:*")]
    assert len(warned) == 1
    assert "policy `public.orders.tenant`" in warned[0]
    assert "the row security of `public.orders`" in warned[0]
    assert not any("Tenants" in line for line in decision(view(plan=proven(), events=TRIED)))


def test_the_worst_three_losses_stand_above_the_buttons_and_the_others_below() -> None:
    blocks = texts(card(CARDS["high_loss"]()))
    buttons = blocks.index("Approve | Reject | Cancel")
    above, below = "\n".join(blocks[:buttons]), "\n".join(blocks[buttons:])
    assert 'drops table `public."Audit Log"`: 12,345,678 rows, 3.4 GB, the newest of 2026-11-20 02:59' in above
    assert "drops column `public.orders.flag`: 10,000 values, 3 ever written differently from the default, 10.0 kB" in above
    assert "and 3 more, below" in above
    assert "changes values of `public.orders.price`: 17 values of 3,000,000, e.g. `id=4` (no longer fit numeric(8,2))" in below
    assert "turns off row security of `public.orders`" in below
    for one in HIGH.loss:
        assert one.name in above + below


def test_locks_the_way_forward_and_the_schema_are_told_in_a_line_each() -> None:
    assert "• The schema came out as the scripts say. Going forward again works." in whole(CARDS["awaiting_approval"]())
    high = whole(CARDS["high_loss"]())
    assert "locks `public.orders` (ACCESS EXCLUSIVE) for 1 min 4 s, 1.2 GB, 3,000,000 rows, and 2 more tables" in high
    assert "The schema did not come out as the scripts say, 2 differences: index public.ix_old is still there" in high
    assert '• Up again fails: column "note" does not exist' in high
    assert "column public.orders.note is gone" in high


@pytest.mark.parametrize(("expected", "findings"), [("unverifiable", ("The history can't be built from nothing: x",)), ("not asked", ())])
def test_a_schema_that_could_not_be_compared_is_never_told_as_right(expected: Any, findings: tuple[str, ...]) -> None:
    shown = whole(view(plan=proven(rehearsal(expected=expected, findings=findings)), events=TRIED))
    assert "came out as the scripts say" not in shown
    assert all(each in shown for each in findings)


def test_the_ways_stand_side_by_side_the_recommended_one_first_with_its_reason() -> None:
    ways = next(text for text in texts(card(CARDS["awaiting_approval"]())) if text.startswith("*The ways there are*")).split("\n")
    assert ways[1].startswith("• *downgrade*, recommended: loses")
    assert "Why: it worked on a copy" in ways[1]
    assert ways[2] == "• fix forward: loses nothing · as good as the fix"
    assert ways[3].startswith("• restore: not possible. Backout knows no backup")


@pytest.mark.parametrize(("name", "screens"), [("awaiting_approval", 2), ("untried", 1), ("reapply", 2), ("rehearsing", 1), ("high_loss", 2)])
def test_on_a_phone_the_buttons_are_not_far(name: str, screens: int) -> None:
    lines = [line for text in shown_above(card(CARDS[name]())) for line in text.split("\n")]
    height = sum(-(-len(line) // ON_A_PHONE) for line in lines)
    assert height <= screens * SCREEN, f"{height} lines"


# ------------------------------------------------------------------ while it is tried, and when that went wrong


def test_while_it_is_tried_the_card_says_that_production_is_not_touched_and_how_far_it_is() -> None:
    made = card(CARDS["rehearsing"]())
    assert texts(made)[1].startswith("*Trying it on a copy.* Production is not touched. Step 2 of 2: restoring the copy.")
    assert "Cancel" in texts(made)
    (button,) = [each for block in made.blocks for each in block.get("elements", ()) if each.get("type") == "button"]
    assert (button["action_id"], button["value"]) == ("cancel", "r7k2:")
    assert made.metadata["event_payload"]["digest"] == ""


def test_what_the_copy_proved_wrong_is_refused_with_the_ways_that_are_left() -> None:
    blocks = texts(card(CARDS["empty_downgrade"]()))
    assert blocks[1].startswith(
        "*Refused after it was tried on a copy* (`empty_downgrade`). On a copy the downgrade said it worked and changed nothing"
    )
    assert "Production was not touched." in blocks[1]
    assert blocks[2].startswith("*The ways that are left*\n• restore")
    assert "fix forward" in blocks[2]
    assert not any("destroy" in text for text in blocks), "what does nothing destroys nothing"
    assert "Refused" in said(CARDS["empty_downgrade"]()).text, "who watched it in the thread hears of it too"


def test_an_instant_that_nobody_recovered_was_not_tried() -> None:
    gave_up = {"code": "address_refused", "message": "Nobody entered an address within 12 h.", "next": "Ask again when the server is there."}
    attempts = (attempt("recover", AttemptState.FAILED, gave_up),)
    blocks = texts(card(view(State.REFUSED, plan=plan(rehearsal=None), digest=None, seats=(), attempts=attempts, refusal=gave_up)))
    assert blocks[1].startswith("*Refused* (`address_refused`). Nobody entered")
    assert "Production was not touched." in blocks[1]


# ------------------------------------------------------------------ forward again


def test_a_reapply_asks_for_going_forward_and_putting_back() -> None:
    shown = view(plan=reapply(), events=TRIED, steps=steps("reapply"))
    blocks = texts(card(shown))
    assert blocks[0] == "shop: forward again 0004 → 0005 · waiting for approval"
    assert blocks[1].startswith("*Decide:* go forward again to `0005` on `shop` and put back what run `r7k2` archived? It destroys nothing.")
    assert "0 rows and 1204 values are back" in whole(shown)
    assert "· put the archive back" in whole(shown)
    assert card(shown).text == "shop: 0004 -> 0005 · awaiting_approval · r7k2"


def test_a_reapply_that_has_nothing_to_put_back_says_so() -> None:
    assert "with nothing to put back?" in decision(view(plan=reapply(archive=None), events=TRIED))[0]


def test_a_reapply_that_ended_says_what_came_back_and_what_did_not() -> None:
    back = {"rows": 2, "values": 1204, "conflicts": [{"table": "public.orders", "key": "id=17", "why": "the row is gone"}], "conflicts_total": 1}
    done = (attempt("put_back", AttemptState.DONE, {"put_back": [back]}), attempt("upgrade", AttemptState.DONE, {}))
    shown = view(State.SUCCEEDED, plan=reapply(), attempts=done, events=[("ended", {"summary": "shop stands at 0005."})])
    assert texts(card(shown))[0] == "shop: forward again 0004 → 0005 · applied again"
    assert "Put back: 2 rows and 1,204 values. *1 conflict left alone:* look at the thread." in decision(shown)


# ------------------------------------------------------------------ the thread


def test_the_plan_before_its_rehearsal_says_that_nobody_is_asked_yet() -> None:
    text = said(CARDS["rehearsing"]()).text
    assert text.endswith("It is tried on a copy first; nobody is asked before that is done.")
    assert "Digest" not in text


def test_the_rehearsal_is_a_summary_and_a_file_with_all_of_it() -> None:
    message = said(CARDS["high_loss"]())
    assert message.text.startswith("*Tried on a copy, with reservations,*")
    assert "Up again fails" in message.text
    assert "Loss class high. Digest `dddddddddddd`." in message.text
    ((name, page),) = message.files
    assert name == "rehearsal-r7k2.md"
    assert page.startswith("# Rehearsal r7k2: shop 0006 -> 0004\n")
    for line in (
        "| 0005 | 3.2 ms | - | ACCESS EXCLUSIVE on public.orders, 200.0 ms | ALTER TABLE orders DROP COLUMN score |",
        "- locks public.orders (ACCESS EXCLUSIVE) for 1 min 4 s, 1.2 GB, 3,000,000 rows",
        "- drops column public.orders.score: 1,204 values, 9.6 kB, the newest of 2026-11-19 22:10, e.g. id=17, id=18, id=19, by 0005",
        "- reservation: the copy ran on PostgreSQL 18, production is 15",
        "- column public.orders.note is gone",
        "- downgrade (recommended): loses 1204 values of public.orders.score; 5.1 s; tried on a copy; it worked on a copy",
        "- one transaction: all or nothing",
    ):
        assert line in page.replace("\\_", "_"), line


def test_each_rehearsal_of_a_run_has_its_own_file_and_a_void_one_none() -> None:
    again = [
        ("rehearsed", {"digest": "a" * 64}),
        ("voided", {"what": ["the scripts were edited"]}),
        ("planned", {}),
        ("rehearsed", {"digest": DIGEST}),
    ]
    shown = view(plan=proven(), events=again)
    assert said(shown, 0).files == ()
    assert "the plan was changed since" in said(shown, 0).text
    assert [name for name, _ in said(shown).files] == ["rehearsal-r7k2-2.md"]


def test_void_approvals_say_what_changed_and_what_happens_next() -> None:
    shown = view(State.REHEARSING, events=[("voided", {"what": ["table <b> has 9 now", "the scripts were edited"]})])
    text = said(shown).text
    assert "earlier approvals are void.* It is tried on a copy again" in text
    assert "• table &lt;b&gt; has 9 now\n• the scripts were edited" in text


def test_a_step_on_the_copy_has_a_name_for_people_later_too() -> None:
    done = ("step_done", {"step": "rehearse", "attempt": 1, "seconds": 31.0, "summary": "0006 -> 0004 in 3.1 s"})
    assert said(view(plan=proven(), events=[done])).text.startswith("✓ try it on a copy · 31 s. 0006")


def step_done(name: str, facts: dict[str, Any]) -> Message:
    done = ("step_done", {"step": name, "attempt": 1, "seconds": 2.0, "summary": "as the step says"})
    return said(view(State.RUNNING, plan=proven(), events=[done], attempts=(attempt(name, AttemptState.DONE, facts),)))


def test_the_archive_says_what_is_in_it_what_is_not_and_how_it_comes_back() -> None:
    made = archive().model_copy(update={"left_out": {"public.log": "it has no primary key"}})
    text = step_done("archive", {"archive": made.model_dump(mode="json")}).text
    assert "Archived: 1,204 rows of `public.orders`, 4.1 kB; read back and compared." in text
    assert "*Not archived, so it will be gone:*\n• `public.log`: it has no primary key" in text
    assert "bring it back with `reapply shop 0006`" in text


def test_an_archive_of_nothing_keeps_the_steps_own_words() -> None:
    assert step_done("archive", {}).text.endswith("As the step says")


def test_reconciling_is_loud_only_when_more_is_gone_than_was_shown() -> None:
    found = {"loss": [SCORE.model_dump(mode="json")], "more": []}
    calm = step_done("reconcile", found)
    assert "What is gone is what the copy had shown" in calm.text
    assert "1,204 values" in calm.text
    loud = step_done("reconcile", found | {"more": ["table public.notes"], "archive": archive().model_dump(mode="json")})
    assert "*More is gone than the copy had shown:*\n• table public.notes\nWhat of it could be archived was archived now." in loud.text
    assert [name for name, _ in loud.files] == ["reconcile-r7k2-1.txt"]
    assert step_done("reconcile", {"loss": [], "more": []}).text.endswith("Nothing is gone, compared row by row with the restore point.")


def test_conflicts_of_a_put_back_are_named_by_key() -> None:
    conflicts = [{"table": "public.orders", "key": f"id={place}", "why": "the row is gone"} for place in range(200)]
    message = step_done("put_back", {"put_back": [{"rows": 2, "values": 1204, "unchanged": 1, "conflicts": conflicts, "conflicts_total": 5000}]})
    assert "2 rows and 1,204 values are back; 1 value was there already." in message.text
    assert "*5,000 conflicts left alone; they stay in the archive:*\n• `public.orders` `id=0`: the row is gone" in message.text
    ((_, file),) = message.files
    assert file.splitlines()[-2:] == ["public.orders id=199: the row is gone", "and 4,800 more conflicts"]


def test_a_plan_that_changed_under_a_step_is_no_failure_of_the_step() -> None:
    failed = ("step_failed", {"step": "archive", "attempt": 1, "message": "the plan changed: column x has 9,000 now"})
    shown = view(State.RUNNING, plan=proven(), events=[failed], attempts=(attempt("archive", AttemptState.FAILED, {"changed": True}),))
    assert said(shown).text.startswith("✗ *archive what will be lost: the plan changed*, so nothing was done.")


# ------------------------------------------------------------------ files for people, and the code that has to follow


def test_a_way_down_that_a_program_wrote_is_shown_in_full_before_anybody_is_asked() -> None:
    script = "-- DropColumn\n" + 'ALTER TABLE "users" DROP COLUMN "kyc";\n' * 200
    made = plan(undone=tuple(one.model_copy(update={"script": script if one.revision == "0005" else ""}) for one in plan().undone))
    for digest in ("", DIGEST):
        message = said(view(plan=made, events=[("planned", {"digest": digest})]))
        files = dict(message.files)
        assert files["0005.down.sql"].endswith(script)
        assert "can't know data" in files["0005.down.sql"].partition("\n")[0]
        assert "Nobody wrote the way down of `0005`" in message.text
    assert said(view(plan=plan(), events=[("planned", {"digest": DIGEST})])).files == ()


def test_what_the_script_says_is_covered_by_its_checksum_and_changes_no_digest() -> None:
    made = plan()
    with_script = made.model_copy(update={"undone": tuple(one.model_copy(update={"script": "x"}) for one in made.undone)})
    assert with_script.digest() == made.digest()


def test_files_that_the_team_commits_are_in_the_thread_each_with_its_place() -> None:
    files = [{"path": f"prisma/migrations/2026_reverse_of_{name}/migration.sql", "text": f"-- {name}\n"} for name in "ab"]
    done = attempt("downgrade", AttemptState.DONE, {"files": files})
    message = said(view(attempts=(done,), events=[("step_done", {"step": "downgrade", "attempt": 1, "summary": "back"})]))
    assert message.files == (("2026_reverse_of_a.sql", "-- a\n"), ("2026_reverse_of_b.sql", "-- b\n"))
    assert "Commit the file below as `prisma/migrations/2026_reverse_of_a/migration.sql`" in message.text


def test_what_is_left_to_do_in_the_code_is_said_and_a_long_difference_is_a_file() -> None:
    found = {"says": "1 thing left to do in the code; schema.prisma differs from the database", "left": ["it is still there"], "same": False,
             "difference": "[+] Added tables\n  - Escrow"}  # fmt: skip
    done = attempt("look_at_code", AttemptState.DONE, {"code": found})
    message = said(view(attempts=(done,), events=[("step_done", {"step": "look_at_code", "attempt": 1})]))
    assert "• it is still there" in message.text
    assert message.files[0][1].endswith("[+] Added tables\n  - Escrow\n")
    done = attempt("look_at_code", AttemptState.DONE, {"code": {"not_looked": "The migrations can't be read"}})
    message = said(view(attempts=(done,), events=[("step_done", {"step": "look_at_code", "attempt": 1})]))
    assert "could not be looked at:* The migrations can't be read" in message.text
