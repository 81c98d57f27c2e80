"""How the demo ends, seen from its page and from what it leaves behind."""

from __future__ import annotations

import socket

import pytest
from playwright.async_api import Browser, expect

from tests.browser.workspace import WITHIN, demo, opened

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_ctrl_c_in_mid_run_ends_it_and_leaves_nothing_behind(browser: Browser) -> None:
    async with demo() as running, opened(browser, await running.address()) as workspace:
        await workspace.write("/rollback 0004 sev high because checkout is down", "U0DEV")
        await workspace.card("awaiting_approval")
        await workspace.press("approve", "U0DBA")
        await workspace.card("running", "succeeded")
        assert await running.end() == 130
        await expect(workspace.page.get_by_role("alert").filter(has_text="does not answer")).to_be_visible(timeout=WITHIN)
        assert "Traceback" not in running.output
        assert running.left() == []


async def test_a_port_that_is_taken_is_named_and_another_one_is_used(browser: Browser) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with demo(port) as running:
            address = await running.address()
            assert f"Port {port} is taken" in running.output
            assert f":{port}/" not in address
            async with opened(browser, address) as workspace:
                await expect(workspace.messages("message").first).to_contain_text("Checkout is down", timeout=WITHIN)
