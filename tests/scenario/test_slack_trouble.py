"""Slack on a bad day: the run goes on, nothing is said twice, and the channel catches up."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from tests.harness import CHANNEL, Bot
from tests.scenario.conftest import MakeBot
from tests.scenario.parts import ASK, approve, ask, denied, ends, payload, run_of


def said_twice(bot: Bot) -> list[str]:
    """Texts that stand more than once in the channel, the card's thread, or somebody's direct messages."""
    card = bot.card()
    assert card is not None
    shown = [("thread", str(message["text"])) for message in bot.slack.thread(card["ts"])]
    shown += [("channel", str(message["text"])) for message in bot.slack.messages(CHANNEL)]
    shown += [(user, str(message["text"])) for user in bot.slack.users for message in bot.slack.dms(user)]
    return [text for (_, text), times in Counter(shown).items() if times > 1]


async def test_rate_limits_and_failures_before_and_after_storing_say_nothing_twice(make_bot: MakeBot) -> None:
    bot = await make_bot()
    slack = bot.slack
    slack.fail_next("chat.postMessage", 429, retry_after=1)
    slack.fail_next("chat.postMessage", 503, store_first=True)
    card = await ask(bot)
    await bot.until(lambda: bot.slack.dms("U0DBA"), what="the DBA asked")
    assert len(bot.cards()) == 1
    # The same in the thread, with an answer that is cut off, and for an edit of the card.
    slack.fail_next("chat.postMessage", 503)
    slack.fail_next("chat.postMessage", 0, store_first=True)
    slack.fail_next("chat.update", 503, store_first=True)
    slack.fail_next("upload", 503)
    await approve(bot, "U0DBA")
    await ends(bot, "succeeded")
    assert [message["ts"] for message in slack.messages(CHANNEL)] == [card["ts"]]
    assert said_twice(bot) == []
    assert len([file for file in slack.files() if file.name == f"post-mortem-{run_of(card)}.md"]) == 1


async def test_while_slack_is_down_the_run_goes_on_and_the_channel_catches_up(make_bot: MakeBot) -> None:
    bot = await make_bot()
    card = await ask(bot)
    run = run_of(card)
    await bot.until(lambda: bot.slack.dms("U0DBA"), what="the DBA asked")
    await bot.slack.go_down()
    code, output = await bot.run("approve", run, user="U0DBA")
    assert code == 0, output
    await bot.until(lambda: bot.journaled(f"select 1 from backout.runs where id = '{run}' and state = 'succeeded'"), what="done without Slack")
    assert bot.stands() == "0004"
    assert bot.state() == "awaiting_approval", "Slack knows nothing yet"
    await bot.slack.come_back()
    done = await ends(bot, "succeeded")
    assert done["ts"] == card["ts"]
    thread = bot.thread()
    for words in ("approved", "Started", "take a restore point", "downgrade", "verify", "Report."):
        assert words in thread, words
    assert said_twice(bot) == []
    assert any("post-mortem" in file["name"] for file in bot.slack.thread(card["ts"])[-1]["files"])


async def test_a_bot_that_starts_while_slack_is_down_is_there_when_slack_is(make_bot: MakeBot) -> None:
    bot = await make_bot()
    await ask(bot)
    await bot.kill()
    await bot.slack.go_down()
    starting = asyncio.create_task(bot.start())
    code, output = await bot.run("status")
    assert code == 0, output
    await bot.slack.come_back()
    await starting
    await bot.until(lambda: bot.slack.sockets, what="connected")
    await approve(bot, "U0DBA")
    await ends(bot, "succeeded")


async def test_methods_that_are_not_there_cost_the_nicety_and_not_the_run(make_bot: MakeBot) -> None:
    bot = await make_bot(http=True)
    for method in (
        "files.getUploadURLExternal", "files.completeUploadExternal", "conversations.open", "users.info", "views.update", "chat.postEphemeral",
        "usergroups.users.list", "conversations.replies", "conversations.history",
    ):  # fmt: skip
        bot.slack.fail_next(method, 200, error="unknown_method", times=1000)
    bot.config["roles"]["dba"] = {"title": "DBA on call", "usergroup": "S0LEADS", "users": ["U0DBA"]}
    await bot.kill()
    await bot.start()
    card = await ask(bot)
    await bot.until(lambda: bot.slack.dms("U0DBA"), what="the DBA asked, by the other way")
    bot.slack.fail_next("response_url", 500)
    await bot.slack.click(card, "approve", "U0LEAD")  # of the user group, which nobody can look up
    await bot.until(lambda: bot.events("denied"), what="denied")
    await bot.until(lambda: bot.slack.dms("U0LEAD"), what="told so by the last way")
    assert bot.state() == "awaiting_approval"
    await approve(bot, "U0DBA")  # named: holds it without Slack
    await bot.card_in("succeeded")
    title = "# Post-mortem: shop 0005 -&gt; 0004: succeeded"
    await bot.until(lambda: title in bot.thread(), what="the report as text")
    code, report = await bot.run("report", run_of(card))
    assert code == 0
    assert report.splitlines()[-1] in bot.thread(), "to its last line"


async def test_a_user_group_that_can_not_be_looked_up_has_no_members(make_bot: MakeBot) -> None:
    bot = await make_bot()
    card = await ask(bot, "0004 sev critical because checkout is down")
    bot.slack.fail_next("usergroups.users.list", 503, times=1000)
    await denied(bot, "U0LEAD", "approve", bot.slack.click(card, "approve", "U0LEAD"))
    await approve(bot, "U0DBA")
    await bot.until(lambda: bot.events("approved"), what="approved by the named one")
    assert bot.events("started") == []


async def test_what_slack_delivers_twice_is_done_once(make_bot: MakeBot) -> None:
    bot = await make_bot(http=True)
    await bot.ask(ASK)
    asked = bot.slack.sent[-1]
    assert (await bot.slack.resend(asked)).ok
    assert (await bot.slack.redeliver(asked)).ok
    card = await bot.card_in("awaiting_approval")
    assert (await bot.slack.redeliver(asked)).ok
    await bot.slack.say(CHANNEL, "U0DEV", "noted once", thread_ts=card["ts"])
    assert (await bot.slack.redeliver()).ok
    await bot.until(lambda: bot.events("note"), what="noted")
    await bot.slack.click(card, "approve", "U0DBA")
    pressed = bot.slack.sent[-1]
    assert (await bot.slack.resend(pressed)).ok
    assert (await bot.slack.redeliver(pressed)).ok
    await ends(bot, "succeeded")
    assert bot.journaled("select count(*) from backout.runs") == [(1,)]
    assert (len(bot.events("approved")), len(bot.events("note")), len(bot.events("denied"))) == (1, 1, 0)
    # Over a restart, too: the journal remembers, not the process.
    await bot.kill()
    await bot.start()
    assert (await bot.slack.redeliver(asked)).ok
    await bot.ask("status")
    await bot.told("U0DEV", run_of(card))
    assert bot.journaled("select count(*) from backout.runs") == [(1,)]
    assert payload(bot.card() or {})["state"] == "succeeded"
    assert all(ack.ok and not ack.body for ack in bot.slack.acks), "every ack is empty"


async def test_sockets_that_drop_are_replaced(make_bot: MakeBot) -> None:
    bot = await make_bot()
    card = await ask(bot)
    for reason in ("refresh_requested", None):
        await bot.slack.drop_sockets(reason)
        await bot.until(lambda: bot.slack.sockets, what=f"connected again after {reason}")
        before = len(bot.slack.ephemerals("U0DEV"))

        async def answered(before: int = before) -> bool:
            # What is sent into a socket that is going is lost with it; a person asks again.
            await bot.ask("status")
            return len(bot.slack.ephemerals("U0DEV")) > before

        await bot.until(answered, what="answered")
    await bot.slack.click(card, "approve", "U0DBA")
    await ends(bot, "succeeded")


async def test_a_request_that_can_not_be_stored_is_said_so_and_never_done(make_bot: MakeBot) -> None:
    bot = await make_bot(http=True, start=False)
    async with stalling(bot) as may_pass:
        await bot.start()
        may_pass.clear()
        ack = await bot.slack.command(CHANNEL, "U0DEV", "/rollback", ASK)
        assert ack.ok
        assert "nothing was done" in ack.body
        may_pass.set()
        # The same words, asked again, are one run; the lost ones are none.
        await ask(bot)
        assert bot.journaled("select count(*) from backout.runs") == [(1,)]


@asynccontextmanager
async def stalling(bot: Bot) -> AsyncIterator[asyncio.Event]:
    """The bot reaches its journal through here, while the event is set."""
    may_pass, server_at = asyncio.Event(), urlsplit(bot.journal.url())
    may_pass.set()
    writers: list[asyncio.StreamWriter] = []

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await may_pass.wait()
            writer.write(data)
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(server_at.hostname, server_at.port)
        writers.extend((writer, back))
        await asyncio.gather(pipe(reader, back), pipe(there, writer), return_exceptions=True)

    proxy = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    bot.environ["BACKOUT_DATABASE_URL"] = bot.journal.model_copy(update={"port": port}).url()
    try:
        yield may_pass
    finally:
        await bot.kill()
        may_pass.set()
        proxy.close()
        for writer in writers:
            writer.close()
        await proxy.wait_closed()
