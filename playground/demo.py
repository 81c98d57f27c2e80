"""`backout demo`: an incident channel in the browser, or one whole rollback as a script. Needs nothing, leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any

import aiohttp
import psycopg

from playground import demo_live, demo_script
from playground.demo_screen import Screen
from playground.demo_stage import DemoFailed, StartPostgres

_STOPPED = 128  # and the number of the signal, as shells have it
_PAUSE = 2.0  # seconds before each scene, when somebody watches


def main(start_postgres: StartPostgres, *, script: bool = False, port: int | None = None) -> int:
    """The page on 127.0.0.1 until Ctrl-C; with `script`, or when nobody watches and no port is given, the scripted run.

    Exit code: 0 when the script was seen through, 1 when anything failed, 130 after Ctrl-C.
    """
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a text stream at start
    watched = sys.stdout.isatty()
    screen = Screen(colours=watched and "NO_COLOR" not in os.environ)  # noqa: TID251  the playground has no bot/settings.py
    try:
        if script or (port is None and not watched):
            return asyncio.run(_run(demo_script.play(start_postgres, screen, _PAUSE if watched else 0.0), screen))
        return asyncio.run(_run(demo_live.play(start_postgres, screen, port), screen))
    except BrokenPipeError:
        # Nobody reads any more, e.g. `backout demo | head`: what is left in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


async def _run(play: Coroutine[Any, Any, None], screen: Screen) -> int:
    """Everything is taken down however it ends; a second Ctrl-C does not disturb that."""
    playing = asyncio.ensure_future(play)
    stopped: list[int] = []

    def stop(number: int) -> None:
        if not stopped:
            stopped.append(number)
            playing.cancel()
            screen.tell("Stopping: it takes a few seconds to leave nothing behind.")

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    try:
        await playing
    except asyncio.CancelledError:
        if not stopped:
            raise
        return _STOPPED + stopped[0]
    except (DemoFailed, RuntimeError, OSError, psycopg.Error, aiohttp.ClientError) as error:
        screen.show("The demo failed.", str(error))
        return 1
    return 0
