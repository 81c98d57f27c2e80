"""`backout demo` as a newcomer runs it: nothing but Python, nothing left behind, however it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

Json = dict[str, Any]

ROOT = Path(__file__).parents[2]
WIDTH = 100
pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes that were left behind in /proc"),
]


@dataclass
class Demo:
    """`place` is its TMPDIR: everything that it makes and starts carries that path."""

    process: asyncio.subprocess.Process
    place: Path
    home: Path
    output: str = ""

    async def until(self, words: str) -> None:
        """Read on until the words were printed."""
        assert self.process.stdout is not None
        async with asyncio.timeout(120):
            while words not in self.output:
                line = await self.process.stdout.readline()
                assert line, f"it ended before {words!r}:\n{self.output}"
                self.output += line.decode()

    async def end(self) -> int:
        assert self.process.stdout is not None
        async with asyncio.timeout(120):
            self.output += (await self.process.stdout.read()).decode()
            return await self.process.wait()

    def processes(self) -> dict[int, bytes]:
        """Whoever was started in its folder or with it in the environment: pid -> command line."""
        return {pid: words for pid, (words, around) in _processes() if os.fsencode(self.place) in words + around}

    async def nothing_is_left(self) -> None:
        async with asyncio.timeout(30):
            while self.processes():  # noqa: ASYNC110  other processes end
                await asyncio.sleep(0.02)
        assert list(self.place.iterdir()) == []
        assert list(self.home.iterdir()) == []


def _processes() -> Iterator[tuple[int, tuple[bytes, bytes]]]:
    for place in Path("/proc").glob("[0-9]*"):
        try:
            yield int(place.name), ((place / "cmdline").read_bytes(), (place / "environ").read_bytes())
        except OSError:
            continue  # it has ended, or it is somebody else's


@pytest.fixture
def place() -> Iterator[Path]:
    """Not under tmp_path, which is closed to the user that runs Postgres for root."""
    made = Path(tempfile.mkdtemp(prefix="backout-acceptance-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


@asynccontextmanager
async def demo(place: Path, home: Path, *more: str) -> AsyncIterator[Demo]:
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(place)}  # noqa: TID251  a test starts it as a shell would
    process = await asyncio.create_subprocess_exec(  # noqa: TID251  a test starts it as a shell would
        sys.executable, "-m", "bot", "demo", *more, cwd=ROOT, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT, limit=2**20, start_new_session=True,
    )  # fmt: skip
    running = Demo(process, place, home)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
        for pid in running.processes():
            os.kill(pid, signal.SIGKILL)


async def test_the_demo_goes_from_the_outage_to_the_post_mortem_and_leaves_nothing(place: Path, tmp_path: Path) -> None:
    async with demo(place, tmp_path) as one:
        assert await one.end() == 0, one.output
        await one.nothing_is_left()

    told = [
        r"/health -> 503 .*checkout is down",
        r"Dev types: /rollback 0004 sev high because checkout is down since 0005",
        r"#incident · card: .*awaiting_approval\n",
        r"  shop: 0005 → 0004 · waiting for approval\n(.*\n)*  \[Approve\] \[Reject\] \[Cancel\]\n",
        r"direct message to Dana · backout\n  Your approval is asked for\.",
        r"only Sam sees · backout\n  .*You don't hold that role now\.",
        r"  @Dana approved as DBA on call\.",
        r"card: awaiting_approval -> running\n",
        r"  ✓ take a restore point .*",
        r"    ok    no order lost: 40000",
        r"card: running -> succeeded\n",
        r"/health -> 200 ",
        r"the file post-mortem-\w+\.md\n  # Post-mortem: shop 0005 -> 0004: succeeded\n",
        r"note by U0DEV: Deploys are frozen",
        r"Asked for at .* seconds in all",
    ]
    rest = one.output
    for each in told:
        found = re.search(each, rest)
        assert found, f"no {each} in:\n{rest}"
        rest = rest[found.end() :]
    assert one.output.count("[Approve] [Reject]") == 1, "the card is drawn once"
    assert "\x1b" not in one.output
    assert [line for line in one.output.splitlines() if len(line) > WIDTH] == []
    assert "## Read on\n" in (ROOT / "README.md").read_text(), "the section that the last paragraph sends people to"


async def test_ctrl_c_takes_everything_down_before_it_ends(place: Path, tmp_path: Path) -> None:
    async with demo(place, tmp_path) as one:
        await one.until("card: awaiting_approval -> running")
        one.process.send_signal(signal.SIGINT)
        one.process.send_signal(signal.SIGINT)
        assert await one.end() == 130
        await one.nothing_is_left()

    assert "Stopping" in one.output
    assert "Traceback" not in one.output


async def test_a_bot_that_dies_is_named_with_the_end_of_its_log(place: Path, tmp_path: Path) -> None:
    async with demo(place, tmp_path) as one:
        await one.until("Deploys are frozen, the team knows.")
        [bot] = [pid for pid, words in one.processes().items() if words.endswith(b"\0-m\0bot\0serve\0")]
        os.kill(bot, signal.SIGKILL)
        assert await one.end() == 1
        await one.nothing_is_left()

    assert "The bot ended with exit code -9 before the card was in succeeded." in one.output
    assert "The end of the bot's log:" in one.output
    assert "ready for shop" in one.output


async def test_a_reader_who_goes_away_ends_it(place: Path, tmp_path: Path) -> None:
    async with demo(place, tmp_path) as one:
        await one.until("card: ")
        one.process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]  # asyncio can't drop one pipe
        async with asyncio.timeout(120):
            assert await one.process.wait() == 1
        await one.nothing_is_left()


# ------------------------------------------------------------------ the page, by what it sends


@dataclass
class Hands:
    """What somebody does on the page, without a browser."""

    url: str
    session: aiohttp.ClientSession

    async def state(self, who: str = "U0DEV") -> Json:
        async with self.session.get(f"{self.url}app/state", params={"as": who}) as answer:
            assert answer.status == 200, await answer.text()
            found: Json = await answer.json()
            return found

    async def do(self, action: str, who: str = "U0DEV", **args: Any) -> Json:
        async with self.session.post(f"{self.url}app/do/{action}", json={"as": who, **args}) as answer:
            found: Json = await answer.json()
            return found

    async def until(self, condition: Callable[[Json], Any], who: str = "U0DEV") -> Any:
        now: Json = {}
        try:
            async with asyncio.timeout(90):
                while not (found := condition(now := await self.state(who))):  # noqa: ASYNC110  another process
                    await asyncio.sleep(0.1)
                return found
        except TimeoutError:
            raise AssertionError(json.dumps(now, indent=1)[-6000:]) from None

    async def card(self, *states: str) -> Json:
        found: Json = await self.until(lambda now: next((each for each in reversed(now["messages"]) if card_state(each) in states), None))
        return found

    async def press(self, card: Json, action: str, who: str) -> None:
        block = f"backout:{card['metadata']['event_payload']['run']}"
        assert await self.do("press", who, ts=card["ts"], block_id=block, action_id=action) == {"ok": True, "said": None}

    async def report(self) -> str:
        def shared(now: Json) -> Json | None:
            files = [file for each in now["messages"] for file in each.get("files", []) if file["name"].startswith("post-mortem-")]
            return files[-1] if files else None

        file = await self.until(shared)
        async with self.session.get(f"{self.url}app/file/{file['id']}") as answer:
            return await answer.text()

    async def guided(self, words: str) -> None:
        await self.until(lambda now: any(words in each["text"] for each in now["messages"] if each["user"] == "U0GUIDE"))


def card_state(message: Json) -> str | None:
    metadata = message.get("metadata") or {}
    return metadata["event_payload"]["state"] if metadata.get("event_type") == "backout_card" else None


@asynccontextmanager
async def on_the_page(one: Demo) -> AsyncIterator[Hands]:
    await one.until("leaves nothing behind")
    found = re.search(r"Open (http://127\.0\.0\.1:\d+/\S+/)\n", one.output)
    assert found, one.output
    async with aiohttp.ClientSession() as session:
        yield Hands(found[1], session)


async def test_the_page_guides_from_the_outage_to_the_post_mortem(place: Path, tmp_path: Path) -> None:
    async with demo(place, tmp_path, "--port", "0") as one:
        async with on_the_page(one) as hands:
            await hands.guided("You are *Dev*")
            asked = (await hands.state())["suggestion"]
            assert (await hands.do("send", text=asked))["ok"]
            card = await hands.card("awaiting_approval")
            await hands.guided("waits for a DBA")
            await hands.press(card, "approve", "U0SENIOR")
            await hands.until(lambda now: any("don't hold that role" in each["text"] for each in now["ephemerals"]), "U0SENIOR")
            await hands.guided("Only Sam sees that answer")
            await hands.press(card, "approve", "U0DBA")
            await hands.card("succeeded")
            await hands.guided("*Checkout works again.*")
            report = await hands.report()
            await hands.until(lambda now: now["shop"]["healthy"])
        one.process.send_signal(signal.SIGINT)
        assert await one.end() == 130
        await one.nothing_is_left()

    assert report.startswith("# Post-mortem: shop 0005 -> 0004: succeeded")
    assert "U0SENIOR was denied" in report
    assert "Traceback" not in one.output


async def test_a_failed_downgrade_a_killed_bot_and_a_reset_are_each_a_button_away(place: Path, tmp_path: Path) -> None:
    async with demo(place, tmp_path, "--port", "0") as one:
        async with on_the_page(one) as hands:
            assert (await hands.do("reset", incident="blocked"))["ok"]
            await hands.until(lambda now: now["turn"] == 1 and now["bot"]["ready"])
            await hands.do("send", text=(await hands.state())["suggestion"])
            await hands.press(await hands.card("awaiting_approval"), "approve", "U0DBA")
            card = await hands.card("needs_decision")
            assert "nightly-export" in json.dumps(card["blocks"])

            assert (await hands.do("kill"))["ok"]
            await hands.guided("*The bot is dead*")
            assert "not connected" in (await hands.do("send", text="/rollback status"))["said"]
            assert (await hands.do("start"))["ok"]
            await hands.until(lambda now: now["bot"]["ready"])
            await hands.guided("The bot is back")

            assert (await hands.do("unblock"))["ok"]
            await hands.press(await hands.card("needs_decision"), "retry", "U0DBA")
            await hands.card("succeeded")
            assert "nightly-export" in await hands.report()

            assert (await hands.do("reset", incident="works"))["ok"]
            fresh = await hands.until(lambda now: now["turn"] == 2 and now["bot"]["ready"] and now)
            assert {each["user"] for each in fresh["messages"]} == {"U0GUIDE"}
            await hands.do("send", text="/rollback 0004 sev high because again")
            await hands.card("awaiting_approval")
        one.process.send_signal(signal.SIGINT)
        assert await one.end() == 130
        await one.nothing_is_left()


async def test_ctrl_c_while_it_starts_leaves_nothing(place: Path, tmp_path: Path) -> None:
    async with demo(place, tmp_path, "--port", "0") as one:
        await one.until("Starting")
        async with asyncio.timeout(60):
            while not list(place.glob("*/*/data/postmaster.pid")):  # noqa: ASYNC110, ASYNC240  another process
                await asyncio.sleep(0.02)
        one.process.send_signal(signal.SIGINT)
        assert await one.end() == 130
        await one.nothing_is_left()

    assert "Traceback" not in one.output


async def test_a_taken_port_is_named_and_another_one_used(place: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with demo(place, tmp_path, "--port", str(port)) as one:
            async with on_the_page(one) as hands:
                assert (await hands.state())["bot"]["ready"]
            one.process.send_signal(signal.SIGINT)
            assert await one.end() == 130
            await one.nothing_is_left()

    assert f"Port {port} is taken" in one.output
