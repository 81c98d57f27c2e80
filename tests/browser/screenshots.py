"""`make screenshots`: draws docs/images anew from the demo's page, so that no picture shows what is not there."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.async_api import Browser, Locator, ViewportSize, async_playwright, expect

from tests.browser.quiet import quiet
from tests.browser.workspace import CHROMIUM, FLAGS, PHONE, ROOT, WIDE, WITHIN, Workspace, demo, opened

IMAGES = ROOT / "docs/images"
MOST, MOST_IN_ALL = 200_000, 2_500_000  # bytes
ASK = "/rollback 0004 sev high because checkout is down since 0005"
WIDE_LIGHT = {"viewport": WIDE, "color_scheme": "light"}
PHONE_DARK = {"viewport": PHONE, "color_scheme": "dark", "device_scale_factor": 1.5, "is_mobile": True, "has_touch": True}


class Camera:
    """The same moment on a wide light page and on a dark phone."""

    def __init__(self, wide: Workspace, phone: Workspace) -> None:
        self.wide, self.phone = wide, phone

    async def act_as(self, user: str) -> None:
        for page in (self.wide, self.phone):
            await page.act_as(user)

    async def both(self, name: str, of: Callable[[Workspace], Locator] | None = None) -> None:
        """The windows as they stand, or one part of them in full."""
        for page, suffix in ((self.wide, ""), (self.phone, "-phone")):
            await self.take(page, f"{name}{suffix}", of(page) if of else None)

    async def take(self, page: Workspace, name: str, part: Locator | None = None) -> None:
        await expect(page.part("notice")).to_have_count(0)
        await page.page.mouse.move(0, 0)
        if part is None:
            _keep(await page.page.screenshot(**_STILL), name)
            return
        usual = page.page.viewport_size or WIDE
        await page.page.set_viewport_size(ViewportSize(width=usual["width"], height=4000))  # so that no list cuts it off
        await part.evaluate("each => each.scrollIntoView()")
        box = await part.bounding_box()  # not the part's own picture: a card that changes meanwhile is another element
        assert box is not None
        _keep(await page.page.screenshot(clip=box, **_STILL), name)
        await page.page.set_viewport_size(usual)

    async def card(self, state: str) -> None:
        """In that state on both pages, its message's top in sight."""
        for page in (self.wide, self.phone):
            await page.card(state)
            await _card(page).evaluate("each => each.scrollIntoView({block: 'start'})")

    async def ended(self, state: str) -> None:
        """The same once the run's last message is there."""
        thread = await self.wide.thread()
        await expect(thread.locator('[data-name^="post-mortem-"]')).to_be_visible(timeout=WITHIN)
        await self.wide.part("thread-close").click()
        await self.card(state)


_STILL: dict[str, Any] = {"animations": "disabled", "caret": "hide"}


def _keep(picture: bytes, name: str) -> None:
    """With 256 colours: a third of the bytes, and the text is as sharp."""
    drawn = Image.open(io.BytesIO(picture)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    drawn.save(IMAGES / f"{name}.png", optimize=True)


def _card(page: Workspace) -> Locator:
    return page.part("message").filter(has=page.cards).last


async def _happy(camera: Camera) -> None:
    wide, phone = camera.wide, camera.phone
    await wide.shop_is(healthy=False)
    await wide.act_as("U0DEV")
    await wide.part("composer").fill(ASK)
    await camera.take(wide, "incident")
    await wide.part("send").click()
    await camera.card("rehearsing")
    await camera.take(wide, "rehearsing", _card(wide))
    await camera.card("awaiting_approval")
    await camera.both("awaiting-approval", _card)
    await wide.press("approve", "U0SENIOR")
    await expect(wide.messages("ephemeral")).to_be_visible(timeout=WITHIN)
    await camera.take(wide, "denied", wide.messages("ephemeral").last)
    await camera.act_as("U0DBA")
    await camera.card("awaiting_approval")
    await camera.take(wide, "channel")
    await camera.take(phone, "channel-phone")
    await phone.button("approve").click()
    await camera.take(phone, "confirm-phone")
    await phone.part("confirm-no").click()
    await wide.button("approve").click()
    await camera.take(wide, "confirm")
    await wide.part("confirm-yes").click()
    await camera.ended("succeeded")
    await camera.both("succeeded", _card)
    await wide.shop_is(healthy=True)
    for page in (wide, phone):
        await page.thread()
        await expect(page.part("thread").get_by_test_id("file").last).to_be_visible(timeout=WITHIN)
    await camera.take(wide, "thread")
    await camera.take(phone, "thread-phone")
    table = wide.part("thread").get_by_test_id("message").filter(has_text=re.compile("no order lost"))
    await camera.take(wide, "verification", table.last)
    for page, name in ((wide, "post-mortem"), (phone, "post-mortem-phone")):
        await page.document("post-mortem-")
        await camera.take(page, name)
        await page.close_document()


async def _blocked(camera: Camera) -> None:
    wide = camera.wide
    await wide.reset("blocked")
    await wide.write(ASK, "U0DEV")
    await camera.card("awaiting_approval")
    await camera.act_as("U0DBA")
    await wide.press("approve")
    await camera.card("running")
    await camera.both("running", _card)
    await camera.card("needs_decision")
    await camera.both("needs-decision", _card)
    await wide.press("leave")
    await camera.ended("failed")
    await camera.take(wide, "failed", _card(wide))


async def _high_loss(camera: Camera) -> None:
    wide = camera.wide
    await wide.reset()
    await wide.write("/rollback 0001 sev high because checkout is down since 0005", "U0DEV")
    await camera.card("awaiting_approval")
    await camera.take(wide, "high-loss", _card(wide))
    await camera.act_as("U0DBA")
    await wide.button("reject").click()
    await wide.fill(reason="we fix forward")
    await wide.submit()
    await camera.ended("rejected")


async def _rejected(camera: Camera) -> None:
    wide = camera.wide
    await wide.reset()
    await wide.write("/rollback 0004", "U0DEV")
    await wide.fill(reason="checkout is down since 0005", severity="critical")
    await camera.take(wide, "form")
    await wide.submit()
    await camera.card("awaiting_approval")
    await camera.take(wide, "awaiting-two-approvals", _card(wide))
    await camera.act_as("U0DBA")
    await wide.button("reject").click()
    await wide.fill(reason="we fix forward")
    await camera.take(wide, "reject")
    await wide.submit()
    await camera.ended("rejected")
    await camera.take(wide, "rejected", _card(wide))


async def _draw(browser: Browser, address: str) -> None:
    async with opened(browser, address, **WIDE_LIGHT) as wide, opened(browser, address, **PHONE_DARK) as phone:
        camera = Camera(wide, phone)
        await _happy(camera)
        await _blocked(camera)
        await _high_loss(camera)
        await _rejected(camera)


async def _golden(browser: Browser, name: str, picture: str) -> None:
    """A card that the demo has no story for, as its golden file holds it."""
    held = json.loads((ROOT / f"tests/golden/card-{name}.json").read_text())
    async with quiet() as (scene, address), opened(browser, address, **WIDE_LIGHT) as wide:
        await scene.post(held["text"], blocks=held["blocks"])
        await expect(wide.messages("message")).to_have_count(1, timeout=WITHIN)
        await Camera(wide, wide).take(wide, picture, wide.messages("message").last)


async def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    async with demo() as running, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=False, args=FLAGS)
        await _draw(browser, await running.address())
        await _golden(browser, "empty_downgrade", "empty-downgrade")
        await _golden(browser, "sampled", "sampled")
        await _golden(browser, "at_provider", "at-provider")
        await browser.close()
    _weigh(sorted(IMAGES.glob("*.png")))


def _weigh(images: list[Path]) -> None:
    """Raises SystemExit for pictures that nobody wants to download."""
    for image in images:
        print(f"{image.stat().st_size / 1000:7.0f} kB  {image.relative_to(ROOT)}")
    heavy = [image.name for image in images if image.stat().st_size > MOST]
    if heavy or sum(image.stat().st_size for image in images) > MOST_IN_ALL:
        raise SystemExit(f"too heavy: {', '.join(heavy) or 'all together'}")


if __name__ == "__main__":
    asyncio.run(main())
