"""What is written down: notes, the post-mortem, hostile words, and the verifications with what they saw."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from tests.harness import CHANNEL, Bot, Json
from tests.scenario.conftest import MakeBot
from tests.scenario.parts import approve, ask, buttons, ends, execute, run_of

HOSTILE = "`rm` <!channel> <@U0CTO> *bold* <script>alert(1)</script> ```| x | </td> &amp; https://evil.example"


async def test_notes_by_command_by_message_and_by_terminal_stand_in_the_report(make_bot: MakeBot) -> None:
    bot = await make_bot()
    card = await ask(bot)
    run = run_of(card)
    await bot.ask("note traffic was switched to the standby page", "U0BYSTANDER")
    await bot.until(lambda: "traffic was switched" in bot.thread(), what="the note in the thread")
    await bot.ask(f"note {run} support knows", "U0LEAD")
    await bot.until(lambda: len(bot.events("note")) == 2, what="two notes")
    await bot.slack.say(CHANNEL, "U0SENIOR", "orders fail since 02:40, first seen by billing", thread_ts=card["ts"])
    await bot.until(lambda: len(bot.events("note")) == 3, what="three notes")
    code, _ = await bot.run("note", run, "the pager woke me", user="U0CTO")
    assert code == 0
    assert [one["by"] for one in bot.events("note")] == ["U0BYSTANDER", "U0LEAD", "U0SENIOR", "U0CTO"]
    await bot.slack.say(CHANNEL, "U0SENIOR", "this is not in the thread")
    await bot.slack.say(CHANNEL, "U0STRANGER", "a guest's words", thread_ts=card["ts"])
    await approve(bot, "U0DBA")
    await ends(bot, "succeeded")
    report = await bot.reported()
    timeline = report[report.index("## Timeline") : report.index("## Who approved")]
    places = [timeline.index(words) for words in ("traffic was switched", "support knows", "orders fail since 02:40", "the pager woke me")]
    assert places == sorted(places)
    assert "not in the thread" not in report
    assert "a guest's words" not in report
    assert bot.thread().count("orders fail since 02:40") == 1, "what stands in the thread is not said again"


async def test_the_report_is_the_last_message_and_the_same_bytes_for_ever(make_bot: MakeBot) -> None:
    bot = await make_bot(http=True)
    card = await ask(bot, f"0004 sev high because {HOSTILE}")
    run = run_of(card)
    await bot.ask(f"note {HOSTILE}", "U0BYSTANDER")
    await bot.until(lambda: bot.events("note"), what="noted")
    await approve(bot, "U0DBA")
    done = await ends(bot, "succeeded")
    report = await bot.reported()
    assert report.startswith("# Post-mortem: shop 0005 -> 0004: succeeded\n")
    last = bot.slack.thread(card["ts"])[-1]
    assert [file["name"] for file in last["files"]] == [f"post-mortem-{run}.md"]
    await bot.ask("note written after the end", "U0BYSTANDER")
    await bot.until(lambda: len(bot.events("note")) == 2, what="noted late")
    assert await bot.run("report", run) == (0, report)
    await bot.kill()
    assert await bot.run("report", run) == (0, report), "with nobody serving, too"
    # Others' words stay words: nothing pings, links, ends a code block or becomes markup.
    shown = [done, *bot.slack.thread(card["ts"])]
    for text in (found for message in shown for found in texts(message)):
        assert "<!channel>" not in text
        assert "<@U0CTO>" not in text
        assert "<script>" not in text
    assert "&lt;!channel&gt;" in "\n".join(found for message in shown for found in texts(message)), "and are shown as they were typed"
    lines = [line for line in report.splitlines() if "evil.example" in line]
    assert len(lines) >= 3, "in the summary, the request and the note"
    for line in lines:
        assert line.count("|") - line.count("\\|") in {3, 4}, "the table's own bars only"
        assert "\\`rm\\`" in line
        assert "\\<script" in line


def texts(message: Json) -> list[str]:
    """Every text that Slack would read markup in."""
    found: list[str] = [str(message.get("text", ""))]

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if value.get("type") == "mrkdwn":
                found.append(str(value["text"]))
            for part in value.values():
                walk(part)
        elif isinstance(value, list):
            for part in value:
                walk(part)

    walk(message.get("blocks", []))
    return found


def checks(bot: Bot) -> dict[str, Json]:
    """What the newest verification found, by name."""
    ((facts,),) = bot.journaled("select facts from backout.attempts where step = 'verify' order by began desc limit 1")
    return {one["name"]: one for one in facts["checks"]}


GREEN = [
    {"name": "orders", "sql": "select count(*) from orders", "expect": "same"},
    {"name": "a number", "sql": "select 41 + 1", "expect": 42},
    {"name": "a decimal", "sql": "select 1.50::numeric", "expect": 1.5},
    {"name": "a text", "sql": "select 'ready'", "expect": "ready"},
    {"name": "true", "sql": "select count(*) = 100 from orders", "expect": True},
    {"name": "null", "sql": "select null::int", "expect": None},
    {"name": "no rows", "sql": "select 1 from orders where id < 0", "expect": "none"},
    {"name": "at least", "sql": "select count(*) from orders", "expect": ">= 100"},
    {"name": "unlike", "sql": "select 'a'", "expect": "!= b"},
]
WARNED = [
    {"name": "a warning", "sql": "select 1 from orders limit 3", "expect": "none", "blocking": False},
    {"name": "changed by nobody who was stopped", "sql": "select clock_timestamp()", "expect": "same"},
]
SHOWN = [{"name": "shown", "sql": "select id, name from orders order by id limit 2"}]

FORCED = """op.drop_column('orders', 'score')
op.execute('ALTER TABLE customers ENABLE ROW LEVEL SECURITY')
op.execute('ALTER TABLE customers FORCE ROW LEVEL SECURITY')"""


async def test_every_kind_of_verification_says_what_it_saw(make_bot: MakeBot) -> None:
    answers = [{"status": "starting"}, {"status": "healthy", "db": {"ok": True}}]
    async with health(answers) as url:
        bot = await make_bot(
            verify=[*GREEN, *WARNED, *SHOWN], health={"url": url, "json": {"status": "healthy", "db.ok": True}}, downgrades={"0005": FORCED},
        )  # fmt: skip
        execute(bot, "INSERT INTO customers SELECT generate_series(1, 7)")
        await ask(bot)
        await approve(bot, "U0DBA")
        await ends(bot, "succeeded")
    found = checks(bot)
    for one in GREEN:
        assert (found[one["name"]]["ok"], found[one["name"]]["blocking"]) == (True, one["expect"] != "same"), one
    for one in WARNED:
        assert (found[one["name"]]["ok"], found[one["name"]]["blocking"]) == (False, False), one
    assert found["shown"]["ok"] is None
    assert "n1" in found["shown"]["after"]
    assert found["health"]["ok"] is True
    assert answers == [], "it was looked at until it was well"
    # What can't be counted is not counted, and is never zero.
    assert found["rows of public.customers"]["ok"] is None
    assert "not counted" in found["rows of public.customers"]["says"]
    report = await bot.reported()
    assert "not counted" in report
    assert "| a warning | warning |" in report
    assert "| shown | shown |" in report
    thread = bot.slack.render_thread((bot.card() or {})["ts"])
    assert "a warning" in thread


@asynccontextmanager
async def health(answers: list[Json]) -> AsyncIterator[str]:
    """An application that says these things about itself, one after the other."""

    async def look(_: web.Request) -> web.Response:
        return web.json_response(answers.pop(0) if answers else {}, status=200)

    app = web.Application()
    app.router.add_get("/health", look)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/health"
    finally:
        await runner.cleanup()


async def test_a_red_verification_needs_a_decision_and_not_a_failed_run(make_bot: MakeBot) -> None:
    columns = "select count(*) from information_schema.columns where table_name = 'orders'"
    bot = await make_bot(verify=[{"name": "four columns", "sql": columns, "expect": 4}])
    await ask(bot)
    await approve(bot, "U0DBA")
    card = await bot.card_in("needs_decision")
    assert buttons(card) == [("Retry", "retry"), ("Restore", "restore"), ("Leave", "leave"), ("Escalate", "escalate")]
    assert checks(bot)["four columns"]["after"] == "3"
    assert "four columns" in bot.slack.render(card)
    assert bot.stands() == "0004"
    assert bot.slack.files() == [] or not any(file.name.startswith("post-mortem") for file in bot.slack.files()), "it has not ended"
    await approve(bot, "U0DBA", "leave")
    await ends(bot, "failed")
    report = await bot.reported()
    assert report.startswith("# Post-mortem: shop 0005 -> 0004: failed\n")
    assert "| four columns | RED |" in report


async def test_what_can_not_hold_at_both_revisions_is_refused_when_it_is_planned(make_bot: MakeBot) -> None:
    bot = await make_bot(verify=[{"name": "scores", "sql": "select sum(score) from orders", "expect": "same"}])
    await bot.ask("0004 sev high because scores are wrong")
    await bot.told("U0DEV", "verification_not_at_both")
    assert bot.cards() == []
    assert bot.stands() == "0005"
