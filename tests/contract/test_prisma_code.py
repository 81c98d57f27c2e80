"""After a Prisma project's database has moved: what is left to do in the code, and schema.prisma beside the database.

Prisma itself is stood in for by a program that knows exactly the options of one version; tests/platforms has the real one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bot.model import CodeSeen
from bot.place import Connect
from bot.tools.prisma_rows import LOCK
from tests.conftest import MakeDatabase
from tests.contract.kits import HISTORY, PrismaKit
from tests.contract.test_every_tool import Place
from tests.contract.test_migration_tool import Doing

SEVEN = ["migrate", "diff", "--from-config-datasource", "--to-schema", "prisma/schema.prisma", "--exit-code"]
SIX = ["migrate", "diff", "--from-schema-datasource", "prisma/schema.prisma", "--to-schema-datamodel", "prisma/schema.prisma", "--exit-code"]
DIFFERS = "[+] Added tables\n  - Escrow\n\n[*] Changed the `users` table\n  [+] Added column `score`\n"
KIT = PrismaKit()
NAME = KIT.revision(5)


def prisma(place: Place, *, knows: list[str] | None = None, code: int = 0, says: str = "No difference detected.\n", also: str = "") -> None:
    """node_modules/.bin/prisma, which is strict about its words and writes down what it was given."""
    program = place.directory / "node_modules" / ".bin" / "prisma"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(
        f"#!{sys.executable}\nimport json, os, sys, time\n"
        f"if sys.argv[1:] != {SEVEN if knows is None else knows!r}:\n"
        "    sys.stderr.write('! unknown or unexpected option: ' + sys.argv[3] + '\\n'); sys.exit(1)\n"
        f"json.dump(dict(os.environ), open({str(place.directory / 'given.json')!r}, 'w'))\n"
        "sys.stderr.write('Loaded Prisma config from prisma.config.ts.\\n')\n"
        f"{also}\nsys.stdout.write({says!r}); sys.exit({code})\n"
    )
    program.chmod(0o755)


def given(place: Place) -> dict[str, str]:
    return dict(json.loads((place.directory / "given.json").read_text()))


@pytest.fixture
def place(server: Connect, make_database: MakeDatabase, tmp_path: Path) -> Place:
    found = Place(KIT, make_database("web"), server, tmp_path / "web")
    found.sql(*(statement for one in HISTORY.values() for statement in one.up), *KIT.seeds(5))
    found.project()
    return found


async def seen(place: Place, **settings: Any) -> CodeSeen:
    """One migration is taken back, then the code is looked at."""
    plan = await place.plan(4)
    await place.tool(**settings).downgrade(place.revision(4), Doing(plan))
    return await place.tool(**settings).code(plan)


def take_out(place: Place, name: str = NAME) -> None:
    folder = place.directory / "prisma" / "migrations" / name
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


# ------------------------------------------------------------------ the directories


async def test_a_directory_that_is_still_there_is_said_until_it_has_left_the_code(place: Place) -> None:
    prisma(place)
    found = await seen(place)
    assert found.left == (
        f"prisma/migrations/{NAME} is still in the code: the next `prisma migrate deploy` applies it again. Take the directory out",
    )
    assert found.says == "1 thing left to do in the code; prisma/schema.prisma says what the database is"
    plan = (await place.plan(3)).model_copy(update={"undone": ()})
    take_out(place)
    assert (await place.tool().code(plan)).says.startswith("the code has followed the database")


async def test_a_reverse_migration_is_said_until_it_is_in_the_code_to_the_byte(place: Place) -> None:
    prisma(place)
    plan = await place.plan(4)
    tool = place.tool(history="forward")
    facts = await tool.downgrade(place.revision(4), Doing(plan))
    [file] = facts["files"]
    assert "is not in the code yet: commit the file that the run put into its thread" in (await tool.code(plan)).left[0]
    there = place.directory / file["path"]
    there.parent.mkdir()
    there.write_text(file["text"] + "\n")
    assert "is in the code, but is not what ran" in (await tool.code(plan)).left[0]
    there.write_text(file["text"])
    assert (await tool.code(plan)).left == ()
    take_out(place)
    assert "both directories belong there" in (await tool.code(plan)).left[0]


async def test_every_plan_of_prisma_looks_at_the_code_and_no_other_tools(place: Place) -> None:
    assert (await place.tool().read()).code_follows


# ------------------------------------------------------------------ the schema


async def test_a_schema_that_differs_is_told_in_prismas_own_words(place: Place) -> None:
    prisma(place, code=2, says=DIFFERS)
    found = await seen(place)
    assert (found.same, found.difference) == (False, DIFFERS.strip())
    assert "Loaded Prisma config" not in found.difference
    assert found.says.endswith("prisma/schema.prisma differs from the database")


async def test_the_address_that_prisma_gets_can_only_be_read(place: Place) -> None:
    write = (
        "import psycopg\nwith psycopg.connect(os.environ['DATABASE_URL'], autocommit=True) as session:\n"
        "    assert session.execute('SELECT count(*) FROM orders').fetchone() == (0,)\n"
        "    for sql in ('CREATE TABLE mine (id int)', 'DROP TABLE orders', 'CREATE DATABASE shadow'):\n"
        "        try: session.execute(sql)\n"
        "        except psycopg.errors.ReadOnlySqlTransaction: continue\n"
        "        sys.exit(9)\n"
    )
    prisma(place, also=write)
    assert (await seen(place)).same is True


async def test_nothing_that_speaks_of_a_shadow_gets_the_targets_address(place: Place) -> None:
    prisma(place)
    await seen(place, env={"DATABASE_URL": "{url}", "SHADOW_DATABASE_URL": "{url}", "Other_Shadow": "{url}", "PLAIN": "as it is"})
    got = given(place)
    assert got["PLAIN"] == "as it is"
    assert place.own.database in got["DATABASE_URL"]
    assert not [name for name in got if "shadow" in name.lower()]


async def test_a_schema_of_its_own_is_named_to_prisma(place: Place) -> None:
    prisma(place)
    plan = await place.plan(4)
    await place.tool().downgrade(place.revision(4), Doing(plan))
    place.sql("CREATE SCHEMA app", "ALTER TABLE _prisma_migrations SET SCHEMA app")
    await place.tool(version_schema="app").code(plan)
    assert given(place)["DATABASE_URL"].endswith("&schema=app")


async def test_an_older_prisma_is_asked_in_its_own_words(place: Place) -> None:
    prisma(place, knows=SIX, code=2, says=DIFFERS)
    assert (await seen(place)).same is False


async def test_a_prisma_that_is_too_old_for_it_is_said_and_nothing_was_compared(place: Place) -> None:
    prisma(place, knows=["--version"])
    found = await seen(place)
    assert found.same is None
    assert "too old, or too new" in found.why
    assert "was not compared with it" in found.says


async def test_a_prisma_that_is_not_there_is_said_and_nothing_was_compared(place: Place) -> None:
    found = await seen(place)
    assert (found.same, "Prisma isn't installed where the tool runs (node_modules/.bin/prisma)" in found.why) == (None, True)


async def test_an_engine_that_died_in_silence_is_no_comparison(place: Place) -> None:
    prisma(place, says="")
    assert (await seen(place)).why == "Prisma ended with 0: it said nothing"


async def test_what_prisma_says_of_an_error_is_kept_without_the_password(place: Place) -> None:
    prisma(place, code=1, says="", also="sys.stderr.write('P1001 can not reach ' + os.environ['DATABASE_URL'])")
    found = await seen(place)
    assert "P1001" in found.why
    assert place.own.password not in found.model_dump_json()


async def test_a_prisma_that_hangs_is_ended(place: Place) -> None:
    prisma(place, also="time.sleep(600)")
    assert (await seen(place, read_timeout="3s")).why == "Prisma did not end within 3 s"


# ------------------------------------------------------------------ bad input


async def test_a_project_without_its_migrations_is_refused_with_the_setting_to_mend(
    server: Connect, make_database: MakeDatabase, tmp_path: Path
) -> None:
    from bot.errors import Refusal

    there = Place(KIT, make_database("web"), server, tmp_path / "web")
    there.sql(*KIT.seeds(0), *KIT.seeds(1))
    (there.directory / "prisma").mkdir(parents=True)
    with pytest.raises(Refusal) as refused:
        await there.tool().read()
    assert (refused.value.code, "prisma/migrations" in refused.value.message) == ("tool_missing", True)
    (there.directory / "prisma" / "migrations").mkdir()
    with pytest.raises(Refusal) as refused:
        await there.tool().read()
    assert (refused.value.code, refused.value.next) == ("broken_history", "Set tool.directory and tool.migrations to where they are.")


async def test_an_empty_migration_is_taken_back_without_a_statement_of_its_own(place: Place) -> None:
    empty = "20261106000000_nothing"
    folder = place.directory / "prisma" / "migrations" / empty
    folder.mkdir()
    (folder / "migration.sql").write_text("-- This is an empty migration.\n")
    from bot.tools.prisma_rows import Rows

    place.sql(*Rows("public").applied(empty, (folder / "migration.sql").read_text()))
    plan = await place.plan(5)
    facts = await place.tool().downgrade(place.revision(5), Doing(plan))
    assert {one["sql"].split()[0] for one in facts["statements"]} == {"UPDATE"}
    assert await place.stands() == NAME


async def test_two_failed_attempts_at_one_migration_are_both_marked(place: Place) -> None:
    broken = "20261106000000_broken"
    folder = place.directory / "prisma" / "migrations" / broken
    folder.mkdir()
    (folder / "migration.sql").write_text("SELECT 1/0;\n")
    for number in (1, 2):
        place.sql(
            "INSERT INTO _prisma_migrations (id, checksum, migration_name, logs, started_at)"
            f" VALUES ('{number}', 'x', '{broken}', 'division by zero', now() + interval '{number} s')"
        )
    history = await place.tool().read()
    assert history.current == (broken,)
    assert sum(broken in one and "division by zero" in one for one in history.remarks) == 1
    plan = await place.plan(5)
    await place.tool().downgrade(place.revision(5), Doing(plan))
    assert place.sql(f"SELECT count(*) FROM _prisma_migrations WHERE migration_name = '{broken}' AND rolled_back_at IS NOT NULL") == [(2,)]


async def test_a_deploy_that_is_running_is_named_and_nothing_is_executed(place: Place) -> None:
    import psycopg

    from bot.errors import StepFailed

    plan = await place.plan(4)
    with psycopg.connect(place.own.url(), autocommit=True, application_name="ci deploy") as deploy:
        deploy.execute(f"SELECT pg_advisory_lock({LOCK})")
        with pytest.raises(StepFailed, match=r"`prisma migrate` is running: session \d+ \(ci deploy\).*Nothing was executed"):
            await place.tool().downgrade(place.revision(4), Doing(plan))
    await place.untouched()


async def test_mapped_names_and_several_schemas_are_the_databases_own(place: Place) -> None:
    """@@map and @@schema are Prisma's words: migrations and ways down are SQL, and loss is read from them as the database calls it."""
    from bot.rollback import loss
    from bot.tools.prisma_rows import Rows

    name = "20261106000000_mapped"
    folder = place.directory / "prisma" / "migrations" / name
    folder.mkdir()
    up = 'CREATE SCHEMA "billing";\nCREATE TABLE "billing"."Invoice Lines" ("Id" int);\nALTER TABLE "public"."orders" ADD COLUMN "Tax Rate" int;\n'
    (folder / "migration.sql").write_text(up)
    (folder / "down.sql").write_text(
        'ALTER TABLE "public"."orders" DROP COLUMN "Tax Rate";\nDROP TABLE "billing"."Invoice Lines";\nDROP SCHEMA "billing";\n'
    )
    place.sql(up, *Rows("public").applied(name, up))
    history = await place.tool().read()
    found = {(one.kind, one.name) for one in loss.read_loss([history.revisions[0]])}
    assert {("table", '"billing"."Invoice Lines"'), ("column", '"Tax Rate"')} <= found
    plan = await place.plan(5)
    await place.tool().downgrade(place.revision(5), Doing(plan))
    assert place.sql("SELECT to_regnamespace('billing')") == [(None,)]
