"""Where a target's own programs run: one file and one line each."""

from bot.runners.local import LocalRunner

RUNNERS = {"local": LocalRunner}
