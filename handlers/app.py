"""Bolt and the socket: every payload is stored, acknowledged, and left to the inbox."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from aiohttp import web
from slack_bolt.adapter.aiohttp import to_aiohttp_response, to_bolt_request
from slack_bolt.adapter.socket_mode.aiohttp import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncAck, AsyncApp
from slack_bolt.authorization import AuthorizeResult
from slack_bolt.response import BoltResponse
from slack_sdk.web.async_client import AsyncWebClient

from bot.asking import Rollbacks
from bot.errors import ChatError, Denied, JournalDown, Refusal
from bot.ports import Clock, Journal
from handlers import payload
from handlers.addresses import AddressForm
from handlers.api import TIMEOUT, RateLimited, Slack
from handlers.buttons import Buttons, is_mention, is_note
from handlers.chat import SlackChat
from handlers.inbox import Inbox, Item
from handlers.modals import ADDRESS, ADDRESS_INPUT, REJECT, REQUEST
from handlers.payload import ACTION, COMMAND, EVENT, SUBMISSION, Sender
from handlers.rollback_command import RollbackCommand
from handlers.text import private

log = logging.getLogger(__name__)

FIRST_TRY = 5.0  # seconds that start() waits for Slack before it goes on in the background
_PATIENCE = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds between attempts to reach Slack
_WATCH = 2.0  # seconds between looks at the socket
_WEDGED = 3  # looks without a connection until its address is thrown away
_PING = 5.0  # seconds between pings, and between attempts to connect
_ANY = re.compile(r".*", re.DOTALL)
_NOT_STORED = "Backout can't write its journal now, so nothing was done. Please try again in a minute."


class SlackApp:
    """Slack, listening. Made by handlers.build."""

    def __init__(
        self, *, slack: Slack, chat: SlackChat, journal: Journal, rollbacks: Rollbacks, targets: Mapping[str, Sequence[str]], command: str,
        clock: Clock, app_token: str | None, signing_secret: str | None,
    ) -> None:  # fmt: skip
        self._slack = slack
        self._chat = chat
        self._journal = journal
        self._rollbacks = rollbacks
        self._commands = RollbackCommand(slack, chat, journal, rollbacks, targets, command, clock)
        self._form = AddressForm(slack, chat, journal, rollbacks)
        self._buttons = Buttons(slack, chat, journal, rollbacks, self._form)
        self._inbox = Inbox(journal, clock, self._work, self._tell)
        self._app_token = app_token
        self._team = ""
        self._bot = ""
        self._why: str | None = "Slack was not reached yet"
        self._reached = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._socket: AsyncSocketModeHandler | None = None
        self._signed = bool(signing_secret) and app_token is None
        self._bolt = self._listen(command, signing_secret or "")

    async def web_handler(self, request: web.Request) -> web.Response:
        """POST /slack/events; 404 in Socket Mode, where nobody could prove that it comes from Slack."""
        if not self._signed:
            return web.Response(status=404)
        answer = await self._bolt.async_dispatch(await to_bolt_request(request))
        return await to_aiohttp_response(answer)

    async def start(self) -> None:
        """Reach Slack and begin to work. While it is down this returns all the same, and keeps trying; `reasons` says why."""
        self._task = asyncio.create_task(self._run(), name="slack")
        with suppress(TimeoutError):
            async with asyncio.timeout(FIRST_TRY):
                await self._reached.wait()

    async def stop(self) -> None:
        """Nothing new is taken; what runs may end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._socket is not None:
            await self._socket.client.close()  # type: ignore[no-untyped-call]  # the SDK's own gap
        await self._form.stop()
        await self._inbox.stop()

    def reasons(self) -> str | None:
        """Why Slack isn't ready; None when it is."""
        return self._why

    # -------------------------------------------------------------- reaching Slack, and keeping it

    async def _run(self) -> None:
        tried = 0
        while True:
            try:
                await self._reach()
                break
            except (ChatError, JournalDown) as error:
                self._why = str(error)
                pause = error.after if isinstance(error, RateLimited) else _PATIENCE[min(tried, len(_PATIENCE) - 1)]
                log.warning("not ready, next attempt in %.0f s: %s", pause, error)
                tried += 1
                await asyncio.sleep(pause)
        if self._app_token is None:
            self._ready()
        else:
            await self._keep_socket(self._app_token)

    async def _reach(self) -> None:
        me = await self._slack.call(self._slack.client.auth_test)
        self._team, self._bot = str(me.get("team_id") or ""), str(me.get("user_id") or "")
        self._slack.home = str(me.get("url") or "")
        await self._chat.open(self._rollbacks)
        await self._inbox.start()

    async def _keep_socket(self, token: str) -> None:
        """Connect, then watch: the client asks for a new address only when it has none, so a dead one wedges it for ever."""
        self._socket = self._new_socket(token)
        client = self._socket.client
        connecting = asyncio.create_task(client.connect())  # type: ignore[no-untyped-call]  # the SDK's own gap
        missed = 0
        try:
            while True:
                await asyncio.wait({connecting}, timeout=_WATCH)
                if await client.is_connected():
                    missed = 0
                    self._ready()
                else:
                    missed += 1
                    self._why = "the socket to Slack is not connected"
                if missed >= _WEDGED:
                    client.wss_uri = None
                    missed = 0
                if connecting.done():
                    await asyncio.sleep(_WATCH)
        finally:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)

    def _new_socket(self, token: str) -> AsyncSocketModeHandler:
        mine = self._slack.client
        opener = AsyncWebClient(token=token, base_url=mine.base_url, timeout=TIMEOUT, retry_handlers=[])
        opener.proxy = mine.proxy
        handler = AsyncSocketModeHandler(self._bolt, token, logger=_socket_log(), web_client=opener, proxy=mine.proxy, ping_interval=_PING)
        handler.client.proxy = mine.proxy
        return handler

    def _ready(self) -> None:
        if self._why is not None:
            log.info("ready")
        self._why = None
        self._reached.set()

    # -------------------------------------------------------------- Bolt's listeners: store, acknowledge, nothing else

    def _listen(self, command: str, signing_secret: str) -> AsyncApp:
        # process_before_response: the listener is awaited, so that an ack is neither polled for nor lost.
        logger = logging.getLogger("handlers.bolt")
        logger.setLevel(logging.ERROR)  # its warnings are about tokens that we give it on purpose

        async def authorize() -> AuthorizeResult:
            # A function and no method: Bolt hands `self` to a method as one argument too many.
            # One workspace, one token: nothing to look up while a person waits for the ack.
            return AuthorizeResult(enterprise_id=None, team_id=self._team, bot_user_id=self._bot, bot_token=self._slack.client.token)

        app = AsyncApp(
            client=self._slack.client, authorize=authorize, signing_secret=signing_secret, logger=logger, process_before_response=True
        )  # fmt: skip
        app.command(command)(self._on_command)
        app.block_action(_ANY)(self._on_action)
        app.view_submission(_ANY)(self._on_submission)
        app.event("message")(self._on_event)
        app.event("app_mention")(self._on_event)
        return app

    async def _on_command(self, ack: AsyncAck, body: dict[str, Any]) -> None:
        if await self._inbox.store(COMMAND, body):
            await ack()
        else:
            await ack(_NOT_STORED)

    async def _on_submission(self, ack: AsyncAck, body: dict[str, Any]) -> None:
        if body["view"].get("callback_id") == ADDRESS:  # it holds a password: looked at here and now, and stored nowhere
            said = await self._form.answer(body, self._team)
            await (ack(response_action="errors", errors={ADDRESS_INPUT: said}) if said else ack())
        elif await self._inbox.store(SUBMISSION, body):
            await ack()
        else:
            await ack(response_action="errors", errors={"reason": _NOT_STORED})

    async def _on_action(self, ack: AsyncAck, body: dict[str, Any]) -> BoltResponse | None:
        return await self._stored(ACTION, ack, body)

    async def _on_event(self, ack: AsyncAck, body: dict[str, Any]) -> BoltResponse | None:
        event = body.get("event", {})
        if not (is_note(event, self._bot) or is_mention(event, self._bot)):
            await ack()
            return None
        return await self._stored(EVENT, ack, body)

    async def _stored(self, kind: str, ack: AsyncAck, body: dict[str, Any]) -> BoltResponse | None:
        if await self._inbox.store(kind, body):
            await ack()
            return None
        # No ack: Slack marks the press as failed, and sends an event again.
        return BoltResponse(status=503, body="")

    # -------------------------------------------------------------- the work, after the ack

    async def _work(self, item: Item) -> None:
        sender = payload.sender(item.kind, item.body)
        if not self._team or sender.person.team != self._team:
            if item.kind == EVENT and item.body["event"].get("type") == "message":
                return  # a guest who talks in a thread asked nothing of us
            await self._foreigner(item, sender)
        if item.kind == COMMAND:
            await self._commands.typed(item, sender)
        elif item.kind == ACTION:
            await self._buttons.pressed(item, sender)
        elif item.kind == SUBMISSION:
            await self._submitted(item, sender)
        elif item.body["event"].get("type") == "app_mention":
            await self._commands.mentioned(item, sender)
        else:
            await self._buttons.said(item, sender)

    async def _submitted(self, item: Item, sender: Sender) -> None:
        name = item.body["view"].get("callback_id")
        if name == REQUEST:
            await self._commands.filled_in(item, sender)
        elif name == REJECT:
            await self._buttons.rejected(item, sender)

    async def _foreigner(self, item: Item, sender: Sender) -> None:
        """Somebody of another workspace, in a shared channel. Raises Denied, always."""
        run, action = _aimed_at(item)
        why = "not of this workspace"
        if run:
            with suppress(Refusal):
                await self._journal.record(run, "denied", by=sender.person.id, action=action, why=why)
        raise Denied("Only people of this workspace may do that. Nothing was done.")

    async def _tell(self, item: Item, text: str) -> None:
        try:
            asker = payload.sender(item.kind, item.body).asker
        except (KeyError, TypeError):
            log.warning("a %s names nobody who could be told", item.kind)
            return
        await self._chat.tell(asker, private(text))


class _NoAddress(logging.Filter):
    """The socket's address is a secret while it lives, and the client logs it when it can't connect. When it debugs, it logs what people type."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = re.sub(r"wss?://\S+", "***", record.getMessage())
        record.args, record.exc_info = (), None
        return True


def _socket_log() -> logging.Logger:
    logger = logging.getLogger("handlers.socket")
    logger.setLevel(logging.INFO)
    if not logger.filters:
        logger.addFilter(_NoAddress())
    return logger


def _aimed_at(item: Item) -> tuple[str, str]:
    """The run that a press or a form is about, and what was pressed."""
    if item.kind == SUBMISSION:
        return str(payload.private_metadata(item.body).get("run") or ""), str(item.body["view"].get("callback_id"))
    for action in item.body.get("actions", ()):
        value, block = str(action.get("value") or ""), str(action.get("block_id") or "")
        return (value.rpartition(":")[0] or block.partition(":")[2]), str(action.get("action_id"))
    return "", item.kind
