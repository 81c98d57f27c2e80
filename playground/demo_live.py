"""The demo in a browser: everything is started, the page's address is printed, and it goes on until Ctrl-C."""

from __future__ import annotations

from playground.demo_screen import Screen
from playground.demo_stage import StartPostgres
from playground.demo_world import world
from playground.page import Page

PORT = 4004


async def play(start_postgres: StartPostgres, screen: Screen, port: int | None) -> None:
    """`port` None: the usual one. A port that is taken is named, and another one used. Ends only when cancelled."""
    wanted = PORT if port is None else port
    screen.tell("Starting a Postgres with a shop of 150,000 rows in it, a stand-in for Slack, and Backout as its own process. Some ten seconds.")
    async with world(start_postgres) as scene, Page(scene, wanted) as page:
        if page.taken:
            screen.tell(f"Port {wanted} is taken, so it is {page.port}.")
        screen.tell(f"Open {page.url}")
        screen.tell("You are Dev and checkout is down: the channel says what to type and who to be. Ctrl-C ends it and leaves nothing behind.")
        await scene.follow()
