"""One browser and one demo for all of them, a page and a clean incident for each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from playwright.async_api import Browser, async_playwright

from tests.browser.workspace import CHROMIUM, FLAGS, Demo, Workspace, demo, opened

OpenPage = Callable[..., Awaitable[Workspace]]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip("there is no Chromium; `make test-browser` installs Debian's")
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=False, args=FLAGS)
        yield started
        await started.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def running_demo() -> AsyncIterator[Demo]:
    """One for all tests that don't end it."""
    async with demo() as running:
        await running.address()
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(browser: Browser, running_demo: Demo) -> AsyncIterator[OpenPage]:
    """`await open_page(viewport=..., color_scheme=...)`: one more page of the demo, in a context of its own."""
    address = await running_demo.address()
    async with AsyncExitStack() as stack:

        async def open_one(**how: object) -> Workspace:
            return await stack.enter_async_context(opened(browser, address, **how))

        yield open_one


@pytest_asyncio.fixture(loop_scope="session")
async def workspace(open_page: OpenPage) -> Workspace:
    """A page of an incident that nobody did anything about yet."""
    workspace = await open_page()
    await workspace.reset()
    return workspace
