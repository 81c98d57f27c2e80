"""The demo's page in a real browser, as the people of the incident use it."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import expect

from tests.browser.conftest import OpenPage
from tests.browser.workspace import PHONE, WITHIN, Workspace

pytestmark = pytest.mark.asyncio(loop_scope="session")

ASK = "/rollback 0004 sev high because checkout is down"


async def test_a_rollback_goes_from_the_typed_command_to_the_post_mortem_that_is_read(workspace: Workspace) -> None:
    await workspace.shop_is(healthy=False)
    await workspace.write(ASK, "U0DEV")
    await workspace.card("awaiting_approval")

    await workspace.press("approve", "U0SENIOR")
    denial = workspace.messages("ephemeral").filter(has_text="DBA on call")
    await expect(denial).to_be_visible(timeout=WITHIN)
    await workspace.act_as("U0DBA")
    await expect(denial).to_have_count(0)
    await workspace.card("awaiting_approval")

    await workspace.press("approve")
    await workspace.card("succeeded")
    await workspace.shop_is(healthy=True)
    text = await workspace.document("post-mortem-")
    assert "Post-mortem: shop 0005 -> 0004: succeeded" in text
    assert "checkout is down" in text
    await workspace.close_document()


async def test_a_form_asks_for_the_reason_and_the_severity_that_were_not_typed(workspace: Workspace) -> None:
    await workspace.write("/rollback 0004", "U0DEV")
    await workspace.fill(reason="checkout is down", severity="medium")
    await workspace.submit()
    await expect(workspace.part("modal")).to_be_hidden(timeout=WITHIN)
    card = await workspace.card("awaiting_approval")
    await expect(card).to_contain_text("checkout is down")


async def test_a_form_that_is_closed_asks_for_nothing(workspace: Workspace) -> None:
    await workspace.write("/rollback 0004", "U0DEV")
    await expect(workspace.part("modal")).to_be_visible(timeout=WITHIN)
    await workspace.part("modal-close").click()
    await expect(workspace.part("modal")).to_be_hidden()
    await expect(workspace.cards).to_have_count(0)


async def test_not_yet_in_the_confirm_dialog_approves_nothing(workspace: Workspace) -> None:
    await workspace.write(ASK, "U0DEV")
    await workspace.card("awaiting_approval")
    await workspace.act_as("U0DBA")
    await workspace.button("approve").click()
    await expect(workspace.part("confirm")).to_contain_text("starts at once")
    await workspace.part("confirm-no").click()
    await expect(workspace.part("confirm")).to_be_hidden()
    await workspace.card("awaiting_approval")


async def test_a_rejection_carries_its_reason_to_the_card_and_the_report(workspace: Workspace) -> None:
    await workspace.write(ASK, "U0DEV")
    await workspace.card("awaiting_approval")
    await workspace.press("reject", "U0DBA")
    await workspace.submit(reason="we fix forward")
    await workspace.card("rejected")
    assert "we fix forward" in await workspace.document("post-mortem-")


async def test_a_failed_downgrade_is_a_decision_and_leave_ends_it_as_failed(workspace: Workspace) -> None:
    await blocked(workspace)
    await workspace.press("leave", "U0DEV")
    await expect(workspace.messages("ephemeral")).to_have_count(1, timeout=WITHIN)
    await workspace.card("needs_decision")

    await workspace.press("leave", "U0DBA")
    await workspace.card("failed")
    await workspace.shop_is(healthy=False)
    assert "0005 -> 0004: failed" in await workspace.document("post-mortem-")


async def test_a_failed_downgrade_succeeds_on_retry_once_nobody_is_in_its_way(workspace: Workspace) -> None:
    await blocked(workspace)
    await workspace.part("unblock").click()
    await expect(workspace.part("unblock")).to_be_hidden(timeout=WITHIN)
    await workspace.press("retry", "U0DBA")
    await workspace.card("succeeded")
    await workspace.shop_is(healthy=True)
    assert "0005 -> 0004: succeeded" in await workspace.document("post-mortem-")


async def test_a_retry_that_fails_again_asks_again(workspace: Workspace) -> None:
    await blocked(workspace)
    before = await workspace.cards.last.inner_text()
    await workspace.press("retry", "U0DBA")
    await expect(workspace.cards.last).not_to_have_text(before, use_inner_text=True, timeout=WITHIN)
    await workspace.card("needs_decision")
    thread = await workspace.thread()
    await expect(thread.get_by_test_id("message").filter(has_text="@Sam")).not_to_have_count(0, timeout=WITHIN)


async def blocked(workspace: Workspace) -> None:
    """An incident whose downgrade has failed for a lock that somebody holds."""
    await workspace.reset("blocked")
    await workspace.write(ASK, "U0DEV")
    await workspace.card("awaiting_approval")
    await workspace.press("approve", "U0DBA")
    card = await workspace.card("needs_decision")
    await expect(card).to_contain_text("nightly-export")


async def test_a_run_goes_on_after_the_bot_was_killed_in_the_middle_of_it(workspace: Workspace) -> None:
    await workspace.reset("blocked")
    await workspace.write(ASK, "U0DEV")
    await workspace.card("awaiting_approval")
    await workspace.press("approve", "U0DBA")
    await expect(workspace.cards.last).to_contain_text("step 4 of 6", timeout=WITHIN)  # it waits for the lock
    await killed(workspace)
    await workspace.part("unblock").click()
    await started(workspace)
    card = await workspace.card("succeeded", "needs_decision")
    if await card.get_attribute("data-state") == "needs_decision":
        await workspace.press("retry", "U0DBA")
        await workspace.card("succeeded")
    await expect(workspace.cards).to_have_count(1)
    await workspace.shop_is(healthy=True)
    assert "0005 -> 0004: succeeded" in await workspace.document("post-mortem-")


async def test_a_press_while_the_bot_is_dead_says_so_and_counts_once_it_lives(workspace: Workspace) -> None:
    await workspace.write(ASK, "U0DEV")
    await workspace.card("awaiting_approval")
    await killed(workspace)
    await workspace.press("approve", "U0DBA")
    await expect(workspace.part("notice")).to_contain_text("Start the bot", timeout=WITHIN)
    await workspace.card("awaiting_approval")
    await started(workspace)
    await workspace.press("approve", "U0DBA")
    await workspace.card("succeeded")


async def killed(workspace: Workspace) -> None:
    await workspace.part("bot-kill").click()
    await expect(workspace.part("bot-status")).to_have_attribute("data-running", "false", timeout=WITHIN)


async def started(workspace: Workspace) -> None:
    await workspace.part("bot-start").click()
    await expect(workspace.part("bot-status")).to_have_attribute("data-ready", "true", timeout=WITHIN)


async def test_a_hostile_reason_is_text_on_the_card_in_the_thread_and_in_the_report(workspace: Workspace) -> None:
    reason = "<script>ran=1</script> <img src=x onerror=ran=1> <!channel> [x](javascript:ran=1) <javascript:ran=1|y> \u202egnp.exe"
    await workspace.write(f"/rollback 0004 sev high because {reason}", "U0DEV")
    card = await workspace.card("awaiting_approval")
    await expect(card).to_contain_text("<script>ran=1</script> <img src=x onerror=ran=1> <!channel>")
    await workspace.press("approve", "U0DBA")
    await workspace.card("succeeded")
    assert "<script>ran=1</script>" in await workspace.document("post-mortem-")
    for place in await workspace.page.locator("main a, aside a, dialog a").all():
        assert str(await place.get_attribute("href")).startswith("http")
    assert not await workspace.ran()


async def test_what_is_written_in_the_thread_becomes_a_note_in_the_report(workspace: Workspace) -> None:
    await workspace.write(ASK, "U0DEV")
    await workspace.card("awaiting_approval")
    thread = await workspace.thread()
    await workspace.part("thread-composer").fill("deploys are frozen since ten")
    await workspace.part("thread-send").click()
    await expect(thread.get_by_test_id("message").filter(has_text="deploys are frozen since ten")).to_be_visible(timeout=WITHIN)
    await workspace.press("approve", "U0DBA")
    await workspace.card("succeeded")
    assert "deploys are frozen since ten" in await workspace.document("post-mortem-")


async def test_two_presses_on_a_slow_line_count_once(workspace: Workspace) -> None:
    line = await workspace.page.context.new_cdp_session(workspace.page)
    slow = {"offline": False, "latency": 400, "downloadThroughput": 40_000, "uploadThroughput": 40_000}
    await workspace.write(ASK, "U0DEV")
    await workspace.card("awaiting_approval")
    await workspace.act_as("U0DBA")
    await line.send("Network.emulateNetworkConditions", slow)
    for _ in range(2):
        if await workspace.button("approve").is_visible():
            await workspace.press("approve")
    await workspace.card("succeeded")
    await expect(workspace.cards).to_have_count(1)


async def test_a_page_that_is_loaded_again_in_mid_run_shows_the_run_and_goes_on(workspace: Workspace) -> None:
    await workspace.write(ASK, "U0DEV")
    await workspace.card("awaiting_approval")
    await workspace.page.reload()
    await workspace.press("approve", "U0DBA")
    await workspace.card("running", "succeeded")
    await workspace.page.reload()
    await workspace.card("succeeded")
    await expect(workspace.cards).to_have_count(1)


async def test_two_pages_show_the_same_and_each_person_acts_from_their_own(workspace: Workspace, open_page: OpenPage) -> None:
    other = await open_page()
    await other.act_as("U0DBA")
    await workspace.write(ASK, "U0DEV")
    await other.card("awaiting_approval")
    await other.press("approve")
    await workspace.card("succeeded")
    await other.card("succeeded")
    assert await workspace.cards.last.inner_text() == await other.cards.last.inner_text()


async def test_reset_makes_a_new_incident_that_can_be_rolled_back_again(workspace: Workspace) -> None:
    for _ in range(2):
        await workspace.write(ASK, "U0DEV")
        await workspace.card("awaiting_approval")
        await workspace.press("approve", "U0DBA")
        await workspace.card("succeeded")
        await workspace.reset()


async def test_a_phone_shows_the_card_and_its_buttons_without_scrolling_sideways(workspace: Workspace, open_page: OpenPage) -> None:
    await workspace.write(ASK, "U0DEV")
    phone = await open_page(viewport=PHONE, has_touch=True, is_mobile=True, color_scheme="dark")
    card = await phone.card("awaiting_approval")
    assert await phone.overflow() == 0
    for box in [await card.bounding_box(), await phone.button("approve").bounding_box(), await phone.button("reject").bounding_box()]:
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]
    await phone.press("approve", "U0DBA")
    await phone.card("succeeded")
    assert await phone.overflow() == 0


async def test_direct_messages_are_read_by_whom_they_are_for(workspace: Workspace) -> None:
    await workspace.write(ASK, "U0DEV")
    await workspace.card("awaiting_approval")
    await workspace.act_as("U0DBA")
    await workspace.part("dms").click()
    await expect(workspace.messages("dm").filter(has_text=re.compile("approv", re.IGNORECASE)).first).to_be_visible(timeout=WITHIN)
