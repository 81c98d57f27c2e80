"""What every migration tool's settings say of time."""

from __future__ import annotations

import datetime as dt

from pydantic import BaseModel, ConfigDict, Field

from bot.values import Duration


class Bounds(BaseModel):
    """The base of a tool's settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lock_timeout: Duration = Field(dt.timedelta(seconds=5), description="How long a statement waits for a lock.")
    statement_timeout: Duration = Field(dt.timedelta(minutes=15), description="How long one statement may run.")
    read_timeout: Duration = Field(dt.timedelta(seconds=60), description="How long reading the history may take.")
    deadline: Duration = Field(dt.timedelta(minutes=30), description="How long a whole downgrade may take.")

    def of_session(self, application: str) -> dict[str, str]:
        """In Postgres' own units, milliseconds, so that they can be compared when they are read back."""
        milliseconds = {name: int(getattr(self, name).total_seconds() * 1000) for name in ("lock_timeout", "statement_timeout")}
        numbers = {**milliseconds, "client_connection_check_interval": 1000}
        return {"application_name": application} | {name: str(number) for name, number in numbers.items()}


def spelled(duration: dt.timedelta) -> str:
    return f"{duration.total_seconds():g} s"
