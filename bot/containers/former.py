"""The application's own way back: a container created again on its former image, everything else as it was.

Where it died, it goes on: the new one is created beside the old one, the old one steps aside by its name, the new one takes the name.
The old one is removed when the new one has become ready.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bot.containers import likeness
from bot.containers.api import STATUS, Engine, Json, running
from bot.errors import Refusal, StepFailed
from bot.keeping import Work

LABEL = "backout.rolled-back"  #: the run that made it


async def not_here(engine: Engine, images: Mapping[str, str]) -> list[Refusal]:
    """Warnings: an image that is still to be pulled may be gone from its registry."""
    absent = [image for image in dict.fromkeys(images.values()) if await engine.image(image) is None]
    return [
        Refusal(
            "former_image_not_here",
            f"The former image {image} is not on the engine yet; it would be pulled in the middle of a run.",
            f"docker pull {image}",
            warning=True,
        )
        for image in absent
    ]


async def former(engine: Engine, there: Sequence[tuple[str, Json]], images: Mapping[str, str]) -> dict[str, Any]:
    """By container: image and what it is now. One that runs on that image already has no former."""
    known: dict[str, Any] = {}
    for service, found in there:
        image = images.get(service)
        if image is None:
            continue
        local = await engine.image(image)
        if local is not None and local["Id"].removeprefix("sha256:") == found["Image"].removeprefix("sha256:"):
            continue
        name = found["Name"].removeprefix("/")
        known[name] = {"image": image, "was": found["Config"]["Image"], "says": f"{name}: {found['Config']['Image']} -> {image}"}
    return known


async def roll_back(engine: Engine, name: str, known: Json, work: Work) -> str:
    """Raises StepFailed; what was stopped can still be started, as it was, until the new one has the name."""
    image = known["image"]
    there = await engine.found(name)
    if there is not None and is_ours(there, work.run):
        return f"{name} is on {image}"
    aside, following = _aside(name, work.run), _following(name, work.run)
    old = there or await engine.found(aside)
    if old is None:
        raise StepFailed(f"{name} is gone: somebody removed it. Create it again, on {image}.")
    if running(old):
        raise StepFailed(f"{name} runs, so it can't be made what it was. Find out who starts it, then retry.")
    await _have(engine, image, name)
    made = await engine.found(following)
    if made is None or there is not None:  # while the old one has the name, what lies there may be half made
        if made is not None:
            await engine.remove(made["Id"], force=True)
        config, others = await likeness.again(engine, old, image)
        config["Labels"] = {**config.get("Labels", {}), LABEL: work.run}
        made = await engine.found(await likeness.create(engine, following, config, others))
    if made is None:
        raise StepFailed(f"{following} was created and is gone: somebody removed it. Retry.")
    if there is not None:
        await engine.rename(there["Id"], aside)
    await engine.rename(made["Id"], name)
    return f"{name} is on {image} again (was on {known['was']})"


def is_ours(found: Json, run: str) -> bool:
    return bool((found["Config"].get("Labels") or {}).get(LABEL) == run)


async def put_right(engine: Engine, found: Json, name: str, run: str) -> None:
    """`found` is about to be started. Where a way back was left half done, the old one has its name again and the new one goes."""
    if is_ours(found, run):
        return
    if found["Name"].removeprefix("/") == _aside(name, run):
        await engine.rename(found["Id"], name)
    half = await engine.found(_following(name, run))
    if half is not None and is_ours(half, run):
        await engine.remove(half["Id"], force=True)


async def settled(engine: Engine, found: Json, run: str) -> str:
    """The new one is ready: the old one, kept until now, goes. What is said of it."""
    if not is_ours(found, run):
        return f" (created anew by somebody, as {found['Id'][:12]})"
    old = await engine.found(_aside(found["Name"].removeprefix("/"), run))
    if old is not None and not running(old):
        await engine.remove(old["Id"])
    return f", on {found['Config']['Image']}"


def _aside(name: str, run: str) -> str:
    return f"{name}.before-{run}"


def _following(name: str, run: str) -> str:
    return f"{name}.next-{run}"


async def _have(engine: Engine, image: str, name: str) -> None:
    if await engine.image(image) is not None:
        return
    try:
        await engine.pull(image)
    except StepFailed as error:
        raise StepFailed(
            f"{name} can't go back to {image}: it is not on the engine, and it can't be pulled. {error.message} Pull it by hand, then retry.",
            {STATUS: error.facts.get(STATUS)},
        ) from None
