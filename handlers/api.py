"""The Web API as the rest needs it: one call, four ways to fail. Nothing is retried here; who calls decides."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
from slack_sdk.errors import SlackApiError
from slack_sdk.web.async_client import AsyncWebClient
from yarl import URL

from bot.errors import ChatError
from handlers.blocks import Message, cut

log = logging.getLogger(__name__)

TIMEOUT = 10  # seconds for one call
_PRIVATE = 8000  # characters of a private answer
_DOWN = frozenset({"internal_error", "service_unavailable", "fatal_error", "request_timeout"})
#: Our token is refused: as good as down, until somebody mends it.
_LOCKED_OUT = frozenset({"invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired"})
#: The method or its scope is not there: it costs the nicety.
MISSING = frozenset({"unknown_method", "missing_scope", "not_allowed_token_type", "method_deprecated"})
#: This channel will not take the card; the run goes on.
CLOSED = frozenset(
    {"channel_not_found", "not_in_channel", "is_archived", "restricted_action", "restricted_action_read_only_channel", "no_permission"}
    | {"messages_tab_disabled", "ekm_access_denied", "team_access_not_granted"}
)


class RateLimited(ChatError):
    """Nothing was done; ask again after so many seconds."""

    def __init__(self, after: float) -> None:
        super().__init__(f"Slack asks to wait {after:.0f} s")
        self.after = after


class Unsure(ChatError):
    """Slack is down or the answer was lost: nobody can say whether it was done."""


class Declined(ChatError):
    """Slack said no; `code` is its word for it."""

    def __init__(self, code: str) -> None:
        super().__init__(f"Slack said {code}")
        self.code = code


@dataclass(frozen=True)
class Asker:
    """Where a private answer may go, best first."""

    user: str
    channel: str | None = None
    response_url: str | None = None
    thread: str | None = None


class Slack:
    """The workspace, through one token. Raises RateLimited, Unsure, Declined."""

    def __init__(self, client: AsyncWebClient, proxy: str | None = None) -> None:
        self.client = client
        self._proxy = proxy
        #: https://acme.slack.com/, known once Slack was reached
        self.home = ""

    async def call(self, method: Callable[..., Awaitable[Any]], **args: Any) -> dict[str, Any]:
        try:
            answer = await method(**args)
        except SlackApiError as error:
            raise _meaning(error) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unsure(f"Slack can't be reached: {type(error).__name__}") from error
        return answer.data if isinstance(answer.data, dict) else {}

    async def post(self, channel: str, message: Message, thread: str | None = None) -> str:
        """Post; returns the message's ts."""
        answer = await self.call(
            self.client.chat_postMessage, channel=channel, text=message.text, thread_ts=thread, unfurl_links=False, unfurl_media=False,
            **_body(message),
        )  # fmt: skip
        return str(answer["ts"])

    async def update(self, channel: str, ts: str, message: Message) -> None:
        await self.call(self.client.chat_update, channel=channel, ts=ts, text=message.text, **_body(message))

    async def open_view(self, trigger: str | None, view: Mapping[str, Any]) -> None:
        """Open a form. A trigger lives for 3 seconds and opens one; a mention has none."""
        if not trigger:
            raise Declined("no_trigger")
        await self.call(self.client.views_open, trigger_id=trigger, view=dict(view))

    async def direct(self, user: str, text: str) -> str:
        """A direct message; returns its ts."""
        try:
            opened = await self.call(self.client.conversations_open, users=user)
            channel = str(opened["channel"]["id"])
        except Declined as error:
            if error.code not in MISSING:
                raise
            channel = user  # a user id is taken as their direct conversation
        return await self.post(channel, Message(text))

    async def whisper(self, asker: Asker, text: str) -> bool:
        """Tell one person, where nobody else sees it: response_url, else ephemeral, else direct. False when no way was open."""
        said = cut(text, _PRIVATE)
        for way in (self._respond, self._ephemeral, self._direct):
            try:
                if await way(asker, said):
                    return True
            except ChatError as error:
                log.info("a private answer took another way: %s", error)
        log.warning("a private answer reached nobody")
        return False

    async def upload(self, channel: str, thread: str, name: str, content: str, comment: str) -> None:
        """Put a file into a thread."""
        data = content.encode()
        place = await self.call(self.client.files_getUploadURLExternal, filename=name, length=len(data))
        await self._send(str(place["upload_url"]), data=data)
        await self.call(
            self.client.files_completeUploadExternal, files=[{"id": place["file_id"], "title": name}], channel_id=channel, thread_ts=thread,
            **({"initial_comment": comment} if comment else {}),
        )  # fmt: skip

    async def _respond(self, asker: Asker, text: str) -> bool:
        if not asker.response_url:
            return False
        await self._send(asker.response_url, json={"response_type": "ephemeral", "replace_original": False, "text": text})
        return True

    async def _ephemeral(self, asker: Asker, text: str) -> bool:
        if not asker.channel:
            return False
        await self.call(self.client.chat_postEphemeral, channel=asker.channel, user=asker.user, text=text, thread_ts=asker.thread)
        return True

    async def _direct(self, asker: Asker, text: str) -> bool:
        await self.direct(asker.user, text)
        return True

    async def _send(self, url: str, **body: Any) -> None:
        """POST to an address that Slack gave us, exactly as it gave it."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        try:
            address = URL(url, encoded=True)
            proxy = self._proxy if address.scheme == "https" else None
            async with aiohttp.ClientSession(timeout=timeout) as session, session.post(address, proxy=proxy, **body) as answer:
                if answer.status >= 500:
                    raise Unsure(f"Slack answered {answer.status}")
                if answer.status >= 400:
                    raise Declined(f"http_{answer.status}")
        except ValueError as error:
            raise Declined("bad_address") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unsure(f"Slack can't be reached: {type(error).__name__}") from error


def connect(token: str, api_url: str, proxy: str | None = None) -> Slack:
    """A client that retries nothing by itself. `api_url` ends with a slash; the proxy is for https only."""
    client = AsyncWebClient(token=token, base_url=api_url, timeout=TIMEOUT, retry_handlers=[])
    client.proxy = proxy if api_url.startswith("https:") else None
    return Slack(client, proxy)


def _body(message: Message) -> dict[str, Any]:
    body: dict[str, Any] = {"blocks": list(message.blocks)} if message.blocks else {}
    return body | ({"metadata": message.metadata} if message.metadata else {})


def _meaning(error: SlackApiError) -> ChatError:
    answer = error.response
    status = int(getattr(answer, "status_code", None) or getattr(answer, "status", None) or 0)
    data = getattr(answer, "data", None)
    code = str(data.get("error", "")) if isinstance(data, dict) else ""
    if status == 429 or code in {"ratelimited", "rate_limited"}:
        return RateLimited(_seconds(answer.headers.get("Retry-After")))
    if status >= 500 or not code or code in _DOWN | _LOCKED_OUT:
        return Unsure(f"Slack answered {status} {code}".rstrip())
    return Declined(code)


def _seconds(header: str | None) -> float:
    try:
        return max(0.1, float(header or 1))
    except ValueError:
        return 1.0
