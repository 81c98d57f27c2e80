"""What backout.yml says of Alembic."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from bot.tools.bounds import Bounds


class AlembicSettings(Bounds):
    kind: Literal["alembic"] = "alembic"
    directory: Path = Field(description="The folder from which alembic is called, such as ./shop.")
    python: str | Path = Field("python3", description="The Python of the application's own environment, such as ./shop/.venv/bin/python.")
    config: str = Field("alembic.ini", description="The configuration's name in that folder.")
    section: str = Field("alembic", description="Its section, as alembic's --name.")
    x: tuple[str, ...] = Field((), description="Arguments for env.py, as alembic's -x.")
    env: dict[str, str] = Field(
        {"DATABASE_URL": "{url}"}, repr=False, description="Variables for env.py. {user} {password} {host} {port} {database} {url} are filled in."
    )

    def placed(self, base: Path) -> AlembicSettings:
        """Relative paths begin at `base`; a Python without a slash is looked up on PATH."""
        python = str(self.python)
        return self.model_copy(update={"directory": base / self.directory, "python": str(base / python) if "/" in python else python})
