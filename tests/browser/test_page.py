"""The page alone, without a bot: what is hostile, long or many."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from tests.browser.quiet import Quiet, quiet
from tests.browser.workspace import PHONE, WITHIN, Workspace, opened

pytestmark = pytest.mark.asyncio(loop_scope="session")

HOSTILE = [
    "<script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 1'>",
    "<svg/onload=window.ran=1>",
    "<javascript:window.ran=1|press here>",
    "<data:text/html,<script>opener.ran=1</script>|press here>",
    "[press here](javascript:window.ran=1)",
    "![drawn](http://example.com/ran.png)",
    "<https://example.com/ran|press here>",
    "<!channel> <!here> <@U0DBA> <#C0INCIDENT> <!date^9999999999999999^{date}|then>",
    "\u202egnp.exe\u202c and \u2066hidden\u2069 \u200f\u05d0\u05d1\u05d2",
    "*_~`" * 50,
    "> " * 200 + "deep",
    "&lt;script&gt;window.ran = 1&lt;/script&gt;",
    "constructor __proto__ toString <@constructor> <#__proto__|x> <!toString>",
    "\x00\x1b[31m\u2028\u2029\ufeff",
]


@dataclass
class Alone:
    scene: Quiet
    page: Workspace
    address: str


@pytest_asyncio.fixture(loop_scope="session")
async def alone(browser: Browser) -> AsyncIterator[Alone]:
    async with quiet() as (scene, address), opened(browser, address) as page:
        yield Alone(scene, page, address)


@pytest.mark.parametrize("text", HOSTILE)
async def test_hostile_text_runs_nothing_wherever_it_stands(alone: Alone, text: str) -> None:
    scene, page = alone.scene, alone.page
    blocks = [
        {"type": "header", "text": {"type": "plain_text", "text": text[:150]}},
        {"type": "section", "text": {"type": "mrkdwn", "text": text}},
        {"type": "section", "fields": [{"type": "mrkdwn", "text": text}, {"type": "plain_text", "text": text}]},
        {"type": "context", "elements": [{"type": "mrkdwn", "text": text}]},
    ]
    ts = await scene.post(text)
    await scene.post(text, blocks=blocks)
    await scene.post(text, thread_ts=ts)
    await scene.call("chat.postEphemeral", channel=scene.channel, user="U0DEV", text=text)
    await scene.share("report.md", f"# {text}\n\n{text}\n\n| {text} | b |\n|---|---|\n| {text} | 2 |\n\n- {text}\n\n> {text}\n", ts)
    await page.act_as("U0DEV")
    await expect(page.messages("message")).to_have_count(2, timeout=WITHIN)
    await expect(page.messages("ephemeral")).to_have_count(1, timeout=WITHIN)
    await page.messages("message").first.get_by_test_id("open-thread").click()
    await page.part("thread").get_by_test_id("file").click()
    await expect(page.part("document").locator("h1")).to_be_visible()

    assert not await page.ran()
    active = ":is(a, img, script, iframe, object, embed, svg)"
    for place in await page.page.locator(f"[data-testid=message] {active}, dialog {active}").all():
        assert await place.evaluate("each => each.tagName") == "A"
        assert str(await place.get_attribute("href")).startswith(("https://", "http://", "mailto:")), "no link runs anything"
        assert await place.get_attribute("rel") == "noopener noreferrer"


async def test_the_pages_policy_stops_what_its_drawing_would_let_through(alone: Alone) -> None:
    page = alone.page
    drawn = """text => new Promise(done => {
        addEventListener("securitypolicyviolation", event => done(event.effectiveDirective), {once: true});
        document.body.insertAdjacentHTML("beforeend", text);
    })"""
    for text, stopped in [
        ('<img src="data:," onerror="window.ran = 1">', "script-src-attr"),
        ('<img src="http://example.com/ran.png">', "img-src"),
        ('<iframe src="http://example.com"></iframe>', "frame-src"),
    ]:
        assert await page.page.evaluate(drawn, text) == stopped
    assert not await page.ran()
    assert page.trouble, "and every test would have noticed"
    page.trouble.clear()


async def test_text_that_people_type_is_shown_as_they_typed_it(alone: Alone) -> None:
    for text in ["<script>window.ran = 1</script>", "a & b < c > d", "1 * 2 * 3", "<!channel>"]:
        await alone.page.write(text, "U0DEV")
        await expect(alone.page.messages("message").last).to_contain_text(text)
    assert not await alone.page.ran()


async def test_two_hundred_messages_are_all_there_and_the_newest_is_seen(alone: Alone) -> None:
    for number in range(200):
        await alone.scene.post(f"message {number}")
    await expect(alone.page.messages("message")).to_have_count(200, timeout=WITHIN)
    await expect(alone.page.messages("message").last).to_be_in_viewport()
    await expect(alone.page.part("composer")).to_be_in_viewport()
    await alone.page.write("the last word", "U0DEV")
    await expect(alone.page.messages("message").last).to_contain_text("the last word")
    await expect(alone.page.messages("message").last).to_be_in_viewport()


async def test_who_reads_further_up_is_not_pulled_down_by_a_new_message(alone: Alone) -> None:
    for number in range(60):
        await alone.scene.post(f"message {number}")
    await expect(alone.page.messages("message")).to_have_count(60, timeout=WITHIN)
    first = alone.page.messages("message").first
    await first.scroll_into_view_if_needed()
    await alone.scene.post("new")
    await expect(alone.page.messages("message")).to_have_count(61, timeout=WITHIN)
    await expect(first).to_be_in_viewport()


@pytest.mark.parametrize("name", ["serve.log", "report.md"])
async def test_a_file_of_five_thousand_lines_opens_and_is_read_to_its_end(alone: Alone, name: str) -> None:
    ts = await alone.scene.post("a long one")
    await alone.scene.share(name, "\n".join(f"- line {number} {'x' * 80}" for number in range(5000)), ts)
    await alone.page.messages("message").first.get_by_test_id("open-thread").click()
    await alone.page.part("thread").get_by_test_id("file").click()
    document = alone.page.part("document")
    await expect(document).to_contain_text("line 4999", timeout=WITHIN)
    await document.locator("article").evaluate("each => { each.scrollTop = each.scrollHeight; each.parentElement.scrollTop = each.scrollHeight }")
    assert await alone.page.overflow() == 0
    await alone.page.part("document-close").click()
    await expect(document).to_be_hidden()


async def test_a_block_that_backout_never_sends_is_named_instead_of_drawn(alone: Alone) -> None:
    await alone.scene.post("x", blocks=[{"type": "rich_text", "elements": []}])
    await expect(alone.page.part("undrawn")).to_contain_text("rich_text", timeout=WITHIN)


async def test_no_word_is_too_long_for_a_phone(browser: Browser, alone: Alone) -> None:
    await alone.scene.post("W" * 2000)
    await alone.scene.post("x", blocks=[{"type": "section", "text": {"type": "mrkdwn", "text": f"```{'code ' * 200}```"}}])
    async with opened(browser, alone.address, viewport=PHONE, has_touch=True, is_mobile=True) as phone:
        await expect(phone.messages("message")).to_have_count(2, timeout=WITHIN)
        assert await phone.overflow() == 0


async def test_another_page_of_this_machine_reads_nothing(browser: Browser, alone: Alone) -> None:
    guessed = "/".join([*alone.address.split("/")[:3], "app", "state"])
    async with opened(browser, guessed) as stranger:
        assert "incident" not in await stranger.page.content()


async def test_a_press_counts_although_its_message_is_drawn_anew_under_it(alone: Alone) -> None:
    ts = await alone.scene.post("before")
    button = alone.page.messages("message").first.get_by_test_id("open-thread")
    await button.hover()
    await alone.page.page.mouse.down()
    async with alone.page.page.expect_response("**/app/state?*"):
        await alone.scene.call("chat.update", channel=alone.scene.channel, ts=ts, text="after")
    await alone.page.page.mouse.up()
    await expect(alone.page.part("thread")).to_be_visible(timeout=WITHIN)
    await expect(alone.page.messages("message").first).to_contain_text("after", timeout=WITHIN)
