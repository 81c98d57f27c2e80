"""The local Slack, put together: start it, tell the bot where it is, act as people, read what the bot did, let it misbehave."""

from __future__ import annotations

import secrets
from types import TracebackType

import aiohttp
from aiohttp import web

from playground.slack.faults import Fault, Faults
from playground.slack.methods import Methods
from playground.slack.model import Ack, Delivery
from playground.slack.people import People
from playground.slack.sender import Sender
from playground.slack.sockets import Sockets
from playground.slack.web import Web


class SlackStandIn(People):
    """Slack on 127.0.0.1, for one app in one workspace.

    The bot runs wherever it likes, with `api_url` as SLACK_API_URL and the tokens of this object. Over HTTP say `listen_http(url)`;
    without it everything goes through Socket Mode. `ack_within` is how many seconds Slack waits for an ack.
    """

    def __init__(self, *, ack_within: float = 3.0) -> None:
        super().__init__()
        self.bot_token = f"xoxb-local-{secrets.token_hex(8)}"
        self.app_token = f"xapp-local-{secrets.token_hex(8)}"
        self.signing_secret = secrets.token_hex(16)
        self.address = self._at
        self._port = 0
        self._runner: web.AppRunner | None = None
        self._faults = Faults()
        self._sockets = Sockets(self, self._at)
        self._methods = Methods(self, self._at, self._sockets.ticket)
        self._web = Web(self, self._methods, self._sockets, self._faults, self.bot_token, self.app_token)
        self.sender = Sender(self, self._sockets, self.signing_secret, ack_within)

    def _at(self, path: str) -> str:
        return f"http://127.0.0.1:{self._port}{path}"

    @property
    def api_url(self) -> str:
        """What stands before a method's name."""
        return self._at("/api/")

    @property
    def sockets(self) -> int:
        """How many Socket Mode connections are open."""
        return len(self._sockets)

    @property
    def sent(self) -> list[Delivery]:
        """Everything that was sent to the bot, oldest first."""
        return self.sender.sent

    # -------------------------------------------------------------- life

    async def start(self) -> None:
        self.sender.session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar())
        await self.come_back()

    async def stop(self) -> None:
        await self.go_down()
        if self.sender.session is not None:
            await self.sender.session.close()
            self.sender.session = None

    async def __aenter__(self) -> SlackStandIn:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    def listen_http(self, url: str) -> None:
        """Where the bot listens, e.g. http://127.0.0.1:3000/slack/events."""
        self.sender.url = url

    # -------------------------------------------------------------- a bad day

    def fail_next(
        self, method: str, status: int = 503, *, error: str | None = None, store_first: bool = False, retry_after: int | None = None, times: int = 1
    ) -> None:  # fmt: skip
        """The next `times` calls of a Web API method, of `response_url` or of `upload` fail.

        `status` 0 cuts the connection, 200 needs `error`. `store_first`: Slack did what was asked, and only the answer is bad.
        """
        if status == 200 and error is None:
            raise ValueError("status 200 needs an error")
        self._faults.order(Fault(method, status, error, store_first, retry_after, times))

    def limit(self, method: str, calls: int, seconds: float = 60.0) -> None:
        """Arm a rate limit; the call after the last allowed one gets 429 and Retry-After. chat.postMessage counts per channel."""
        self._faults.limit(method, calls, seconds)

    async def drop_sockets(self, reason: str | None = "refresh_requested") -> None:
        """Close every socket after a disconnect frame; with None, cut the line without a word."""
        await self._sockets.drop(reason)

    async def go_down(self) -> None:
        """Nothing answers at `api_url`; what was stored stays."""
        await self._sockets.drop(None)
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def come_back(self) -> None:
        """At the same address as before."""
        self._runner = web.AppRunner(self._web.application(), access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._port or int(self._runner.addresses[0][1])

    async def resend(self, delivery: Delivery | None = None) -> Ack:
        """The same signed bytes again (the newest unless told): a replay."""
        return await self.sender.again(delivery or self.sent[-1])

    async def redeliver(self, delivery: Delivery | None = None, reason: str = "http_timeout") -> Ack:
        """Slack's own retry of something it sent (the newest unless told): newly signed, with its number."""
        return await self.sender.redeliver(delivery or self.sent[-1], reason)
