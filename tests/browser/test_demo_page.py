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


async def test_a_failed_downgrade_asks_for_a_decision_and_leave_ends_it(workspace: Workspace) -> None:
    await workspace.reset("blocked")
    await workspace.write(ASK, "U0DEV")
    await workspace.card("awaiting_approval")
    await workspace.press("approve", "U0DBA")
    card = await workspace.card("needs_decision")
    await expect(card.locator('[data-action-id="leave"]')).to_be_visible()

    await workspace.press("retry", "U0DBA")
    await workspace.card("running", "needs_decision")
    await workspace.card("needs_decision")
    await workspace.press("leave", "U0DBA")
    await workspace.card("failed")
    assert "0005 -> 0004: failed" in await workspace.document("post-mortem-")


async def test_a_run_survives_the_bot_being_killed_in_the_middle_of_it(workspace: Workspace) -> None:
    await workspace.write(ASK, "U0DEV")
    await workspace.card("awaiting_approval")
    await workspace.press("approve", "U0DBA")
    await workspace.card("running")
    await workspace.part("bot-kill").click()
    status = workspace.part("bot-status")
    await expect(status).to_have_attribute("data-running", "false", timeout=WITHIN)
    await workspace.part("bot-start").click()
    await expect(status).to_have_attribute("data-running", "true", timeout=WITHIN)
    card = await workspace.card("succeeded", "needs_decision")
    if await card.get_attribute("data-state") == "needs_decision":
        await workspace.press("retry", "U0DBA")
        await workspace.card("succeeded")
    assert "0005 -> 0004: succeeded" in await workspace.document("post-mortem-")


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
