"""The product in this process, on a real project and a real database: what a preview says, without a process of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from bot import config as configuration
from bot.app import App, opened
from bot.databases.postgres import PostgresDatabase
from bot.errors import Refusal
from bot.evidence import Snapshot
from bot.place import Connect
from bot.settings import Settings
from tests import harness
from tests.contract import projects
from tests.contract.projects import Script

Json = dict[str, Any]


@dataclass
class Lab:
    """`own` is the target as its owner, `server` the same server as its superuser."""

    root: Path
    own: Connect
    server: Connect
    journal: Connect
    #: keys of targets.shop that are other than the harness has them
    target: Json = field(default_factory=dict)
    #: top-level keys, likewise
    top: Json = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    directory: Path | None = None

    def project(self, env: str | None = None, *, scripts: Mapping[str, Script] | None = None, **downgrades: str) -> projects.Project:
        """An Alembic project on disk; `_0005="pass"` replaces the body of a downgrade()."""
        found = dict(projects.SCRIPTS if scripts is None else scripts)
        for name, body in downgrades.items():
            one = found[name.removeprefix("_")]
            found[name.removeprefix("_")] = Script(one.down, one.message, body, one.depends_on)
        made = projects.make(self.root / "project", env or projects.by_environment(), scripts=found)
        self.directory = made.directory
        return made

    def sql(self, *statements: str) -> None:
        """As the target's owner."""
        _execute(self.own, statements)

    def superuser(self, *statements: str) -> None:
        """In the target's database, as the server's superuser."""
        _execute(self.server.model_copy(update={"database": self.own.database}), statements)

    async def photo(self) -> Snapshot:
        """Everything that must not change: the catalog, exact counts, the rows of the version table."""
        seen = await PostgresDatabase(target="shop", tool=self.own, admin=self.server).snapshot(count=True)
        versions = "none"
        if "table public.alembic_version" in seen.objects:
            with psycopg.connect(self.server.model_copy(update={"database": self.own.database}).url()) as session:
                versions = str(session.execute("SELECT version_num FROM alembic_version ORDER BY 1").fetchall())
        return seen.model_copy(update={"objects": {**seen.objects, "versions": versions}})

    @asynccontextmanager
    async def open(self, **urls: Connect) -> AsyncIterator[App]:
        """`database` and `admin` are other ways in; the configuration is read from its file, the app is the product's own."""
        config = harness.configuration(self.directory or self.project().directory, self.root, **self.target)
        config |= self.top
        environ = {f"{user}_TOKEN": f"fake-token-of-{user}" for user in harness.PEOPLE} | {"TARGET_URL": self.own.url()} | self.environ
        for key, connect in urls.items():
            environ[f"{key.upper()}_OTHER"] = connect.url()
            config["targets"]["shop"][key] = f"${{{key.upper()}_OTHER}}"
        path = self.root / "backout.yml"
        path.write_text(yaml.safe_dump(config, sort_keys=False))
        settings = Settings({"BACKOUT_DATABASE_URL": self.journal.url(), "BACKOUT_HOME": str(self.root / "home"), "BACKOUT_CONFIG": str(path)})
        async with opened(settings, configuration.load(path, environ)) as app:
            yield app

    async def refused(self, code: str, rev: str = "0004", **urls: Connect) -> Refusal:
        """A preview is refused with that code, in sentences, and nothing in the database changed."""
        async with self.open(**urls) as app:
            before = await self.photo()
            with pytest.raises(Refusal) as caught:
                await app.rollbacks.preview("shop", rev)
            assert await self.photo() == before
        return told(caught.value, code, self.own.password)


def told(refusal: Refusal, code: str, *secrets: str) -> Refusal:
    """What happened, what it means, what to do next: sentences, and no secret in them."""
    assert refusal.code == code, f"{refusal.code}: {refusal.message} {refusal.next}"
    for sentence in (refusal.message, refusal.next):
        assert len(sentence) > 10, sentence
        assert "\n" not in sentence
        assert not any(secret in sentence for secret in secrets if secret)
    assert "." in refusal.message
    return refusal


def _execute(connect: Connect, statements: tuple[str, ...]) -> None:
    with psycopg.connect(connect.url(), autocommit=True) as session:
        for statement in statements:
            session.execute(statement)
