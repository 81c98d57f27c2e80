"""The second Slack: npm's local-slack, which this project did not write, as a process of its own, and its control address.

It listens on every interface and checks no token. So it starts only where there is no interface but loopback (`run` makes such a place), and
never as root.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.harness import CHANNEL, PEOPLE, Json, free_port

PROGRAM = Path(__file__).parent / "node_modules/local-slack-linux-x64/bin/local-slack"
_NOBODY = 65534


def alone() -> bool:
    """Whether no other machine can reach what listens here."""
    return [name for _, name in socket.if_nameindex()] == ["lo"]


@dataclass
class AnotherSlack:
    """What a bot needs to know of its Slack, and what people do in it. Messages are read as that server keeps them: without metadata."""

    port: int
    session: aiohttp.ClientSession
    log: Path
    bot_token: str = "xoxb-another"
    app_token: str = "xapp-another"
    signing_secret: str = "another-secret"
    seen: list[Json] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def api_url(self) -> str:
        return f"{self.address}/api/"

    def listen_http(self, url: str) -> None:
        """It was told when it was started."""

    def situation(self) -> str:
        return json.dumps(self.seen[-4:], indent=1)[-3000:]

    async def answers(self) -> bool:
        try:
            async with self.session.get(f"{self.address}/_control/state") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def connected(self) -> bool:
        """Whether the bot's socket is open."""
        async with self.session.get(f"{self.address}/_control/log") as answer:
            return any(entry.get("summary", "").startswith("socket connected") for entry in (await answer.json())["log"])

    async def messages(self, channel: str = CHANNEL) -> list[Json]:
        """Everything there, replies and private answers included, oldest first."""
        async with self.session.get(f"{self.address}/_control/messages/{channel}") as answer:
            self.seen = list((await answer.json())["messages"])
            return self.seen

    async def command(self, user: str, text: str) -> None:
        await self._post("command", channel=CHANNEL, user=user, command="/rollback", text=text)

    async def say(self, user: str, text: str, thread_ts: str) -> None:
        await self._post("message", channel=CHANNEL, user=user, text=text, thread_ts=thread_ts)

    async def press(self, message: Json, action_id: str, user: str) -> None:
        """A button that the message has. This server shows no confirm dialog."""
        rows = [block for block in message["blocks"] if block["type"] == "actions"]
        found = [(block, each) for block in rows for each in block["elements"] if each["action_id"] == action_id]
        assert found, f"no button {action_id} in {json.dumps(rows)}"
        block, button = found[0]
        action = {name: button[name] for name in ("type", "action_id", "value", "text")} | {"block_id": block["block_id"]}
        await self._post("interact", channel=CHANNEL, messageTs=message["ts"], user=user, action=action)

    async def submit(self, user: str, values: dict[str, Json]) -> None:
        """Send the form that lies on top, as this server's own page does: through its socket."""
        async with self.session.ws_connect(f"{self.address}/ui") as page:
            await page.send_json({"t": "view_submit", "user": user, "values": values})
            await page.receive()  # the greeting: by the time the page leaves, what it said has been read

    async def form(self) -> Json | None:
        """The topmost open form."""
        async with self.session.ws_connect(f"{self.address}/ui") as page:
            stack = (await page.receive_json())["state"]["modalStack"]
            return dict(stack[-1]) if stack else None

    async def download(self, url: str) -> str:
        async with self.session.get(url, headers={"Authorization": f"Bearer {self.bot_token}"}) as answer:
            assert answer.status == 200
            return await answer.text()

    async def _post(self, what: str, **body: Any) -> None:
        async with self.session.post(f"{self.address}/_control/{what}", json=body) as answer:
            assert answer.status == 200, await answer.text()


def _workspace(events: str | None) -> Json:
    bot = {
        "appId": "A0BACKOUT", "botUserId": "U0BACKOUT", "botName": "backout", "mode": "events" if events else "socket",
        "botToken": AnotherSlack.bot_token, "appToken": AnotherSlack.app_token, "signingSecret": AnotherSlack.signing_secret,
        **({"requestUrl": events} if events else {}),
    }  # fmt: skip
    return {
        "workspace": {"name": "Shop", "domain": "shop", "teamId": "T0SHOP"},
        "app": bot,
        "users": [{"id": user, "name": name.lower(), "real_name": name} for user, name in PEOPLE.items()],
        "channels": [{"id": CHANNEL, "name": "incident", "members": [*PEOPLE, "U0BACKOUT"]}],
    }


@asynccontextmanager
async def another_slack(place: Path, events: str | None = None) -> AsyncIterator[AnotherSlack]:
    """Run it. `place`: an empty folder that everybody can enter; `events`: where the bot listens, else Socket Mode."""
    assert alone(), "it would listen on interfaces that others reach"
    config, program, log = place / "workspace.json", place / "local-slack", place / "log"
    config.write_text(json.dumps(_workspace(events)))
    shutil.copy(PROGRAM, program)  # another user may not be able to go where the package is
    (place / "files").mkdir()
    (place / "files").chmod(0o777)
    other = _NOBODY if os.geteuid() == 0 else None
    port = free_port()
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(  # noqa: TID251  a test starts a program that is not ours
            program, "--config", config, "--port", str(port), "--base-host", "127.0.0.1", "--files-dir", place / "files",
            env={"PATH": os.defpath, "HOME": str(place / "files"), "TMPDIR": str(place / "files")}, cwd=place, start_new_session=True,
            stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output, user=other, group=other, extra_groups=None if other is None else [],
        )  # fmt: skip
    try:
        async with aiohttp.ClientSession() as session:
            slack = AnotherSlack(port, session, log)
            await until(slack.answers, "it answered", within=30)
            yield slack
    except TimeoutError as error:
        raise AssertionError(f"{error}\n{log.read_text()[-2000:]}") from None
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until(condition: Callable[[], Any], what: str, within: float = 60) -> Any:
    """The condition's first true value. Raises TimeoutError."""
    try:
        async with asyncio.timeout(within):
            while not (value := await condition()):  # noqa: ASYNC110  a condition of another process
                await asyncio.sleep(0.05)
            return value
    except TimeoutError:
        raise TimeoutError(f"waited {within:g} s until {what}") from None
