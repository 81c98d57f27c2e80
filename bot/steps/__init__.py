"""Everything that is done to production or to a copy of it, one file each."""

from __future__ import annotations

from bot.durable import Step
from bot.steps.archive import archive
from bot.steps.back_up import back_up
from bot.steps.check_preconditions import check_preconditions
from bot.steps.deploy_backup import deploy_backup
from bot.steps.downgrade import downgrade
from bot.steps.look_at_code import look_at_code
from bot.steps.look_at_health import look_at_health
from bot.steps.merge_tables import merge_tables
from bot.steps.publish import publish
from bot.steps.put_back import put_back
from bot.steps.reconcile import reconcile
from bot.steps.rehearse import rehearse
from bot.steps.replace import replace
from bot.steps.restore_beside import restore_beside
from bot.steps.restore_point import restore_point
from bot.steps.roll_back_application import roll_back_application
from bot.steps.stage_backup import stage_backup
from bot.steps.stamp import stamp
from bot.steps.start_writers import start_writers
from bot.steps.stop_writers import stop_writers
from bot.steps.swap import swap
from bot.steps.try_copy import recover, try_copy, try_stamp, try_tables
from bot.steps.upgrade import upgrade
from bot.steps.verify import verify
from bot.steps.watch import watch

STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        back_up, rehearse, try_copy, recover, try_tables, try_stamp, check_preconditions, stop_writers, restore_point, restore_beside, swap,
        replace, publish, stage_backup, deploy_backup, merge_tables, stamp, archive,
        downgrade, reconcile, upgrade, put_back, verify,
        roll_back_application, start_writers, look_at_health, look_at_code, watch,
    )
}  # fmt: skip
