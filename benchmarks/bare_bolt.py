"""What Backout's ack is compared with: a Bolt app as its first page has it, which does nothing but `await ack()`. A process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from slack_bolt.adapter.socket_mode.aiohttp import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncAck, AsyncApp
from slack_sdk.web.async_client import AsyncWebClient


async def _acknowledge(ack: AsyncAck) -> None:
    await ack()


def main(said: dict[str, Any]) -> None:
    """`said`: token, api, secret, awaited, and port (HTTP) or app_token (Socket Mode)."""
    client = AsyncWebClient(token=said["token"], base_url=said["api"])
    app = AsyncApp(client=client, signing_secret=said["secret"], process_before_response=said["awaited"])
    app.command("/rollback")(_acknowledge)
    if "port" in said:
        app.server(port=said["port"], path="/slack/events", host="127.0.0.1").start()
    else:
        asyncio.run(_listen(app, said["app_token"], said["api"]))


async def _listen(app: AsyncApp, token: str, api: str) -> None:
    await AsyncSocketModeHandler(app, token, web_client=AsyncWebClient(token=token, base_url=api)).start_async()  # type: ignore[no-untyped-call]  # the SDK's own gap


if __name__ == "__main__":
    main(json.loads(sys.stdin.readline()))
