"""How long a person waits for the ack of a slash command: Backout as it is deployed, which stores the command first, and a bare Bolt app."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.backout import deployed
from benchmarks.frame import Bench, Pair, Sample
from benchmarks.ground import Ground
from bot.process import start
from bot.settings import inherited
from playground.slack import SlackStandIn
from tests.harness import CHANNEL, free_port, workspace

_COMMANDS = 300
_PAUSE = 0.03  # seconds between two commands; people are slower, and each ack is measured alone
_LIMITS = {"p50": 1.1, "p99": 1.5}


def benches() -> list[Bench]:
    def one(name: str, says: str, theirs: str, limits: dict[str, float | None], *, http: bool, awaited: bool) -> Bench:
        return Bench(name, says, theirs, limits, lambda ground, _: _opened(ground, http=http, awaited=awaited))

    shown: dict[str, float | None] = dict.fromkeys(_LIMITS)
    bare, awaited = "a bare Bolt app", "a bare Bolt app with process_before_response"
    return [
        one("ack-http", "ack of a slash command over HTTP", bare, {**_LIMITS}, http=True, awaited=False),
        one("ack-socket", "ack of a slash command in Socket Mode", bare, {**_LIMITS}, http=False, awaited=False),
        one("ack-http-awaited", "ack of a slash command over HTTP", awaited, shown, http=True, awaited=True),
        one("ack-socket-awaited", "ack of a slash command in Socket Mode", awaited, shown, http=False, awaited=True),
    ]


@asynccontextmanager
async def _opened(ground: Ground, *, http: bool, awaited: bool) -> AsyncIterator[Pair]:
    async with deployed(ground, await ground.shop(None), http=http) as bot, workspace() as slack, _bare(slack, http=http, awaited=awaited):

        async def ours() -> Sample:
            return await _asked(bot.slack)

        async def theirs() -> Sample:
            return await _asked(slack)

        yield Pair(ours, theirs)


async def _asked(slack: SlackStandIn) -> Sample:
    seconds = []
    for _ in range(_COMMANDS):
        ack = await slack.command(CHANNEL, "U0DEV", "/rollback", "help")
        if not ack.ok:
            raise RuntimeError(f"a command was not acknowledged: {ack.problem}")
        seconds.append(ack.seconds)
        await asyncio.sleep(_PAUSE)
    cut = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": cut[49], "p99": cut[98]}


@asynccontextmanager
async def _bare(slack: SlackStandIn, *, http: bool, awaited: bool) -> AsyncIterator[None]:
    said = {"token": slack.bot_token, "api": slack.api_url, "secret": slack.signing_secret, "awaited": awaited}
    if http:
        port = free_port()
        said["port"] = port
        slack.listen_http(f"http://127.0.0.1:{port}/slack/events")
    else:
        said["app_token"] = slack.app_token
    async with start([sys.executable, "-m", "benchmarks.bare_bolt"], env=inherited()) as process:
        await process.send(json.dumps(said).encode() + b"\n")
        async with asyncio.timeout(30):
            while not (await slack.command(CHANNEL, "U0DEV", "/rollback", "help")).ok:  # noqa: ASYNC110  another process becomes ready
                await asyncio.sleep(0.1)
        yield
