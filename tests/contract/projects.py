"""Sample Alembic projects on disk, each with another kind of env.py, and a database that stands at their newest revision."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg

from bot.model import Plan, Undone
from bot.place import Connect, Identity

INI = """[alembic]
script_location = {folder}
prepend_sys_path = .
sqlalchemy.url = {url}
[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = generic
[logger_root]
level = INFO
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stderr,)
formatter = generic
[formatter_generic]
format = %(levelname)s %(message)s
"""

HEAD = """
import os, sys
from logging.config import fileConfig
from alembic import context
import sqlalchemy as sa
config = context.config
if config.config_file_name is not None:
    fileConfig(config.config_file_name)
"""

FROM_INI = """
from sqlalchemy import engine_from_config, pool
engine = engine_from_config(config.get_section(config.config_ini_section, {}), prefix="sqlalchemy.", poolclass=pool.NullPool)
"""

RUN = """
with engine.connect() as connection:
{before}
    context.configure(connection=connection, target_metadata=None{options})
    with context.begin_transaction():
        context.run_migrations()
"""

ASYNC = """
import asyncio
from sqlalchemy.ext.asyncio import create_async_engine
def do(connection):
    context.configure(connection=connection, target_metadata=None)
    with context.begin_transaction():
        context.run_migrations()
async def go():
    engine = {engine}
    async with engine.connect() as connection:
        await connection.run_sync(do)
    await engine.dispose()
asyncio.run(go())
"""


def env(engine: str = "", *, first: str = "", before: str = "pass", options: str = "") -> str:
    """A plain env.py. `first` runs before the engine is made, `before` on the connection before configure()."""
    made = f"engine = {engine}\n" if engine else FROM_INI
    return HEAD + "from sqlalchemy import create_engine\n" + first + "\n" + made + RUN.format(before=textwrap.indent(before, "    "), options=options)


def by_environment(driver: str = "psycopg2") -> str:
    return env(f"create_engine(os.environ['DATABASE_URL'].replace('postgresql:', 'postgresql+{driver}:'))")


def async_by_environment(driver: str = "asyncpg") -> str:
    engine = f"create_async_engine(os.environ['DATABASE_URL'].replace('postgresql:', 'postgresql+{driver}:'))"
    return HEAD + ASYNC.format(engine=engine)


def env_for(driver: str) -> str:
    """The env.py that people write for a driver."""
    return async_by_environment(driver) if driver == "asyncpg" else by_environment(driver)


@dataclass(frozen=True)
class Script:
    down: str | None
    message: str
    downgrade: str = "pass"
    depends_on: str | None = None
    upgrade: str = "raise RuntimeError('nothing here is ever upgraded')"


SCRIPTS: Mapping[str, Script] = {
    "0001": Script(None, "create orders", "op.drop_table('orders')"),
    "0002": Script("0001", "add note", "op.drop_column('orders', 'note')"),
    "0003": Script("0002", "index", "op.drop_index('ix_name')"),
    "0004": Script("0003", "customers", "op.drop_table('customers')"),
    "0005": Script("0004", "add scoring fields", "op.drop_column('orders', 'score')"),
}

_UPGRADES = {
    "0001": "op.create_table('orders', sa.Column('id', sa.Integer, primary_key=True), sa.Column('name', sa.Text))",
    "0002": "op.add_column('orders', sa.Column('note', sa.Text))",
    "0003": "op.create_index('ix_name', 'orders', ['name'])",
    "0004": "op.create_table('customers', sa.Column('id', sa.Integer, primary_key=True))",
    "0005": "op.add_column('orders', sa.Column('score', sa.Integer))",
}
#: the same history, which can go forward, too
BOTH_WAYS: Mapping[str, Script] = {revision: replace(script, upgrade=_UPGRADES[revision]) for revision, script in SCRIPTS.items()}

SEED = """
CREATE TABLE orders (id int PRIMARY KEY, name text, note text, score int);
INSERT INTO orders SELECT g, 'n' || g, NULL, g % 10 FROM generate_series(1, 100) g;
CREATE INDEX ix_name ON orders (name);
CREATE TABLE customers (id int PRIMARY KEY);
CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY);
INSERT INTO alembic_version VALUES ('0005');
"""


def seed(connect: Connect) -> Connect:
    """The database as it is at 0005."""
    with psycopg.connect(connect.url(), autocommit=True) as session:
        session.execute(SEED)
    return connect


def stands(connect: Connect) -> tuple[str | None, tuple[str, ...]]:
    """The revision, and the columns of orders."""
    with psycopg.connect(connect.url(), autocommit=True) as session:
        version = session.execute("SELECT string_agg(version_num, ',') FROM alembic_version").fetchone()
        columns = session.execute(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'orders' ORDER BY ordinal_position"
        ).fetchall()
    assert version is not None
    return version[0], tuple(row[0] for row in columns)


UNTOUCHED = ("0005", ("id", "name", "note", "score"))
UNDONE = ("0004", ("id", "name", "note"))


@dataclass(frozen=True)
class Project:
    directory: Path
    scripts: Mapping[str, Script]
    folder: str

    def file(self, revision: str) -> Path:
        return next((self.directory / self.folder / "versions").glob(f"{revision}_*.py"))

    def sha256(self, revision: str) -> str:
        return hashlib.sha256(self.file(revision).read_bytes()).hexdigest()

    def plan(self, from_: str = "0005", to: str = "0004", *, one_transaction: bool = False) -> Plan:
        """A plan for a linear history; its hashes are those of the files as they are now."""
        undone = [revision for revision in sorted(self.scripts, reverse=True) if to < revision <= from_]
        return Plan(
            target="shop",
            from_=from_,
            to=to,
            undone=tuple(Undone(revision=one, message=self.scripts[one].message, date=None, sha256=self.sha256(one)) for one in undone),
            steps=(),
            identity=Identity(system="1", timeline=1, oid=1, database="shop", version=180000, started=""),
            one_transaction=one_transaction,
        )


def make(
    directory: Path,
    env_py: str,
    *,
    downgrade: str | None = None,
    scripts: Mapping[str, Script] = SCRIPTS,
    url: str = "postgresql+psycopg2://nobody@localhost/nowhere",
    folder: str = "migrations",
    is_package: bool = False,
    pyproject: bool = False,
) -> Project:
    """`downgrade` is the body of 0005's, `folder` the script_location."""
    if downgrade is not None:
        scripts = {**scripts, "0005": replace(scripts["0005"], downgrade=downgrade)}
    versions = directory / folder / "versions"
    versions.mkdir(parents=True)
    (directory / folder / "env.py").write_text(env_py)
    (directory / folder / "script.py.mako").write_text("")
    if is_package:
        (directory / folder / "__init__.py").write_text("raise RuntimeError('this is not the library')\n")
    if pyproject:
        (directory / "pyproject.toml").write_text(f'[tool.alembic]\nscript_location = "%(here)s/{folder}"\nprepend_sys_path = ["."]\n')
    else:
        (directory / "alembic.ini").write_text(INI.format(folder=folder, url=url))
    for revision, script in scripts.items():
        name = f"{revision}_{script.message.replace(' ', '_')}.py"
        (versions / name).write_text(_text(revision, script))
    return Project(directory, scripts, folder)


def _text(revision: str, script: Script) -> str:
    return f'''"""{script.message}

Revision ID: {revision}
Revises: {script.down or ""}
Create Date: 2026-11-18 02:11:09.123456
"""
from alembic import op
import sqlalchemy as sa
revision = {revision!r}
down_revision = {script.down!r}
branch_labels = None
depends_on = {script.depends_on!r}
def upgrade():
{textwrap.indent(script.upgrade, "    ")}
def downgrade():
{textwrap.indent(script.downgrade, "    ")}
'''
