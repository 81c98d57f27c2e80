"""What every plan has at its end, and how long it took before: the application's way back, the start, the watch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from bot.durable import TargetParts
from bot.errors import Refusal
from bot.model import PlanStep
from bot.ports import Journal


def back(target: TargetParts, former: Mapping[str, object], *, code: bool = False) -> list[str]:
    """The steps after the verification. `code`: it has to follow the database by hand."""
    looks = ["look_at_health"] if target.platform.stops and target.health is not None else []
    looks += ["look_at_code"] if code else []
    return [*(["roll_back_application"] if former else []), "start_writers", *looks, *(["watch"] if target.platform.has_services else [])]


async def application(target: TargetParts, strategy: str, journal: Journal) -> Mapping[str, object]:
    """What the application is made again. Raises Refusal(no_former_application) where that is asked for, and there is nothing it was."""
    wanted = target.platform.rolls_back
    if strategy in ("reapply", "stamp", "tables") or not (wanted or await journal.moved_by_itself(target.name)):
        return {}
    former = await target.platform.former()
    if wanted and not former:
        raise Refusal(
            "no_former_application",
            f"The application of {target.name} is to be rolled back too, but there is nothing it was before.",
            "Deploy the former version, or take roll_back and migrates_on_start out of its platform in backout.yml.",
        )
    return former


async def expected(target: str, steps: Sequence[PlanStep], moved: Sequence[str], journal: Journal) -> float | None:
    """Median seconds of earlier succeeded runs over the same revisions; None: not measured yet. A watch and a look are nobody's waiting."""
    earlier = await journal.durations(target, [step.name for step in steps if step.name not in ("watch", "look_at_code")], moved)
    return round(statistics.median(earlier), 1) if earlier else None


def remarks(target: TargetParts) -> list[str]:
    said = [] if target.platform.stops else ["Nobody is stopped (platform: none): what is written during the run may be lost and can't be counted."]
    if target.platform.migrates_on_start:
        said.append("Freeze deploys until this is over: the application upgrades the database when it starts.")
    return said
