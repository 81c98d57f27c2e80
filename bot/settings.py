"""What the environment may say. Nothing else reads os.environ."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR")


def inherited() -> dict[str, str]:
    """The few variables that a program of ours gets from us; never a secret."""
    found = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {"PATH": os.defpath, "LANG": "C.UTF-8", **found}


def environment() -> Mapping[str, str]:
    """Everything, for ${VAR} in backout.yml."""
    return os.environ


class Settings:
    """CONTRACT's environment, read once. Empty counts as unset."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        env = {key: value for key, value in (os.environ if environ is None else environ).items() if value != ""}
        self.slack_bot_token = env.get("SLACK_BOT_TOKEN")
        self.slack_app_token = env.get("SLACK_APP_TOKEN")
        self.slack_signing_secret = env.get("SLACK_SIGNING_SECRET")
        self.slack_api_url = env.get("SLACK_API_URL", "https://slack.com/api/").rstrip("/") + "/"
        self.config = Path(env.get("BACKOUT_CONFIG", "backout.yml"))
        self.home = Path(env["BACKOUT_HOME"]) if "BACKOUT_HOME" in env else _default_home(env)
        self.database_url = env.get("BACKOUT_DATABASE_URL")
        self.executor_id = env.get("BACKOUT_EXECUTOR_ID")
        self.token = env.get("BACKOUT_TOKEN")
        self.host = env.get("HOST", "127.0.0.1")
        self.port = env.get("PORT", "3000")
        self.proxy = env.get("HTTPS_PROXY")
        self.log = env.get("BACKOUT_LOG", "info")

    def secrets(self) -> tuple[str, ...]:
        """What must never be shown."""
        mine = (self.slack_bot_token, self.slack_app_token, self.slack_signing_secret, self.token)
        return tuple(value for value in mine if value)


def _default_home(env: Mapping[str, str]) -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/backout")
    state = env.get("XDG_STATE_HOME") or str(Path(env.get("HOME", "~")).expanduser() / ".local" / "state")
    return Path(state) / "backout"
