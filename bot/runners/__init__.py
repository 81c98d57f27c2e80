"""Where a target's own programs run: one file and one line each."""

from typing import Any

from bot.runners.docker import DockerRunner
from bot.runners.kubernetes import KubernetesRunner
from bot.runners.local import LocalRunner

RUNNERS: dict[str, type[Any]] = {"local": LocalRunner, "docker": DockerRunner, "kubernetes": KubernetesRunner}
