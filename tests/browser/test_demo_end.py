"""How the demo ends, seen from its page and from what it leaves behind."""

from __future__ import annotations

import pytest
from playwright.async_api import Browser

from tests.browser.workspace import demo, opened

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_ctrl_c_in_mid_run_ends_it_and_leaves_nothing_behind(browser: Browser) -> None:
    async with demo() as running, opened(browser, await running.address()) as workspace:
        await workspace.write("/rollback 0004 sev high because checkout is down", "U0DEV")
        await workspace.card("awaiting_approval")
        await workspace.press("approve", "U0DBA")
        await workspace.card("running", "succeeded")
        assert await running.end() in {0, 130}
        assert "Traceback" not in running.output
        assert running.left() == []
