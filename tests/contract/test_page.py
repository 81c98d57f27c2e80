"""The page's server over a local Slack: who may ask, what each person sees, and that every action does what Slack's client would."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from slack_sdk.web.async_client import AsyncWebClient

from playground.page import Page
from playground.slack import NotPossible, SlackStandIn

Json = dict[str, Any]
ROOT = Path(__file__).parents[2]
STATIC = ROOT / "playground/page/static"
CHANNEL, DEV, DBA = "C0INCIDENT", "U0DEV", "U0DBA"
HOSTILE = '<img src=x onerror="alert(1)"> & <script>alert(2)</script>'


class QuietScene:
    """A workspace without a demo around it."""

    channel = CHANNEL
    command = "/rollback"

    def __init__(self, slack: SlackStandIn) -> None:
        self.slack = slack
        self.turn = 0
        self.roles = {DEV: "backend", DBA: "DBA on call"}
        self.done: list[str] = []

    def controls(self) -> Json:
        return {
            "bot": {"running": True, "ready": True, "problem": None}, "shop": {"healthy": False, "says": "down"}, "incident": "one",
            "incidents": [{"id": "one", "title": "One"}], "blocker": None, "suggestion": None,
        }  # fmt: skip

    async def start_bot(self) -> None:
        self.done.append("start")

    async def kill_bot(self) -> None:
        raise NotPossible("the bot does not run")

    async def reset(self, incident: str) -> None:
        before, self.slack = self.slack, populated()
        await self.slack.start()
        self.turn += 1
        before.changed()
        await before.stop()

    async def end_blocker(self) -> None:
        self.done.append("unblock")


def populated() -> SlackStandIn:
    # The ack's deadline is generous: machines that run tests are slow.
    slack = SlackStandIn(ack_within=30)
    slack.add_user(DEV, "Dev")
    slack.add_user(DBA, "Dana")
    slack.add_channel(CHANNEL, [DEV, DBA])
    return slack


@pytest.fixture
async def scene() -> AsyncIterator[QuietScene]:
    made = QuietScene(populated())
    await made.slack.start()
    yield made
    await made.slack.stop()


@pytest.fixture
async def page(scene: QuietScene) -> AsyncIterator[Page]:
    async with Page(scene) as page:
        yield page


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def bot(scene: QuietScene) -> AsyncIterator[list[Json]]:
    """Whatever Slack sends is acknowledged and kept, newest last."""
    heard: list[Json] = []

    async def hear(request: web.Request) -> web.Response:
        if request.content_type == "application/json":
            heard.append(await request.json())
        else:
            form = dict(await request.post())
            heard.append(json.loads(str(form["payload"])) if "payload" in form else form)
        return web.Response()

    app = web.Application()
    app.router.add_post("/slack/events", hear)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    scene.slack.listen_http(f"http://127.0.0.1:{runner.addresses[0][1]}/slack/events")
    yield heard
    await runner.cleanup()


async def do(session: aiohttp.ClientSession, page: Page, action: str, who: str = DEV, **args: Any) -> Json:
    async with session.post(f"{page.url}app/do/{action}", json={"as": who, **args}) as answer:
        assert answer.status == 200, await answer.text()
        found: Json = await answer.json()
        return found


async def state(session: aiohttp.ClientSession, page: Page, who: str = DEV) -> Json:
    async with session.get(f"{page.url}app/state", params={"as": who}) as answer:
        assert answer.status == 200
        found: Json = await answer.json()
        return found


def client(scene: QuietScene) -> AsyncWebClient:
    return AsyncWebClient(token=scene.slack.bot_token, base_url=scene.slack.api_url)


CARD = [
    {
        "type": "actions",
        "block_id": "b",
        "elements": [
            {"type": "button", "action_id": "approve", "value": "v", "text": {"type": "plain_text", "text": "Approve"}},
            {"type": "checkboxes", "action_id": "boxes", "options": [{"text": {"type": "plain_text", "text": "A"}, "value": "a"}]},
        ],
    }
]
ASK = {
    "type": "input",
    "block_id": "reason",
    "label": {"type": "plain_text", "text": "Why"},
    "element": {"type": "plain_text_input", "action_id": "reason"},
}
MODAL = {
    "type": "modal", "title": {"type": "plain_text", "text": "Why"}, "submit": {"type": "plain_text", "text": "Go"}, "blocks": [ASK],
}  # fmt: skip

# ------------------------------------------------------------------ who may ask


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Host": "127.0.0.1:1"}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}],
    ids=str,
)
async def test_another_page_on_this_machine_is_refused(session: aiohttp.ClientSession, page: Page, headers: dict[str, str]) -> None:
    for path in ("", "static/app.js", "app/state", "app/events"):
        async with session.get(f"{page.url}{path}", headers=headers) as answer:
            assert answer.status == 403
    async with session.post(f"{page.url}app/do/kill", json={"as": DEV}, headers=headers) as answer:
        assert answer.status == 403


async def test_nothing_is_served_without_the_word_in_the_address(session: aiohttp.ClientSession, page: Page) -> None:
    root = f"http://127.0.0.1:{page.port}"
    for path in ("/", "/app/state", "/guess/", "/guess/app/state", "/guess/static/app.js"):
        async with session.get(root + path) as answer:
            assert answer.status in {403, 404}
            assert page.url.rsplit("/", 2)[1] not in await answer.text()


async def test_a_form_of_another_page_does_nothing(scene: QuietScene, session: aiohttp.ClientSession, page: Page) -> None:
    """A form can't send JSON, and the content type of JSON can't be sent across origins unasked."""
    async with session.post(f"{page.url}app/do/start", data={"as": DEV}) as answer:
        assert answer.status == 415
    async with session.post(f"{page.url}app/do/start", data='{"as": "U0DEV"}', headers={"Content-Type": "text/plain"}) as answer:
        assert answer.status == 415
    assert scene.done == []


async def test_every_answer_carries_the_strict_policy(session: aiohttp.ClientSession, page: Page) -> None:
    for path in ("", "static/app.js", "static/app.css", "app/state", "static/none.js", "app/file/none"):
        async with session.get(f"{page.url}{path}") as answer:
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "script-src 'self';" in policy
            assert "unsafe" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Cache-Control"] == "no-store"


async def test_it_listens_on_loopback_only_and_leaves_a_taken_port_alone(scene: QuietScene, session: aiohttp.ClientSession) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = taken.getsockname()[1]
        async with Page(scene, wanted) as page:
            assert page.taken
            assert page.port != wanted
            assert page.url.startswith("http://127.0.0.1:")
            assert (await state(session, page))["me"] == DEV


def test_the_page_has_no_inline_script_no_outside_address_and_never_makes_markup_of_text() -> None:
    html = (STATIC / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style", html)
    for path in STATIC.iterdir():
        text = path.read_text()
        assert not re.search(r"(?:src|href|from|import|url\()\s*[=(]?\s*[\"']?(?:https?:)?//", text), path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser", text), path.name
        assert len(text.splitlines()) <= 400, path.name


def test_the_page_draws_every_block_and_element_that_the_bot_makes() -> None:
    made = {kind for path in (ROOT / "handlers").glob("*.py") for kind in re.findall(r'"type": "(\w+)"', path.read_text())}
    drawn = set(re.findall(r"^  (\w+): ", (STATIC / "blocks.js").read_text(), re.MULTILINE)) | {"input"}

    assert made - {"plain_text", "mrkdwn", "modal"} <= drawn
    assert {"header", "section", "actions", "button", "checkboxes", "static_select"} <= made


# ------------------------------------------------------------------ what each person sees


async def test_private_messages_direct_messages_and_forms_are_their_own_persons(
    scene: QuietScene, session: aiohttp.ClientSession, page: Page
) -> None:
    slack = client(scene)
    await slack.chat_postMessage(channel=CHANNEL, text="for all")
    await slack.chat_postEphemeral(channel=CHANNEL, user=DBA, text="for Dana")
    await slack.chat_postMessage(channel=DBA, text="direct")
    await slack.views_open(trigger_id=scene.slack.new_trigger(DBA), view=MODAL)

    mine, hers = await state(session, page, DEV), await state(session, page, DBA)

    assert [each["text"] for each in mine["messages"]] == [each["text"] for each in hers["messages"]] == ["for all"]
    assert (mine["ephemerals"], mine["dms"], mine["views"]) == ([], [], [])
    assert [each["text"] for each in hers["ephemerals"]] == ["for Dana"]
    assert [each["text"] for each in hers["dms"]] == ["direct"]
    assert [each["title"]["text"] for each in hers["views"]] == ["Why"]


async def test_the_state_never_holds_a_token(scene: QuietScene, session: aiohttp.ClientSession, page: Page) -> None:
    told = json.dumps(await state(session, page))

    assert not any(secret in told for secret in (scene.slack.bot_token, scene.slack.app_token, scene.slack.signing_secret))


async def test_files_are_served_as_text_once_they_are_shared(scene: QuietScene, session: aiohttp.ClientSession, page: Page) -> None:
    text = "<script>alert(1)</script>\n" + "a line of a long log\n" * 5000
    target = await client(scene).files_getUploadURLExternal(filename="log.html", length=len(text))
    async with session.post(target["upload_url"], data=text.encode()) as answer:
        assert answer.status == 200
    address = f"{page.url}app/file/{target['file_id']}"
    async with session.get(address) as answer:
        assert answer.status == 404

    await client(scene).files_completeUploadExternal(files=[{"id": target["file_id"]}], channel_id=CHANNEL)

    async with session.get(address) as answer:
        assert answer.content_type == "text/plain"
        assert await answer.text() == text


async def test_the_stream_says_when_to_look_again_also_after_a_reset(scene: QuietScene, session: aiohttp.ClientSession, page: Page) -> None:
    async with session.get(f"{page.url}app/events") as stream, asyncio.timeout(60):
        first = await mark(stream)
        await client(scene).chat_postMessage(channel=CHANNEL, text="new")
        second = await mark(stream)
        await do(session, page, "reset", incident="one")
        third = await mark(stream)
        await client(scene).chat_postMessage(channel=CHANNEL, text="newer")
        fourth = await mark(stream)

    assert len({first, second, third, fourth}) == 4
    assert third.startswith("1.")
    assert [each["text"] for each in (await state(session, page))["messages"]] == ["newer"]


async def mark(stream: aiohttp.ClientResponse) -> str:
    while not (line := await stream.content.readline()).startswith(b"data: "):
        assert line, "the stream ended"
    return line.decode().removeprefix("data: ").strip()


async def test_open_streams_do_not_hold_the_server_when_it_closes(scene: QuietScene, session: aiohttp.ClientSession) -> None:
    async with Page(scene) as page:
        streams = [await session.get(f"{page.url}app/events") for _ in range(3)]
        for stream in streams:
            await mark(stream)
    async with asyncio.timeout(30):
        for stream in streams:
            assert stream.status == 200
            assert b"data: " not in await stream.read()


# ------------------------------------------------------------------ what people do


async def test_what_is_typed_reaches_the_bot_as_slack_writes_it(
    scene: QuietScene, session: aiohttp.ClientSession, page: Page, bot: list[Json]
) -> None:  # fmt: skip
    assert (await do(session, page, "send", text=f"@backout look: {HOSTILE} says @Dana, not a@dev"))["ok"]

    text = scene.slack.messages(CHANNEL)[-1]["text"]
    assert text.startswith("<@U0BACKOUT> look: &lt;img src=x")
    assert text.endswith("&lt;/script&gt; says <@U0DBA>, not a@dev")
    assert {each["event"]["type"] for each in bot} == {"message", "app_mention"}


async def test_a_slash_command_is_sent_as_one_and_others_are_not(
    scene: QuietScene, session: aiohttp.ClientSession, page: Page, bot: list[Json]
) -> None:  # fmt: skip
    assert await do(session, page, "send", text="  /rollback 0004 because a < b  ") == {"ok": True, "said": None}
    assert (bot[-1]["command"], bot[-1]["text"], bot[-1]["user_id"]) == ("/rollback", "0004 because a &lt; b", DEV)

    other = await do(session, page, "send", text="/deploy now")
    assert other["said"] == "/deploy is not a valid command here. Try /rollback help."
    ts = scene.slack.store_message(scene.slack.channels[CHANNEL], {"user": DEV, "text": "x"})["ts"]
    in_thread = await do(session, page, "send", text="/rollback 0004", thread_ts=ts)
    assert "not supported in threads" in in_thread["said"]
    assert len(bot) == 1


async def test_a_reply_stands_in_its_thread(scene: QuietScene, session: aiohttp.ClientSession, page: Page, bot: list[Json]) -> None:
    ts = (await client(scene).chat_postMessage(channel=CHANNEL, text="card"))["ts"]

    await do(session, page, "send", text="noted", thread_ts=ts)

    assert [each["text"] for each in scene.slack.thread(ts)] == ["card", "noted"]


async def test_buttons_and_boxes_are_pressed_by_whoever_acts(scene: QuietScene, session: aiohttp.ClientSession, page: Page, bot: list[Json]) -> None:
    ts = (await client(scene).chat_postMessage(channel=CHANNEL, text="card", blocks=CARD))["ts"]

    assert (await do(session, page, "press", DBA, ts=ts, block_id="b", action_id="approve"))["ok"]
    assert (await do(session, page, "tick", DEV, ts=ts, block_id="b", action_id="boxes", values=["a"]))["ok"]

    assert [(each["user"]["id"], each["actions"][0]["action_id"]) for each in bot] == [(DBA, "approve"), (DEV, "boxes")]
    gone = await do(session, page, "press", ts=ts, block_id="b", action_id="reject")
    assert gone["said"] == "The message has no reject; there is: b/approve, b/boxes."


async def test_a_form_is_submitted_closed_and_refused_when_something_is_missing(
    scene: QuietScene, session: aiohttp.ClientSession, page: Page, bot: list[Json]
) -> None:  # fmt: skip
    view = (await client(scene).views_open(trigger_id=scene.slack.new_trigger(DBA), view=MODAL))["view"]["id"]

    assert (await do(session, page, "submit", DBA, view=view, values={"reason": None}))["said"] == "Reason is required."
    assert not (await do(session, page, "submit", DEV, view=view, values={"reason": "mine"}))["ok"]
    assert (await do(session, page, "submit", DBA, view=view, values={"reason": "fix forward"}))["ok"]

    assert bot[-1]["view"]["state"]["values"]["reason"]["reason"]["value"] == "fix forward"
    assert (await state(session, page, DBA))["views"] == []
    view = (await client(scene).views_open(trigger_id=scene.slack.new_trigger(DBA), view=MODAL))["view"]["id"]
    await do(session, page, "close", DBA, view=view)
    assert (await state(session, page, DBA))["views"] == []


async def test_without_a_bot_people_are_told_so(scene: QuietScene, session: aiohttp.ClientSession, page: Page) -> None:
    answer = await do(session, page, "send", text="/rollback 0004")

    assert answer == {"ok": False, "said": "/rollback failed: Backout is not connected. Start the bot, then try again."}
    assert (await do(session, page, "send", text="a plain message"))["ok"]


async def test_slack_can_be_told_to_misbehave(scene: QuietScene, session: aiohttp.ClientSession, page: Page, bot: list[Json]) -> None:
    assert "wait 3 s" in (await do(session, page, "trouble", kind="429"))["said"]
    async with session.post(f"{scene.slack.api_url}chat.postMessage", headers={"Authorization": f"Bearer {scene.slack.bot_token}"}) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "3")

    await do(session, page, "trouble", kind="503-after")
    form = {"channel": CHANNEL, "text": "stored"}
    async with session.post(
        f"{scene.slack.api_url}chat.postMessage", json=form, headers={"Authorization": f"Bearer {scene.slack.bot_token}"}
    ) as answer:
        assert answer.status == 503
    assert [each["text"] for each in scene.slack.messages(CHANNEL)] == ["stored"]

    await do(session, page, "send", text="/rollback help")
    assert (await do(session, page, "trouble", kind="redeliver"))["said"].startswith("The last delivery was sent once more")
    assert [each["text"] for each in bot] == ["help", "help"]
    assert not (await do(session, page, "trouble", kind="earthquake"))["ok"]


async def test_nonsense_is_refused_and_changes_nothing(scene: QuietScene, session: aiohttp.ClientSession, page: Page) -> None:
    assert await do(session, page, "kill") == {"ok": False, "said": "The bot does not run."}
    assert (await do(session, page, "send", "U0NOBODY", text="hello"))["said"] == "Nobody here is U0NOBODY."
    assert (await do(session, page, "send", text=" "))["said"] == "There is nothing to send."
    assert (await do(session, page, "send", text="x" * 12_001))["ok"] is False
    assert (await do(session, page, "press"))["said"] == "Ts is missing."
    for body, status in (("{", 400), ("[]", 400)):
        async with session.post(f"{page.url}app/do/send", data=body, headers={"Content-Type": "application/json"}) as answer:
            assert answer.status == status
    async with session.post(f"{page.url}app/do/explode", json={"as": DEV}) as answer:
        assert answer.status == 404
    assert scene.slack.messages(CHANNEL) == []
