"""The local Slack against a real bolt app over HTTP and Socket Mode, and against everything that Slack refuses."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from slack_bolt.adapter.socket_mode.aiohttp import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncApp
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient

from playground.slack import NotPossible, SlackStandIn, render, render_thread

Json = dict[str, Any]
CHANNEL, ASKER, DBA, STRANGER = "C0INCIDENT", "U0ASKER", "U0DBA", "U0STRANGER"


def plain(text: str) -> Json:
    return {"type": "plain_text", "text": text}


def mrkdwn(text: str) -> Json:
    return {"type": "mrkdwn", "text": text}


def section(text: str) -> Json:
    return {"type": "section", "text": mrkdwn(text)}


def button(action_id: str = "go", **more: Any) -> Json:
    return {"type": "button", "action_id": action_id, "text": plain("Go"), **more}


def actions(*elements: Json, **more: Any) -> Json:
    return {"type": "actions", "elements": list(elements), **more}


def option(value: str = "a", text: str = "A") -> Json:
    return {"text": plain(text), "value": value}


def select(*options: Json, **more: Any) -> Json:
    return {"type": "static_select", "action_id": "pick", "options": list(options), **more}


def boxes(*options: Json, **more: Any) -> Json:
    return {"type": "checkboxes", "action_id": "boxes", "options": list(options), **more}


def text_input(**more: Any) -> Json:
    return {"type": "plain_text_input", "action_id": "reason", **more}


def input_block(element: Json | None = None, **more: Any) -> Json:
    return {"type": "input", "block_id": "reason", "label": plain("Reason"), "element": element or text_input(), **more}


def modal(*blocks: Json, **more: Any) -> Json:
    return {"type": "modal", "callback_id": "reject", "title": plain("Reject"), "submit": plain("Reject"), "blocks": list(blocks), **more}


def confirm(**more: Any) -> Json:
    return {"title": plain("Sure?"), "text": plain("It starts."), "confirm": plain("Yes"), "deny": plain("No"), **more}


def table(rows: int, columns: int) -> Json:
    return {"type": "table", "rows": [[{"type": "raw_text", "text": "x"}] * columns] * rows}


@pytest.fixture
async def slack() -> AsyncIterator[SlackStandIn]:
    # The ack's deadline is generous: this file is about what arrives, and machines that run tests are slow.
    async with SlackStandIn(ack_within=30) as slack:
        slack.add_user(ASKER, "Ana")
        slack.add_user(DBA, "Dana")
        slack.add_user(STRANGER, "Sam", team="T0OTHER")
        slack.add_channel(CHANNEL, [ASKER, DBA, STRANGER])
        slack.add_usergroup("S0LEADS", [DBA])
        yield slack


@pytest.fixture
async def client(slack: SlackStandIn) -> AsyncWebClient:
    return AsyncWebClient(token=slack.bot_token, base_url=slack.api_url)


async def refusal(call: Awaitable[Any]) -> Json:
    """The body of Slack's refusal."""
    with pytest.raises(SlackApiError) as caught:
        await call
    body = caught.value.response.data
    assert isinstance(body, dict)
    assert body["ok"] is False
    return body


async def error_of(call: Awaitable[Any]) -> str:
    return str((await refusal(call))["error"])


# ------------------------------------------------------------------ a real bot


CARD = [
    {"type": "header", "text": plain("shop")},
    section("0005 -> 0004"),
    actions(button("approve", text=plain("Approve"), value="run:digest", confirm=confirm()), button("reject"), block_id="backout:run"),
    {"type": "section", "block_id": "list", "text": plain("Checklist"), "accessory": boxes(option("told", "Told"), option("froze", "Froze"))},
]  # fmt: skip


class Bot:
    """A minimal bot on bolt; remembers what it was given."""

    def __init__(self, slack: SlackStandIn) -> None:
        self.heard: list[tuple[str, Json]] = []
        self.headers: list[Any] = []
        self.replies: dict[str, Json] = {}
        client = AsyncWebClient(token=slack.bot_token, base_url=slack.api_url)
        self.app = AsyncApp(client=client, signing_secret=slack.signing_secret)
        self.app.command("/rollback")(self.command)
        self.app.action("approve")(self.approve)
        self.app.action("reject")(self.reject)
        self.app.action("boxes")(self.boxes)
        self.app.view("reject")(self.submitted)
        self.app.event("message")(self.message)
        self.app.event("app_mention")(self.message)

    async def command(self, ack: Any, body: Json, client: AsyncWebClient, req: Any) -> None:
        self.heard.append(("command", body))
        self.headers.append(req.headers)
        if body["text"] in self.replies:
            await ack(**self.replies[body["text"]])
            return
        await ack()
        await client.chat_postMessage(channel=body["channel_id"], text="shop: 0005 -> 0004", blocks=CARD, metadata=METADATA)

    async def approve(self, ack: Any, body: Json, client: AsyncWebClient, respond: Any) -> None:
        self.heard.append(("approve", body))
        await ack()
        await client.chat_update(channel=body["channel"]["id"], ts=body["message"]["ts"], text="running", blocks=[section("running")])
        await respond(text="Thank you.", response_type="ephemeral", replace_original=False)

    async def reject(self, ack: Any, body: Json, client: AsyncWebClient) -> None:
        self.heard.append(("reject", body))
        await ack()
        await client.views_open(trigger_id=body["trigger_id"], view=modal(input_block(), private_metadata=body["message"]["ts"]))

    async def boxes(self, ack: Any, body: Json) -> None:
        self.heard.append(("boxes", body))
        await ack()

    async def submitted(self, ack: Any, body: Json, view: Json, client: AsyncWebClient) -> None:
        self.heard.append(("submitted", body))
        reason = view["state"]["values"]["reason"]["reason"]["value"]
        if reason == "no":
            await ack(response_action="errors", errors={"reason": "Say more."})
            return
        if reason in self.replies:
            await ack(**self.replies[reason])
            return
        await ack()
        await client.chat_postMessage(channel=CHANNEL, thread_ts=view["private_metadata"], text=f"Rejected: {reason}")

    async def message(self, body: Json) -> None:
        self.heard.append(("event", body))


TOO_MUCH = {"event_type": "x", "event_payload": {"x": "x" * 16_000}}
METADATA = {"event_type": "backout_card", "event_payload": {"run": "r1", "seq": 1}}


async def over_http(slack: SlackStandIn, bot: Bot) -> Callable[[], Awaitable[None]]:
    runner = web.AppRunner(bot.app.web_app(path="/slack/events"), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    slack.listen_http(f"http://127.0.0.1:{runner.addresses[0][1]}/slack/events")
    return runner.cleanup


async def over_socket(slack: SlackStandIn, bot: Bot) -> Callable[[], Awaitable[None]]:
    opener = AsyncWebClient(token=slack.app_token, base_url=slack.api_url)
    handler = AsyncSocketModeHandler(bot.app, slack.app_token, web_client=opener, ping_interval=0.2)
    await handler.connect_async()  # type: ignore[no-untyped-call]
    await slack.wait_for(lambda: slack.sockets == 1)
    return handler.close_async


@pytest.fixture(params=[over_http, over_socket], ids=["http", "socket"])
async def bot(slack: SlackStandIn, request: pytest.FixtureRequest) -> AsyncIterator[Bot]:
    bot = Bot(slack)
    stop = await request.param(slack, bot)
    yield bot
    await stop()


@pytest.fixture
async def http_bot(slack: SlackStandIn) -> AsyncIterator[Bot]:
    bot = Bot(slack)
    stop = await over_http(slack, bot)
    yield bot
    await stop()


@pytest.fixture
async def socket_bot(slack: SlackStandIn) -> AsyncIterator[Bot]:
    bot = Bot(slack)
    stop = await over_socket(slack, bot)
    yield bot
    await stop()


async def card(slack: SlackStandIn) -> Json:
    ack = await slack.command(CHANNEL, ASKER, "/rollback", "0004 sev high because it broke")
    assert ack.ok, ack
    return (await slack.wait_for(lambda: slack.messages(CHANNEL)))[-1]


async def acked_in_the_end(slack: SlackStandIn) -> None:
    """The SDK reconnects for the disconnect frame and once more for the close: what falls in between is delivered again, as Slack does."""
    async with asyncio.timeout(120):
        await slack.wait_for(lambda: slack.sockets, timeout=60)
        ack = await slack.command(CHANNEL, ASKER, "/rollback", "0004")
        while not ack.ok:
            await slack.wait_for(lambda: slack.sockets, timeout=60)
            ack = await slack.redeliver()


async def test_a_command_is_acked_empty_and_answered_with_a_card(slack: SlackStandIn, bot: Bot) -> None:
    message = await card(slack)
    assert [ack.body for ack in slack.acks] == [""]
    assert message["metadata"] == METADATA
    assert message["user"] == slack.bot_user
    _, body = bot.heard[0]
    assert (body["command"], body["text"]) == ("/rollback", "0004 sev high because it broke")
    assert (body["user_id"], body["channel_id"], body["team_id"]) == (ASKER, CHANNEL, slack.team_id)


async def test_a_press_carries_the_whole_payload_and_the_bot_edits_its_card(slack: SlackStandIn, bot: Bot) -> None:
    message = await card(slack)
    assert (await slack.click(message, "approve", DBA)).ok
    await slack.wait_for(lambda: "approve" not in str(slack.messages(CHANNEL)[0]["blocks"]))
    private = await slack.wait_for(lambda: slack.ephemerals(DBA))
    assert private[0]["text"] == "Thank you."
    assert slack.ephemerals(ASKER) == []
    _, body = bot.heard[-1]
    assert body["user"]["team_id"] == slack.team_id
    assert body["message"]["ts"] == body["container"]["message_ts"] == message["ts"]
    action = body["actions"][0]
    assert (action["action_id"], action["block_id"], action["value"], action["type"]) == ("approve", "backout:run", "run:digest", "button")
    assert float(action["action_ts"]) > float(message["ts"])
    assert body["response_url"].startswith("http://127.0.0.1:")
    assert body["channel"]["id"] == CHANNEL


async def test_a_modal_is_opened_refused_and_submitted(slack: SlackStandIn, bot: Bot) -> None:
    message = await card(slack)
    assert (await slack.click(message, "reject", DBA)).ok
    view = (await slack.wait_for(lambda: slack.views(DBA)))[-1]
    first = await slack.submit(view, {"reason": "no"}, DBA)
    assert first.ok
    assert slack.views(DBA)[-1]["errors"] == {"reason": "Say more."}
    assert (await slack.submit(view, {"reason": "the data is wanted"}, DBA)).ok
    assert slack.views(DBA) == []
    reply = (await slack.wait_for(lambda: slack.thread(message["ts"])[1:]))[0]
    assert reply["text"] == "Rejected: the data is wanted"
    assert reply["thread_ts"] == message["ts"]
    assert len(slack.messages(CHANNEL)) == 1
    assert slack.views(ASKER) == []


@pytest.mark.parametrize(
    ("reply", "titles", "problem"),
    [
        ({"response_action": "update", "view": modal(section("done"), title=plain("Done"))}, ["Done"], None),
        ({"response_action": "push", "view": modal(section("more"), title=plain("More"))}, ["Reject", "More"], None),
        ({"response_action": "clear"}, [], None),
        ({"response_action": "errors", "errors": {"other": "x"}}, ["Reject"], "errors must name input blocks of the view"),
        ({"response_action": "update", "view": modal(section(""))}, ["Reject"], "invalid_arguments: must be more than 0 characters"),
    ],
    ids=["update", "push", "clear", "errors for nothing", "an invalid view"],
)
async def test_what_the_ack_of_a_form_asks_for_happens_to_the_view(
    slack: SlackStandIn, bot: Bot, reply: Json, titles: list[str], problem: str | None
) -> None:
    bot.replies["special"] = reply
    await slack.click(await card(slack), "reject", DBA)
    view = (await slack.wait_for(lambda: slack.views(DBA)))[-1]
    ack = await slack.submit(view, {"reason": "special"}, DBA)
    assert [view["title"]["text"] for view in slack.views(DBA)] == titles
    assert (ack.problem or "").startswith(problem or "")
    assert ack.ok is (problem is None)


async def test_an_ack_with_words_is_shown_to_the_asker_and_recorded(slack: SlackStandIn, bot: Bot) -> None:
    bot.replies["loud"] = {"text": "Not empty."}
    ack = await slack.command(CHANNEL, ASKER, "/rollback", "loud")
    assert "Not empty." in ack.body
    assert [message["text"] for message in slack.ephemerals(ASKER)] == ["Not empty."]


async def test_ticked_boxes_arrive_in_the_action_and_in_the_state(slack: SlackStandIn, bot: Bot) -> None:
    message = await card(slack)
    await slack.check(message, "boxes", ["froze"], DBA)
    _, body = bot.heard[-1]
    assert [chosen["value"] for chosen in body["actions"][0]["selected_options"]] == ["froze"]
    assert [chosen["value"] for chosen in body["state"]["values"]["list"]["boxes"]["selected_options"]] == ["froze"]


async def test_a_mention_is_heard_as_message_and_as_mention(slack: SlackStandIn, bot: Bot) -> None:
    assert (await slack.say(CHANNEL, ASKER, f"<@{slack.bot_user}> status")).ok
    await slack.wait_for(lambda: len(bot.heard) == 2)
    assert [body["event"]["type"] for _, body in bot.heard] == ["message", "app_mention"]


async def test_an_event_the_app_is_not_subscribed_to_is_not_sent(slack: SlackStandIn, bot: Bot) -> None:
    slack.events = frozenset({"app_mention"})
    with pytest.raises(NotPossible, match="not subscribed"):
        await slack.say(CHANNEL, ASKER, "hello")
    assert slack.sent == []


async def test_a_retry_carries_its_number(slack: SlackStandIn, bot: Bot) -> None:
    await card(slack)
    await slack.redeliver()
    assert [headers.get("x-slack-retry-num") for headers in bot.headers] == [None, ["1"]]
    assert bot.headers[1]["x-slack-retry-reason"] == ["http_timeout"]
    assert bot.heard[0][1]["trigger_id"] == bot.heard[1][1]["trigger_id"]


async def test_the_same_bytes_can_be_sent_twice(slack: SlackStandIn, http_bot: Bot) -> None:
    await card(slack)
    assert (await slack.resend()).ok
    assert len(http_bot.heard) == 2
    assert http_bot.headers[0]["x-slack-signature"] == http_bot.headers[1]["x-slack-signature"]


async def test_a_wrong_signature_does_not_get_through_to_the_bot(slack: SlackStandIn, http_bot: Bot) -> None:
    await card(slack)
    sent = copy.deepcopy(slack.sent[-1])
    sent.headers["X-Slack-Signature"] = "v0=" + "0" * 64
    assert (await slack.resend(sent)).status == 401
    assert len(http_bot.heard) == 1


async def test_an_old_card_can_be_pressed_and_the_current_one_has_no_such_button(slack: SlackStandIn, bot: Bot) -> None:
    old = await card(slack)
    await slack.click(old, "approve", DBA)
    await slack.wait_for(lambda: slack.messages(CHANNEL)[0]["text"] == "running")
    with pytest.raises(NotPossible, match="has no approve"):
        await slack.click(old, "approve", DBA)
    assert (await slack.click(old, "approve", DBA, stale=True, value="run:forged")).ok
    assert bot.heard[-1][1]["actions"][0]["value"] == "run:forged"


async def test_a_foreigner_keeps_their_own_team(slack: SlackStandIn, bot: Bot) -> None:
    message = await card(slack)
    await slack.click(message, "approve", STRANGER)
    _, body = bot.heard[-1]
    assert body["user"]["team_id"] == "T0OTHER"
    assert body["team"]["id"] == slack.team_id


async def test_a_command_that_bolt_does_not_know_is_a_failed_ack(slack: SlackStandIn, http_bot: Bot) -> None:
    ack = await slack.command(CHANNEL, ASKER, "/unknown", "")
    assert (ack.ok, ack.status, ack.problem) == (False, 404, "http_status 404")


async def test_a_bot_that_is_not_there_is_reported_not_raised(slack: SlackStandIn) -> None:
    assert (await slack.command(CHANNEL, ASKER, "/rollback", "0004")).problem == "no socket is open"
    slack.listen_http("http://127.0.0.1:1/slack/events")
    ack = await slack.command(CHANNEL, ASKER, "/rollback", "0004")
    assert ack.status == 0
    assert "dispatch_failed" in str(ack.problem)


async def test_an_ack_that_does_not_come_is_a_timeout(slack: SlackStandIn) -> None:
    slack.sender.ack_within = 0.05
    async with aiohttp.ClientSession() as session:
        url = await AsyncWebClient(token=slack.app_token, base_url=slack.api_url).apps_connections_open(app_token=slack.app_token)
        async with session.ws_connect(url["url"]) as socket:
            assert (await socket.receive_json())["type"] == "hello"
            assert (await slack.command(CHANNEL, ASKER, "/rollback", "0004")).problem == "operation_timeout"


async def test_an_envelope_goes_to_one_socket_of_several(slack: SlackStandIn) -> None:
    opener = AsyncWebClient(token=slack.app_token, base_url=slack.api_url)
    async with aiohttp.ClientSession() as session:
        urls = [(await opener.apps_connections_open(app_token=slack.app_token))["url"] for _ in range(2)]
        async with session.ws_connect(urls[0]) as first, session.ws_connect(urls[1]) as second:
            assert [(await socket.receive_json())["num_connections"] for socket in (first, second)] == [1, 2]

            async def answer(socket: aiohttp.ClientWebSocketResponse) -> int:
                got = 0
                async for frame in socket:
                    got += 1
                    await socket.send_json({"envelope_id": json.loads(frame.data)["envelope_id"]})
                return got

            counts = [asyncio.create_task(answer(socket)) for socket in (first, second)]
            for _ in range(4):
                assert (await slack.command(CHANNEL, ASKER, "/rollback", "0004")).ok
            await slack.go_down()
            assert sum([await count for count in counts]) == 4


async def test_a_dropped_socket_comes_back_by_itself(slack: SlackStandIn, socket_bot: Bot) -> None:
    await slack.drop_sockets()
    await acked_in_the_end(slack)


async def test_an_expired_socket_address_is_refused(slack: SlackStandIn) -> None:
    url = (await AsyncWebClient(token=slack.app_token, base_url=slack.api_url).apps_connections_open(app_token=slack.app_token))["url"]
    slack.forward(31)
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(url)
    assert slack.sockets == 0


# ------------------------------------------------------------------ what can't be done in Slack


async def test_people_can_only_do_what_slack_lets_them(slack: SlackStandIn, client: AsyncWebClient) -> None:
    slack.add_user("U0AWAY", "Away")
    sent = await client.chat_postMessage(channel=CHANNEL, text="x", blocks=[actions(button())])
    with pytest.raises(NotPossible, match="U0AWAY is not in"):
        await slack.command(CHANNEL, "U0AWAY", "/rollback", "0004")
    with pytest.raises(NotPossible, match="U0AWAY is not in"):
        await slack.click(sent["ts"], "go", "U0AWAY")
    trigger = slack.new_trigger(DBA)
    await client.views_open(trigger_id=trigger, view=modal(input_block(text_input(max_length=5))))
    view = slack.views(DBA)[0]
    for values, words in (({}, "reason is required"), ({"reason": "too long"}, "1 to 5|0 to 5"), ({"other": "x"}, "no input other")):
        with pytest.raises(NotPossible, match=words):
            await slack.submit(view, values, DBA)
    with pytest.raises(NotPossible, match="no such view"):
        await slack.submit(view, {"reason": "x"}, ASKER)


# ------------------------------------------------------------------ messages


async def test_every_message_has_a_ts_of_its_own_and_they_grow(client: AsyncWebClient) -> None:
    stamps = [(await client.chat_postMessage(channel=CHANNEL, text=str(n)))["ts"] for n in range(20)]
    assert stamps == sorted(set(stamps), key=float)


async def test_a_text_without_blocks_takes_the_blocks_away_and_blocks_alone_keep_the_text(slack: SlackStandIn, client: AsyncWebClient) -> None:
    ts = (await client.chat_postMessage(channel=CHANNEL, text="one", blocks=[section("one")]))["ts"]
    await client.api_call("chat.update", json={"channel": CHANNEL, "ts": ts, "blocks": [section("two")]})
    assert (slack.messages(CHANNEL)[0]["text"], "edited" in slack.messages(CHANNEL)[0]) == ("one", False)
    await client.chat_update(channel=CHANNEL, ts=ts, text="three")
    assert "blocks" not in slack.messages(CHANNEL)[0]
    assert "edited" in slack.messages(CHANNEL)[0]


async def test_metadata_stays_until_it_is_replaced_and_is_shown_only_when_asked_for(client: AsyncWebClient) -> None:
    ts = (await client.chat_postMessage(channel=CHANNEL, text="one", metadata=METADATA))["ts"]
    await client.chat_update(channel=CHANNEL, ts=ts, text="two")
    shown = await client.conversations_history(channel=CHANNEL, include_all_metadata=True)
    assert shown["messages"][0]["metadata"] == METADATA
    hidden = await client.conversations_replies(channel=CHANNEL, ts=ts)
    assert "metadata" not in hidden["messages"][0]


async def test_what_was_read_does_not_change_under_the_reader(slack: SlackStandIn, client: AsyncWebClient) -> None:
    ts = (await client.chat_postMessage(channel=CHANNEL, text="one"))["ts"]
    before = slack.messages(CHANNEL)
    await client.chat_update(channel=CHANNEL, ts=ts, text="two")
    assert before[0]["text"] == "one"


async def test_a_reply_stands_in_its_thread_and_not_in_the_channel(slack: SlackStandIn, client: AsyncWebClient) -> None:
    ts = (await client.chat_postMessage(channel=CHANNEL, text="card"))["ts"]
    reply = (await client.chat_postMessage(channel=CHANNEL, text="reply", thread_ts=ts))["ts"]
    await client.chat_postMessage(channel=CHANNEL, text="reply to it", thread_ts=reply)
    assert [message["text"] for message in slack.thread(ts)] == ["card", "reply", "reply to it"]
    assert [message["text"] for message in slack.messages(CHANNEL)] == ["card"]
    first = await client.conversations_replies(channel=CHANNEL, ts=ts, limit=2)
    rest = await client.conversations_replies(channel=CHANNEL, ts=ts, limit=2, cursor=first["response_metadata"]["next_cursor"])
    assert [message["text"] for message in [*first["messages"], *rest["messages"]]] == ["card", "reply", "reply to it"]


async def test_a_private_message_is_seen_by_one_person(slack: SlackStandIn, client: AsyncWebClient) -> None:
    await client.chat_postEphemeral(channel=CHANNEL, user=DBA, text="for you")
    assert [message["text"] for message in slack.ephemerals(DBA)] == ["for you"]
    assert slack.ephemerals(ASKER) == []
    assert slack.messages(CHANNEL) == []


async def test_a_direct_message_is_opened_once(slack: SlackStandIn, client: AsyncWebClient) -> None:
    opened = [(await client.conversations_open(users=DBA))["channel"]["id"] for _ in range(2)]
    assert opened[0] == opened[1]
    assert opened[0].startswith("D")
    await client.chat_postMessage(channel=opened[0], text="hello")
    await client.chat_postMessage(channel=DBA, text="again")
    assert [message["text"] for message in slack.dms(DBA)] == ["hello", "again"]


async def test_a_file_is_uploaded_and_shared_in_a_thread(slack: SlackStandIn, client: AsyncWebClient) -> None:
    ts = (await client.chat_postMessage(channel=CHANNEL, text="card"))["ts"]
    await client.files_upload_v2(channel=CHANNEL, thread_ts=ts, filename="post-mortem-r1.md", content="# Post-mortem")
    (file,) = slack.files()
    assert (file.name, file.text, file.channel, file.thread_ts) == ("post-mortem-r1.md", "# Post-mortem", CHANNEL, ts)
    assert "post-mortem-r1.md" in slack.render_thread(ts)


async def test_people_and_groups_are_as_they_were_added(slack: SlackStandIn, client: AsyncWebClient) -> None:
    assert (await client.usergroups_users_list(usergroup="S0LEADS"))["users"] == [DBA]
    assert (await client.users_info(user=STRANGER))["user"]["team_id"] == "T0OTHER"
    assert (await client.auth_test())["user_id"] == slack.bot_user


async def test_a_method_takes_query_form_and_json(slack: SlackStandIn) -> None:
    header = {"Authorization": f"Bearer {slack.bot_token}"}
    blocks = json.dumps([section("x")])
    async with aiohttp.ClientSession() as session:
        url = slack.api_url + "chat.postMessage"
        answers = [
            await session.get(url, params={"channel": CHANNEL, "blocks": blocks}, headers=header),
            await session.post(url, data={"token": slack.bot_token, "channel": CHANNEL, "blocks": blocks}),
            await session.post(url, json={"channel": CHANNEL, "blocks": [section("x")]}, headers=header),
        ]
        assert [(await answer.json())["ok"] for answer in answers] == [True, True, True]
    assert len(slack.messages(CHANNEL)) == 3
    assert slack.bot_token not in str(slack.calls)


# ------------------------------------------------------------------ refusals of the Web API


@pytest.mark.parametrize(
    ("token", "method", "error"),
    [
        ("", "auth.test", "not_authed"),
        ("xoxb-somebody-else", "auth.test", "invalid_auth"),
        ("app", "chat.postMessage", "not_allowed_token_type"),
        ("bot", "apps.connections.open", "not_allowed_token_type"),
        ("bot", "admin.teams.create", "unknown_method"),
    ],
)
async def test_a_wrong_token_or_method_is_refused(slack: SlackStandIn, token: str, method: str, error: str) -> None:
    real = {"bot": slack.bot_token, "app": slack.app_token}.get(token, token)
    async with aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {real}"} if real else {}
        answer = await (await session.post(slack.api_url + method, headers=headers)).json()
    assert (answer["ok"], answer["error"]) == (False, error)
    assert slack.calls[-1].error == error


@pytest.mark.parametrize(
    ("method", "args", "error"),
    [
        ("chat.postMessage", {"channel": "C0NOWHERE", "text": "x"}, "channel_not_found"),
        ("chat.postMessage", {"channel": "C0CLOSED", "text": "x"}, "not_in_channel"),
        ("chat.postMessage", {"channel": "C0OLD", "text": "x"}, "is_archived"),
        ("chat.postMessage", {"channel": CHANNEL}, "no_text"),
        ("chat.postMessage", {"channel": CHANNEL, "text": " "}, "no_text"),
        ("chat.postMessage", {"channel": CHANNEL, "text": "x" * 40_001}, "msg_too_long"),
        ("chat.postMessage", {"channel": CHANNEL, "text": "x", "thread_ts": "1.000001"}, "thread_not_found"),
        ("chat.postMessage", {"channel": CHANNEL, "text": "x", "blocks": {}}, "invalid_blocks_format"),
        ("chat.postMessage", {"channel": CHANNEL, "text": "x", "metadata": {"event_type": "x"}}, "invalid_metadata_schema"),
        ("chat.postMessage", {"channel": CHANNEL, "text": "x", "metadata": {"event_type": "x", "event_payload": []}}, "invalid_metadata_schema"),
        ("chat.postMessage", {"channel": CHANNEL, "text": "x", "metadata": "x"}, "invalid_metadata_format"),
        ("chat.postMessage", {"channel": CHANNEL, "text": "x", "metadata": TOO_MUCH}, "metadata_too_large"),
        ("chat.update", {"channel": CHANNEL, "ts": "1.000001", "text": "x"}, "message_not_found"),
        ("chat.update", {"channel": "C0NOWHERE", "ts": "1.000001", "text": "x"}, "channel_not_found"),
        ("chat.postEphemeral", {"channel": CHANNEL, "user": "U0NOBODY", "text": "x"}, "user_not_found"),
        ("chat.postEphemeral", {"channel": CHANNEL, "user": "U0AWAY", "text": "x"}, "user_not_in_channel"),
        ("views.open", {"trigger_id": "1.2.3", "view": modal(section("x"))}, "invalid_trigger_id"),
        ("views.update", {"view_id": "V0GONE", "view": modal(section("x"))}, "not_found"),
        ("views.update", {"view": modal(section("x"))}, "invalid_arguments"),
        ("conversations.open", {"users": "U0NOBODY"}, "user_not_found"),
        ("conversations.open", {}, "users_list_not_supplied"),
        ("conversations.replies", {"channel": CHANNEL, "ts": "1.000001"}, "thread_not_found"),
        ("conversations.history", {"channel": "C0CLOSED"}, "not_in_channel"),
        ("users.info", {"user": "U0NOBODY"}, "user_not_found"),
        ("usergroups.users.list", {"usergroup": "S0NONE"}, "no_such_subteam"),
        ("files.completeUploadExternal", {"files": [{"id": "F0NONE"}]}, "file_not_found"),
        ("files.getUploadURLExternal", {"filename": "x", "length": 0}, "invalid_arguments"),
    ],
)  # fmt: skip
async def test_a_call_that_slack_would_refuse_is_refused(slack: SlackStandIn, client: AsyncWebClient, method: str, args: Json, error: str) -> None:
    slack.add_user("U0AWAY", "Away")
    slack.add_channel("C0CLOSED", [ASKER], bot=False)
    slack.add_channel("C0OLD", [ASKER], archived=True)
    assert await error_of(client.api_call(method, json=args)) == error
    assert all(slack.messages(channel) == [] for channel in slack.channels)
    assert slack.calls[-1].error == error


async def test_the_bot_cannot_edit_what_a_person_wrote(slack: SlackStandIn, client: AsyncWebClient, http_bot: Bot) -> None:
    await slack.say(CHANNEL, ASKER, "mine")
    ts = slack.messages(CHANNEL)[0]["ts"]
    assert await error_of(client.chat_update(channel=CHANNEL, ts=ts, text="yours")) == "cant_update_message"


async def test_a_private_message_cannot_be_edited(client: AsyncWebClient) -> None:
    ts = (await client.chat_postEphemeral(channel=CHANNEL, user=DBA, text="x"))["message_ts"]
    assert await error_of(client.chat_update(channel=CHANNEL, ts=ts, text="y")) == "message_not_found"


async def test_a_trigger_opens_one_view_within_three_seconds(slack: SlackStandIn, client: AsyncWebClient) -> None:
    used, late = slack.new_trigger(DBA), slack.new_trigger(DBA)
    view = modal(section("x"))
    await client.views_open(trigger_id=used, view=view)
    assert await error_of(client.views_open(trigger_id=used, view=view)) == "exchanged_trigger_id"
    slack.forward(3.1)
    assert await error_of(client.views_open(trigger_id=late, view=view)) == "expired_trigger_id"
    assert len(slack.views(DBA)) == 1


async def test_a_view_is_updated_only_with_its_newest_hash(slack: SlackStandIn, client: AsyncWebClient) -> None:
    view = (await client.views_open(trigger_id=slack.new_trigger(DBA), view=modal(section("x"))))["view"]
    await client.views_update(view_id=view["id"], hash=view["hash"], view=modal(section("y")))
    assert await error_of(client.views_update(view_id=view["id"], hash=view["hash"], view=modal(section("z")))) == "hash_conflict"
    assert slack.views(DBA)[0]["blocks"][0]["text"]["text"] == "y"


# ------------------------------------------------------------------ Block Kit

FITS: dict[str, list[Json]] = {
    "a card": CARD,
    "50 blocks": [{"type": "divider"}] * 50,
    "a section of 3000": [section("x" * 3000)],
    "fields of 2000": [{"type": "section", "fields": [mrkdwn("x" * 2000)] * 6}],
    "25 buttons": [actions(*[button(f"b{n}") for n in range(25)])],
    "the same action_id in two blocks": [actions(button()), actions(button())],
    "100 options": [actions(select(*[option(str(n)) for n in range(100)]))],
    "an initial option": [actions(select(option("a"), option("b"), initial_option=option("b")))],
    "a table of 100 x 20": [table(100, 20)],
    "markdown": [{"type": "markdown", "text": "# x"}],
    "rich text": [{"type": "rich_text", "elements": [{"type": "rich_text_preformatted", "elements": [{"type": "text", "text": "x"}]}]}],
    "13,200 characters": [section("x" * 3000)] * 4 + [section("x" * 1200)],
    "a confirm dialog": [actions(button(confirm=confirm(style="danger")))],
}

REFUSED: dict[str, tuple[list[Json], str]] = {
    "51 blocks": ([{"type": "divider"}] * 51, "no more than 50 items"),
    "an unknown block": ([{"type": "fancy"}], "unsupported type: fancy"),
    "an image": ([{"type": "image", "image_url": "https://x.org/y.png", "alt_text": "y"}], "unsupported type: image"),
    "a block that is none": (["x"], "must be an object"),  # type: ignore[list-item]
    "an unknown field": ([{"type": "divider", "colour": "red"}], "invalid additional property: colour"),
    "an unknown field of a text": ([{"type": "section", "text": {**plain("x"), "bold": True}}], "invalid additional property: bold"),
    "an empty text": ([section("")], "must be more than 0 characters"),
    "a section of 3001": ([section("x" * 3001)], "must be less than 3001 characters"),
    "a section without anything": ([{"type": "section"}], "must define either `text` or `fields`"),
    "11 fields": ([{"type": "section", "fields": [plain("x")] * 11}], "no more than 10 items"),
    "a field of 2001": ([{"type": "section", "fields": [plain("x" * 2001)]}], "must be less than 2001 characters"),
    "no fields": ([{"type": "section", "fields": []}], "at least 1 items"),
    "a header in mrkdwn": ([{"type": "header", "text": mrkdwn("x")}], "unsupported type: mrkdwn"),
    "a header of 151": ([{"type": "header", "text": plain("x" * 151)}], "must be less than 151 characters"),
    "an empty context": ([{"type": "context", "elements": []}], "at least 1 items"),
    "a context of 11": ([{"type": "context", "elements": [plain("x")] * 11}], "no more than 10 items"),
    "a button in a context": ([{"type": "context", "elements": [button()]}], "unsupported type: button"),
    "empty actions": ([actions()], "at least 1 items"),
    "26 buttons": ([actions(*[button(f"b{n}") for n in range(26)])], "no more than 25 items"),
    "an action_id twice": ([actions(button(), button())], "`action_id` go already exists"),
    "a block_id twice": ([{"type": "divider", "block_id": "x"}] * 2, "`block_id` x already exists"),
    "a block_id of 256": ([{"type": "divider", "block_id": "x" * 256}], "must be less than 256 characters"),
    "an action_id of 256": ([actions(button("x" * 256))], "must be less than 256 characters"),
    "an unknown element": ([actions({"type": "users_select", "action_id": "x"})], "unsupported type: users_select"),
    "a button's text of 76": ([actions(button(text=plain("x" * 76)))], "must be less than 76 characters"),
    "a button in mrkdwn": ([actions(button(text=mrkdwn("x")))], "unsupported type: mrkdwn"),
    "a button's value of 2001": ([actions(button(value="x" * 2001))], "must be less than 2001 characters"),
    "a button's value that is a number": ([actions(button(value=1))], "must be a string"),
    "a button's style": ([actions(button(style="green"))], "must be one of: primary, danger"),
    "a button's url of 3001": ([actions(button(url="https://" + "x" * 3000))], "must be less than 3001 characters"),
    "a button's url that is none": ([actions(button(url="x"))], "invalid url"),
    "a button without text": ([actions({"type": "button", "action_id": "x"})], "missing required field: text"),
    "a confirm without deny": ([actions(button(confirm={k: v for k, v in confirm().items() if k != "deny"}))], "missing required field: deny"),
    "a confirm's title of 101": ([actions(button(confirm=confirm(title=plain("x" * 101))))], "must be less than 101 characters"),
    "a confirm's text of 301": ([actions(button(confirm=confirm(text=plain("x" * 301))))], "must be less than 301 characters"),
    "a confirm's button of 31": ([actions(button(confirm=confirm(confirm=plain("x" * 31))))], "must be less than 31 characters"),
    "an empty select": ([actions(select())], "at least 1 items"),
    "a select without options": ([actions({"type": "static_select", "action_id": "x"})], "must define either `options` or `option_groups`"),
    "101 options": ([actions(select(*[option(str(n)) for n in range(101)]))], "no more than 100 items"),
    "an option twice": ([actions(select(option(), option()))], "`value` a already exists"),
    "an option's text of 76": ([actions(select(option("a", "x" * 76)))], "must be less than 76 characters"),
    "an option's value of 76": ([actions(select(option("x" * 76)))], "must be less than 76 characters"),
    "an initial option that is none": ([actions(select(option("a"), initial_option=option("b")))], "must be one of the options"),
    "an initial box that is none": ([actions(boxes(option("a"), initial_options=[option("b")]))], "must be one of the options"),
    "a placeholder of 151": ([actions(select(option(), placeholder=plain("x" * 151)))], "must be less than 151 characters"),
    "11 boxes": ([actions(boxes(*[option(str(n)) for n in range(11)]))], "no more than 10 items"),
    "a 21-column table": ([table(1, 21)], "no more than 20 items"),
    "a 101-row table": ([table(101, 1)], "no more than 100 items"),
    "two tables": ([table(1, 1), table(1, 1)], "only_one_table_allowed"),
    "an alert in a message": ([{"type": "alert", "text": plain("x")}], "unsupported type: alert"),
    "a min_length over max_length": ([input_block(text_input(min_length=5, max_length=4))], "must not be more than max_length"),
    "a max_length of 3001": ([input_block(text_input(max_length=3001))], "must be between 1 and 3000"),
    "a label of 2001": ([input_block(label=plain("x" * 2001))], "must be less than 2001 characters"),
    "a hint of 2001": ([input_block(hint=plain("x" * 2001))], "must be less than 2001 characters"),
}


@pytest.mark.parametrize("blocks", FITS.values(), ids=FITS)
async def test_blocks_within_the_limits_are_taken(client: AsyncWebClient, blocks: list[Json]) -> None:
    assert (await client.chat_postMessage(channel=CHANNEL, text="x", blocks=blocks))["ok"]


@pytest.mark.parametrize(("blocks", "words"), REFUSED.values(), ids=REFUSED)
async def test_blocks_beyond_the_limits_are_refused(slack: SlackStandIn, client: AsyncWebClient, blocks: list[Json], words: str) -> None:
    body = await refusal(client.chat_postMessage(channel=CHANNEL, text="x", blocks=blocks))
    assert body["error"] == "invalid_blocks"
    assert any(words in line for line in body["response_metadata"]["messages"]), body
    assert all("[json-pointer:/blocks" in line for line in body["response_metadata"]["messages"])
    assert slack.messages(CHANNEL) == []


@pytest.mark.parametrize(
    "blocks",
    [[section("x" * 3000)] * 4 + [section("x" * 1201)], [{"type": "markdown", "text": "x" * 6001}] * 2],
    ids=["13,201 characters", "12,002 of markdown"],
)
async def test_blocks_that_are_too_much_together_are_refused(client: AsyncWebClient, blocks: list[Json]) -> None:
    assert await error_of(client.chat_postMessage(channel=CHANNEL, text="x", blocks=blocks)) == "msg_blocks_too_long"


VIEWS_REFUSED: dict[str, tuple[Json, str]] = {
    "no title": ({"type": "modal", "blocks": [section("x")]}, "missing required field: title"),
    "a title of 25": (modal(section("x"), title=plain("x" * 25)), "must be less than 25 characters"),
    "a submit of 25": (modal(section("x"), submit=plain("x" * 25)), "must be less than 25 characters"),
    "a close of 25": (modal(section("x"), close=plain("x" * 25)), "must be less than 25 characters"),
    "an input without submit": ({k: v for k, v in modal(input_block()).items() if k != "submit"}, "missing required field: submit"),
    "101 blocks": (modal(*[{"type": "divider"}] * 101), "no more than 100 items"),
    "a callback_id of 256": (modal(section("x"), callback_id="x" * 256), "must be less than 256 characters"),
    "private_metadata of 3001": (modal(section("x"), private_metadata="x" * 3001), "must be less than 3001 characters"),
    "an external_id of 256": (modal(section("x"), external_id="x" * 256), "must be less than 256 characters"),
    "a type that is none": (modal(section("x"), type="window"), "must be one of: modal"),
    "an unknown field": (modal(section("x"), size="big"), "invalid additional property: size"),
    "a table": (modal(table(1, 1)), "unsupported type: table"),
    "a block_id twice": (modal(input_block(), input_block()), "`block_id` reason already exists"),
}


@pytest.mark.parametrize(("view", "words"), VIEWS_REFUSED.values(), ids=VIEWS_REFUSED)
async def test_a_view_beyond_the_limits_is_refused_and_keeps_its_trigger(slack: SlackStandIn, client: AsyncWebClient, view: Json, words: str) -> None:
    trigger = slack.new_trigger(DBA)
    body = await refusal(client.views_open(trigger_id=trigger, view=view))
    assert body["error"] == "invalid_arguments"
    assert any(words in line for line in body["response_metadata"]["messages"]), body
    assert (await client.views_open(trigger_id=trigger, view=modal(section("x"))))["ok"]


async def test_a_view_of_more_than_250_kb_is_refused(slack: SlackStandIn, client: AsyncWebClient) -> None:
    view = modal(*[section("ü" * 3000) for _ in range(50)])
    assert await error_of(client.views_open(trigger_id=slack.new_trigger(DBA), view=view)) == "view_too_large"


async def test_an_alert_stands_in_a_modal(slack: SlackStandIn, client: AsyncWebClient) -> None:
    view = modal({"type": "alert", "text": plain("Careful."), "level": "warning"})
    assert (await client.views_open(trigger_id=slack.new_trigger(DBA), view=view))["ok"]


# ------------------------------------------------------------------ response_url


async def answer_to(slack: SlackStandIn, body: Json) -> tuple[int, str]:
    """POST to the response_url of the newest thing that was sent."""
    async with aiohttp.ClientSession() as session, session.post(slack.sent[-1].payload["response_url"], json=body) as answer:
        return answer.status, await answer.text()


async def test_a_response_url_answers_five_times(slack: SlackStandIn) -> None:
    await slack.command(CHANNEL, ASKER, "/rollback", "0004")
    answers = [await answer_to(slack, {"text": str(n)}) for n in range(6)]
    assert answers == [(200, "ok")] * 5 + [(404, "used_url")]
    assert [message["text"] for message in slack.ephemerals(ASKER)] == ["0", "1", "2", "3", "4"]


async def test_a_response_url_lasts_thirty_minutes(slack: SlackStandIn) -> None:
    await slack.command(CHANNEL, ASKER, "/rollback", "0004")
    slack.forward(1801)
    assert await answer_to(slack, {"text": "late"}) == (404, "expired_url")
    assert slack.ephemerals(ASKER) == []


async def test_a_response_url_speaks_to_one_person_to_all_or_over_the_original(slack: SlackStandIn, client: AsyncWebClient) -> None:
    ts = (await client.chat_postMessage(channel=CHANNEL, text="card", blocks=[actions(button())]))["ts"]
    await slack.click(ts, "go", DBA)
    await answer_to(slack, {"text": "to one", "response_type": "ephemeral"})
    await answer_to(slack, {"text": "to all", "response_type": "in_channel"})
    await answer_to(slack, {"text": "instead", "replace_original": True})
    assert [message["text"] for message in slack.messages(CHANNEL)] == ["instead", "to all"]
    assert [message["text"] for message in slack.ephemerals(DBA)] == ["to one"]
    await answer_to(slack, {"delete_original": True})
    assert [message["text"] for message in slack.messages(CHANNEL)] == ["to all"]


async def test_a_response_url_refuses_what_a_message_may_not_be(slack: SlackStandIn) -> None:
    await slack.command(CHANNEL, ASKER, "/rollback", "0004")
    assert await answer_to(slack, {"text": ""}) == (400, "no_text")
    assert await answer_to(slack, {"text": "x", "blocks": [section("")]}) == (400, "invalid_blocks")


async def test_a_response_url_can_fail_after_it_did_what_was_asked(slack: SlackStandIn) -> None:
    await slack.command(CHANNEL, ASKER, "/rollback", "0004")
    slack.fail_next("response_url")
    slack.fail_next("response_url", store_first=True)
    assert [(await answer_to(slack, {"text": text}))[0] for text in ("lost", "kept")] == [503, 503]
    assert [message["text"] for message in slack.ephemerals(ASKER)] == ["kept"]


# ------------------------------------------------------------------ a bad day


async def test_a_503_before_storing_leaves_nothing_and_one_after_storing_leaves_the_message(slack: SlackStandIn, client: AsyncWebClient) -> None:
    slack.fail_next("chat.postMessage")
    with pytest.raises(SlackApiError):
        await client.chat_postMessage(channel=CHANNEL, text="lost")
    slack.fail_next("chat.postMessage", store_first=True)
    with pytest.raises(SlackApiError):
        await client.chat_postMessage(channel=CHANNEL, text="kept", metadata=METADATA)
    await client.chat_postMessage(channel=CHANNEL, text="fine")
    assert [message["text"] for message in slack.messages(CHANNEL)] == ["kept", "fine"]
    assert [call.error for call in slack.calls] == ["http_503", "http_503", None]


async def test_a_cut_connection_after_storing_leaves_the_message(slack: SlackStandIn) -> None:
    slack.fail_next("chat.postMessage", 0, store_first=True)
    client = AsyncWebClient(token=slack.bot_token, base_url=slack.api_url, retry_handlers=[])
    with pytest.raises(aiohttp.ClientError):
        await client.chat_postMessage(channel=CHANNEL, text="kept")
    assert [message["text"] for message in slack.messages(CHANNEL)] == ["kept"]


async def test_an_ordered_error_is_given_as_often_as_ordered(slack: SlackStandIn, client: AsyncWebClient) -> None:
    slack.fail_next("usergroups.users.list", 200, error="missing_scope", times=2)
    answers = [await error_of(client.usergroups_users_list(usergroup="S0LEADS")) for _ in range(2)]
    assert answers == ["missing_scope"] * 2
    assert (await client.usergroups_users_list(usergroup="S0LEADS"))["ok"]


async def test_a_429_says_how_long_to_wait(slack: SlackStandIn, client: AsyncWebClient) -> None:
    slack.fail_next("chat.update", 429, retry_after=7)
    with pytest.raises(SlackApiError) as caught:
        await client.chat_update(channel=CHANNEL, ts="1.000001", text="x")
    assert caught.value.response.headers["Retry-After"] == "7"
    assert caught.value.response["error"] == "ratelimited"


async def test_an_armed_limit_counts_per_channel_and_lifts_after_a_while(slack: SlackStandIn, client: AsyncWebClient) -> None:
    slack.add_channel("C0OTHER", [ASKER])
    slack.limit("chat.postMessage", 1, seconds=600)
    await client.chat_postMessage(channel=CHANNEL, text="one")
    await client.chat_postMessage(channel="C0OTHER", text="one")
    with pytest.raises(SlackApiError) as caught:
        await client.chat_postMessage(channel=CHANNEL, text="two")
    assert 0 < int(caught.value.response.headers["Retry-After"]) <= 600
    slack.forward(601)
    assert (await client.chat_postMessage(channel=CHANNEL, text="two"))["ok"]


async def test_slack_that_was_down_comes_back_at_the_same_address_with_everything(slack: SlackStandIn, client: AsyncWebClient) -> None:
    address = slack.api_url
    await client.chat_postMessage(channel=CHANNEL, text="before")
    await slack.go_down()
    with pytest.raises(aiohttp.ClientError):
        await AsyncWebClient(token=slack.bot_token, base_url=address, retry_handlers=[]).auth_test()
    await slack.come_back()
    await client.chat_postMessage(channel=CHANNEL, text="after")
    assert slack.api_url == address
    assert [message["text"] for message in slack.messages(CHANNEL)] == ["before", "after"]


async def test_a_socket_bot_survives_an_outage(slack: SlackStandIn, socket_bot: Bot) -> None:
    await slack.go_down()
    assert slack.sockets == 0
    await slack.come_back()
    await acked_in_the_end(slack)


# ------------------------------------------------------------------ reading


async def test_waiting_in_vain_shows_what_is_there(slack: SlackStandIn, client: AsyncWebClient) -> None:
    await client.chat_postMessage(channel=CHANNEL, text="the only message")
    with pytest.raises(AssertionError, match=r"(?s)not within.*the only message.*chat\.postMessage -> ok"):
        await slack.wait_for(lambda: len(slack.messages(CHANNEL)) == 2, timeout=0.05)


async def test_waiting_ends_with_the_change(slack: SlackStandIn, client: AsyncWebClient) -> None:
    waiting = asyncio.create_task(slack.wait_for(lambda: slack.messages(CHANNEL)))
    await client.chat_postMessage(channel=CHANNEL, text="x")
    assert (await waiting)[0]["text"] == "x"


def test_a_message_is_drawn_as_people_would_read_it() -> None:
    blocks = [
        {"type": "header", "text": plain("shop: 0005")},
        section("*Loss* &lt;1 column&gt;, asked by <@U0DBA>, see <https://x.org|the page>"),
        {"type": "section", "fields": [mrkdwn("*State*\nrunning")]},
        {"type": "context", "elements": [mrkdwn("since 3:00")]},
        {"type": "divider"},
        actions(button("a", text=plain("Approve")), button("r", text=plain("Reject"))),
        actions(boxes(option("a", "Told"), option("b", "Froze"), initial_options=[option("b", "Froze")])),
        table(2, 2),
    ]
    drawn = render({"text": "x", "blocks": blocks, "files": [{"name": "log.txt"}]}, {"U0DBA": "Dana"})
    assert drawn.splitlines() == [
        "shop: 0005", "==========", "*Loss* <1 column>, asked by @Dana, see the page (https://x.org)", "*State*: running", "  since 3:00",
        "-" * 40, "[Approve] [Reject]", "[ ] Told", "[x] Froze", "x  x", "x  x", "(file) log.txt",
    ]  # fmt: skip


def test_a_thread_is_drawn_with_its_replies_indented() -> None:
    drawn = render_thread([{"user": "U1", "text": "card"}, {"user": "U2", "text": "reply"}], {"U1": "backout"})
    assert drawn.splitlines() == ["backout:", "card", "  | U2:", "  | reply"]
