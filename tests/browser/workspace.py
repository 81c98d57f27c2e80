"""The demo as its own process, and its page as a person in front of it uses it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Dialog, Locator, Page, Request, ViewportSize, WebSocket, expect

ROOT = Path(__file__).parents[2]
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
WIDE, PHONE = ViewportSize(width=1280, height=800), ViewportSize(width=390, height=844)
WITHIN = 60_000  # ms; generous, a condition is waited for
_ASKED = {"approve", "leave", "restore"}  # a dialog stands between the press and what it does
_ADDRESS = re.compile(r"http://(?:127\.0\.0\.1|localhost):\d+\S*")


@dataclass
class Demo:
    """`backout demo`, and what it printed so far. `place` is its TMPDIR."""

    process: asyncio.subprocess.Process
    place: Path
    home: Path
    output: str = ""
    _reading: asyncio.Task[None] | None = None

    async def address(self) -> str:
        """The page's, once it is printed."""
        async with asyncio.timeout(120):
            while not (found := _ADDRESS.search(self.output)):
                assert self.process.returncode is None, f"the demo ended with {self.process.returncode}:\n{self.output}"
                await asyncio.sleep(0.05)
        return found[0].rstrip(".,")

    def listen(self) -> None:
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.output += line.decode(errors="replace")

    def left(self) -> list[str]:
        """What stands in its folders."""
        return [str(path) for folder in (self.home, self.place) for path in folder.rglob("*")]

    async def end(self, number: int = signal.SIGINT) -> int:
        """Stop it as Ctrl-C does; the exit code."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)
        async with asyncio.timeout(60):
            code = await self.process.wait()
            if self._reading is not None:
                await self._reading
            return code


@asynccontextmanager
async def demo(port: int = 0) -> AsyncIterator[Demo]:
    """Start it with a HOME and a TMPDIR that are empty; ended and removed however the story ends."""
    home, place = _empty("home"), _empty("tmp")
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(place)}  # noqa: TID251  as a shell would
    process = await asyncio.create_subprocess_exec(  # noqa: TID251  a test starts the demo as a shell would
        sys.executable, "-m", "bot", "demo", "--port", str(port), env=env, cwd=ROOT, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    running = Demo(process, place, home)
    running.listen()
    try:
        yield running
    finally:
        if process.returncode is None:
            try:
                await running.end()
            except TimeoutError:
                process.kill()
                await process.wait()
        for folder in (home, place):
            shutil.rmtree(folder)


def _empty(name: str) -> Path:
    made = Path(tempfile.mkdtemp(prefix=f"backout-browser-{name}-"))
    made.chmod(0o755)  # for root's demo, Postgres runs as somebody else
    return made


@dataclass
class Watch:
    """What a page must never do: ask another server, raise, open a dialog, break its own content policy."""

    origin: str
    trouble: list[str] = field(default_factory=list)

    def over(self, page: Page) -> None:
        page.on("request", self._requested)
        page.on("websocket", self._connected)
        page.on("dialog", self._asked)
        page.on("pageerror", lambda error: self.trouble.append(f"error in the page: {error}"))
        page.on("console", self._said)

    def _requested(self, request: Request) -> None:
        if not request.url.startswith((self.origin, "data:", "blob:")):
            self.trouble.append(f"a request to {request.url}")

    def _connected(self, line: WebSocket) -> None:
        if not line.url.startswith(self.origin.replace("http", "ws", 1)):
            self.trouble.append(f"a socket to {line.url}")

    def _asked(self, dialog: Dialog) -> None:
        self.trouble.append(f"a dialog: {dialog.message}")
        asyncio.ensure_future(dialog.dismiss())  # noqa: RUF006  the page stands still until then

    def _said(self, message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text or "Content-Security-Policy" in message.text:
            self.trouble.append(f"the policy was broken: {message.text}")


class Workspace:
    """One open page, and what it did that it must not."""

    def __init__(self, page: Page, trouble: list[str]) -> None:
        self.page = page
        self.trouble = trouble

    def part(self, name: str) -> Locator:
        """By data-testid, the page's own names of its parts."""
        return self.page.get_by_test_id(name)

    async def act_as(self, user: str) -> None:
        await self.part("act-as").select_option(user)

    async def write(self, text: str, user: str | None = None) -> None:
        """Type into the channel and send it."""
        if user is not None:
            await self.act_as(user)
        await self.part("composer").fill(text)
        await self.part("send").click()

    async def reset(self, incident: str = "works") -> None:
        """A new incident, with a bot that is ready for it."""
        await self.part("incident").select_option(incident)
        async with self.page.expect_response("**/do/reset") as answer:
            await self.part("reset").click()
        said = await (await answer.value).json()
        assert said["ok"], said
        await expect(self.cards).to_have_count(0)
        await expect(self.part("bot-status")).to_have_attribute("data-ready", "true", timeout=WITHIN)

    @property
    def cards(self) -> Locator:
        return self.part("card")

    async def card(self, *states: str) -> Locator:
        """The newest card, once it is in one of these states."""
        card = self.cards.last
        await expect(card).to_have_attribute("data-state", re.compile(f"^({'|'.join(states)})$"), timeout=WITHIN)
        return card

    def button(self, action_id: str) -> Locator:
        return self.cards.last.locator(f'[data-action-id="{action_id}"]')

    async def press(self, action_id: str, user: str | None = None) -> None:
        """A button of the newest card, and Yes to its question."""
        state = await self.cards.last.get_attribute("data-state")
        if user is not None:
            await self.act_as(user)
        await self.button(action_id).click()
        if action_id in _ASKED or (action_id, state) == ("cancel", "running"):
            await self.part("confirm-yes").click()
            await expect(self.part("confirm")).to_be_hidden()

    async def fill(self, **fields: str) -> None:
        """The open form's fields, by block_id, without sending it."""
        modal = self.part("modal")
        await expect(modal).to_be_visible(timeout=WITHIN)
        for name, value in fields.items():
            entry = modal.locator(f'[name="{name}"]')
            if await entry.evaluate("each => each.tagName") == "SELECT":
                await entry.select_option(value)
            else:
                await entry.fill(value)

    async def submit(self, **fields: str) -> None:
        await self.fill(**fields)
        await self.part("modal-submit").click()

    def messages(self, kind: str) -> Locator:
        return self.page.locator(f'[data-testid="message"][data-kind="{kind}"]')

    async def thread(self) -> Locator:
        """The newest card's thread, opened."""
        if not await self.part("thread").is_visible():
            await self.part("message").filter(has=self.cards).last.get_by_test_id("open-thread").click()
        await expect(self.part("thread")).to_be_visible()
        return self.part("thread")

    async def document(self, name: str) -> str:
        """Open a file of the thread by the beginning of its name; its text as the reader sees it."""
        thread = await self.thread()
        file = thread.locator(f'[data-testid="file"][data-name^="{name}"]').last
        await expect(file).to_be_visible(timeout=WITHIN)
        await file.click()
        await expect(self.part("document").locator("article :is(h1, pre)").first).to_be_visible()
        return await self.part("document").inner_text()

    async def close_document(self) -> None:
        await self.part("document-close").click()
        await expect(self.part("document")).to_be_hidden()

    async def shop_is(self, *, healthy: bool) -> None:
        """What the demo sees when it asks the shop."""
        await expect(self.part("shop")).to_have_attribute("data-healthy", str(healthy).lower(), timeout=WITHIN)

    async def ran(self) -> bool:
        """Whether hostile text did what it tries: to set `ran` in the window."""
        return bool(await self.page.evaluate("'ran' in window"))

    async def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        return int(await self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@asynccontextmanager
async def opened(browser: Browser, address: str, **how: object) -> AsyncIterator[Workspace]:
    """A page in a context of its own, watched all the time; whatever it must never do fails the test."""
    context: BrowserContext = await browser.new_context(**{"viewport": WIDE, "reduced_motion": "reduce", "locale": "en-GB", **how})  # type: ignore[arg-type]
    context.set_default_timeout(WITHIN)
    watch = Watch(re.match(r"https?://[^/]+", address)[0])  # type: ignore[index]
    context.on("page", watch.over)
    try:
        page = await context.new_page()
        await page.goto(address)
        yield Workspace(page, watch.trouble)
        assert watch.trouble == []
    finally:
        await context.close()
