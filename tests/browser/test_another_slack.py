"""The bot, unmodified, against a Slack that this project did not write: npm's local-slack, over Socket Mode and over signed HTTP.

What that server lacks is part of the test: it knows no user groups, keeps no metadata, sends every envelope to every socket of the bot.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from playground.slack import SlackStandIn
from tests.browser.another import PROGRAM, AnotherSlack, alone, another_slack
from tests.conftest import MakeDatabase
from tests.contract import projects
from tests.harness import Bot, Json, configuration, free_port, project

pytestmark = [
    pytest.mark.skipif(not PROGRAM.exists(), reason=f"{PROGRAM.name} is not installed; `make test-browser` does it"),
    pytest.mark.skipif(not alone(), reason=f"{PROGRAM.name} listens on every interface; `make test-browser` gives it a network of its own"),
]


@dataclass
class World:
    """The bot in the other Slack."""

    bot: Bot
    slack: AnotherSlack

    async def card(self, state: str) -> Json:
        """The newest card, once it says so. Its text is all that this server keeps of its state."""

        async def found() -> Json | None:
            cards = [each for each in await self.slack.messages() if str(each.get("text")).startswith("shop: 0005 -> 0004 · ")]
            return cards[-1] if cards and f" · {state} · r" in cards[-1]["text"] else None

        return cast("Json", await self.bot.until(found, what=f"a card in {state}"))

    async def private(self, user: str) -> str:
        """What that person was told alone."""

        async def found() -> str:
            return "\n".join(each["text"] for each in await self.slack.messages() if each.get("ephemeral_to") == user)

        return str(await self.bot.until(found, what=f"telling {user} alone"))

    async def report(self, card: Json) -> str:
        """The post-mortem's text, as the server hands the file out."""

        async def found() -> str | None:
            for message in await self.slack.messages():
                for file in message.get("files", ()) if message.get("thread_ts") == card["ts"] else ():
                    if file["name"].startswith("post-mortem-"):
                        return str(file["url_private_download"])
            return None

        return await self.slack.download(await self.bot.until(found, what="reported"))


@pytest.fixture
def place() -> Iterator[Path]:
    # pytest's own folders are closed to other users
    made = Path(tempfile.mkdtemp(prefix="backout-another-slack-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(params=["Socket Mode", "HTTP"])
async def world(
    request: pytest.FixtureRequest, place: Path, tmp_path: Path, make_database: MakeDatabase, make_journal_database: MakeDatabase
) -> AsyncIterator[World]:
    http, port = request.param == "HTTP", free_port()
    async with AsyncExitStack() as stack:
        slack = await stack.enter_async_context(another_slack(place, f"http://127.0.0.1:{port}/slack/events" if http else None))
        config = configuration(project(tmp_path / "project").directory, tmp_path)
        config["roles"]["team-lead"]["users"] = ["U0LEAD"]  # besides the user group, which this server can't look up
        target, journal = projects.seed(make_database("shop")), make_journal_database("journal")
        bot = Bot(tmp_path, target, journal, cast("SlackStandIn", slack), config, http, port=port)
        stack.push_async_callback(bot.kill)
        await bot.start()
        if not http:
            await bot.until(slack.connected, what="connected")
        yield World(bot, slack)


async def test_the_same_bot_rolls_back_in_a_slack_that_this_project_did_not_write(world: World) -> None:
    bot, slack = world.bot, world.slack
    await slack.command("U0DEV", "0004 sev critical because checkout is down")
    card = await world.card("awaiting_approval")

    await slack.press(card, "approve", "U0SENIOR")
    assert "DBA on call" in await world.private("U0SENIOR")
    assert bot.stands() == "0005", "the wrong person's press does nothing"

    await slack.press(card, "approve", "U0DBA")
    await slack.press(card, "approve", "U0LEAD")
    done = await world.card("succeeded")
    assert done["ts"] == card["ts"], "one message for the whole run"
    assert not [block for block in done["blocks"] if block["type"] == "actions" and any(each["type"] == "button" for each in block["elements"])]
    assert bot.stands() == "0004"
    report = await world.report(card)
    assert report.startswith("# Post-mortem: shop 0005 -> 0004: succeeded\n")
    assert "checkout is down" in report


async def test_its_form_asks_for_what_the_command_left_out(world: World) -> None:
    slack = world.slack
    await slack.command("U0DEV", "0004")
    form = await world.bot.until(slack.form, what="asked by a form")
    assert form["callback_id"] == "backout_request"
    fields = [block["block_id"] for block in form["blocks"] if block["type"] == "input"]
    assert fields == ["target", "rev", "reason", "severity"]

    values = {
        "target": {"target": _chosen("shop")},
        "rev": {"rev": {"type": "plain_text_input", "value": "0004"}},
        "reason": {"reason": {"type": "plain_text_input", "value": "checkout is down"}},
        "severity": {"severity": _chosen("high")},
    }
    await slack.submit("U0DEV", values)
    card = await world.card("awaiting_approval")
    await slack.press(card, "cancel", "U0DEV")
    await world.card("aborted")
    assert world.bot.stands() == "0005"


def _chosen(value: str) -> Json:
    return {"type": "static_select", "selected_option": {"text": {"type": "plain_text", "text": value}, "value": value}}
