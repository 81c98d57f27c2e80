"""Everything that is done to production, one file each."""

from __future__ import annotations

from bot.durable import Step
from bot.steps.back_up import back_up
from bot.steps.check_preconditions import check_preconditions
from bot.steps.downgrade import downgrade
from bot.steps.start_writers import start_writers
from bot.steps.verify import verify

STEPS: dict[str, Step] = {step.name: step for step in (check_preconditions, back_up, downgrade, verify, start_writers)}
