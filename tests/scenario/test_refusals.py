"""Every refusal that people can meet, on a real project and a real server: its code, its way out, and a database that did not change."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from bot.databases.postgres import PostgresDatabase
from bot.errors import Refusal
from bot.model import Person, Request, Run, Severity
from bot.place import Connect
from tests.conftest import MakeDatabase
from tests.contract import projects
from tests.contract.projects import HEAD, UNTOUCHED, Script, env
from tests.contract.servers import TransactionPooler, physical_copy
from tests.harness import free_port
from tests.lab import Lab, told
from tests.proxy import Proxy
from tests.scenario.conftest import MakeBot

ENGINE = "create_engine(os.environ['DATABASE_URL'])"
BRANCHES: Any = {
    **{revision: projects.SCRIPTS[revision] for revision in ("0001", "0002", "0003", "0004")},
    "b004": Script("0003", "beside it"),
    "0005": Script(("0004", "b004"), "merge", "op.drop_column('orders', 'score')"),  # type: ignore[arg-type]
}
TWO_BASES: Any = {
    **{revision: projects.SCRIPTS[revision] for revision in ("0001", "0002", "0003", "0004")},
    "b001": Script(None, "another beginning"),
    "0005": Script(("0004", "b001"), "merge", "op.drop_column('orders', 'score')"),  # type: ignore[arg-type]
}
DEPENDING: Any = {
    **projects.SCRIPTS,
    "b001": Script(None, "another branch"),
    "0005": Script("0004", "needs another branch", "op.drop_column('orders', 'score')", "b001"),
}


@pytest.fixture
def lab(tmp_path: Path, server: Connect, make_database: MakeDatabase, make_journal_database: MakeDatabase) -> Lab:
    return Lab(tmp_path, projects.seed(make_database("shop")), server, make_journal_database("journal"))


def request(**changes: Any) -> Request:
    asked: dict[str, Any] = {"target": "shop", "rev": "0004", "reason": "orders fail", "severity": Severity.HIGH, "by": Person(id="U0DEV")}
    return Request(**asked | changes)


# ------------------------------------------------------------------ what was asked, and the history


async def test_what_is_current_stays_and_the_way_to_undo_it_is_named(lab: Lab) -> None:
    said = await lab.refused("nothing_to_roll_back", "0005")
    assert said.next == "0005 stays; to undo it: /rollback 0004"


async def test_the_first_migration_is_undone_by_asking_for_base(lab: Lab) -> None:
    lab.sql("UPDATE alembic_version SET version_num = '0001'")
    said = await lab.refused("nothing_to_roll_back", "0001")
    assert said.next == "0001 stays; to undo it: /rollback base"


@pytest.mark.parametrize(
    ("code", "rev", "hint"),
    [
        ("unknown_revision", "9999", "The newest are: 0005, 0004"),
        ("unknown_revision", "head", "use -1"),
        ("unknown_revision", "-9", "/rollback base undoes all of them"),
        ("ambiguous_revision", "00", "one character more"),
    ],
)
async def test_a_word_that_names_no_revision_is_refused(lab: Lab, code: str, rev: str, hint: str) -> None:
    assert hint in (await lab.refused(code, rev)).next


async def test_a_revision_that_was_never_applied_is_refused(lab: Lab) -> None:
    lab.sql("UPDATE alembic_version SET version_num = '0003'")
    assert "/rollback plan -1" in (await lab.refused("not_an_ancestor", "0005")).next


async def test_several_heads_are_refused(lab: Lab) -> None:
    lab.project(scripts={**projects.SCRIPTS, "b005": Script("0004", "beside it")})
    lab.sql("INSERT INTO alembic_version VALUES ('b005')")
    said = await lab.refused("several_heads")
    assert "0005, b005" in said.message
    assert "Merge the heads" in said.next


async def test_base_of_several_beginnings_is_refused(lab: Lab) -> None:
    lab.project(scripts=TWO_BASES)
    said = await lab.refused("several_bases", "base")
    assert "0001, b001" in said.message
    assert "Name the revision" in said.next


@pytest.mark.parametrize("rev", ["-1", "0004"])
async def test_a_merge_on_the_way_is_refused_and_where_its_branches_part_is_named_and_works(lab: Lab, rev: str) -> None:
    lab.project(scripts={**BRANCHES, "b004": Script("0003", "beside it", "op.drop_column('orders', 'note')")})
    assert "/rollback 0003" in (await lab.refused("merge_point", rev)).next
    async with lab.open() as app:
        assert [one.revision for one in (await app.rollbacks.preview("shop", "0003")).undone] == ["0005", "0004", "b004"]


async def test_a_dependency_on_another_branch_is_refused(lab: Lab) -> None:
    lab.project(scripts=DEPENDING)
    said = await lab.refused("depends_on")
    assert "b001" in said.message
    assert "restore a backup" in said.next


async def test_a_missing_script_is_refused(lab: Lab) -> None:
    lab.project().file("0003").unlink()
    said = await lab.refused("broken_history")
    assert "0003" in said.message
    assert "Deploy the missing script" in said.next


async def test_a_database_ahead_of_the_scripts_is_refused(lab: Lab) -> None:
    lab.sql("UPDATE alembic_version SET version_num = '0006'")
    said = await lab.refused("revision_unknown_to_scripts")
    assert "0006" in said.message
    assert "Deploy the scripts" in said.next


async def test_a_database_without_a_version_table_is_refused(lab: Lab) -> None:
    lab.sql("DROP TABLE alembic_version")
    assert "right database" in (await lab.refused("version_table_missing")).next


async def test_an_empty_version_table_is_refused(lab: Lab) -> None:
    lab.sql("DELETE FROM alembic_version")
    assert "stamp" in (await lab.refused("version_table_empty")).next


@pytest.mark.parametrize("body", ["pass", '"""Nothing to undo."""', "print('going down')", "return None"])
async def test_a_downgrade_that_does_nothing_is_refused(lab: Lab, body: str) -> None:
    lab.project(_0005=body)
    said = await lab.refused("empty_downgrade")
    assert "0005" in said.message
    assert "Write the downgrade" in said.next


async def test_a_script_without_a_downgrade_is_refused(lab: Lab) -> None:
    script = lab.project().file("0005")
    script.write_text(script.read_text().partition("def downgrade")[0])
    await lab.refused("empty_downgrade")


async def test_a_downgrade_that_only_raises_is_refused_even_in_the_middle_of_the_way(lab: Lab) -> None:
    lab.project(_0004="raise NotImplementedError('data was merged')")
    said = await lab.refused("raising_downgrade", "0003")
    assert "0004" in said.message
    assert "restore" in said.next


# ------------------------------------------------------------------ env.py


@pytest.mark.parametrize(
    ("code", "env_py", "hint"),
    [
        ("external_transaction", env(ENGINE, before="connection.execute(sa.text('select 1'))"), "commit before context.configure()"),
        ("external_transaction", env(ENGINE).replace("engine.connect()", "engine.begin()"), "use connect()"),
        ("tool_failed", HEAD + "print('no licence'); sys.exit(3)\n", "alembic current"),
        ("tool_failed", HEAD + "sys.exit(0)\n", "alembic current"),
        ("tool_failed", HEAD + "os._exit(0)\n", "alembic current"),
        ("tool_failed", HEAD + "raise RuntimeError('no vault')\n", "alembic current"),
        ("several_version_tables", env(ENGINE) + "    with context.begin_transaction():\n        context.run_migrations()\n", "once"),
    ],
    ids=["a statement before configure", "engine.begin", "exit 3", "exit 0", "exit without a word", "an error", "twice"],
)
async def test_an_env_that_can_not_be_trusted_is_refused(lab: Lab, code: str, env_py: str, hint: str) -> None:
    lab.project(env_py)
    assert hint in (await lab.refused(code)).next


async def test_an_env_that_hangs_is_stopped(lab: Lab) -> None:
    directory = lab.project(env(ENGINE, before="connection.execute(sa.text('select pg_sleep(600)'))")).directory
    lab.target["tool"] = {"kind": "alembic", "directory": str(directory), "python": sys.executable, "read_timeout": "1s"}
    assert "tool.read_timeout" in (await lab.refused("tool_timeout")).next


async def test_an_env_that_connects_elsewhere_is_refused(lab: Lab, make_database: MakeDatabase) -> None:
    other = projects.seed(make_database("other"))
    lab.project(env(ENGINE, first=f"create_engine({other.url()!r}).connect().execute(sa.text('delete from orders'))"))
    said = await lab.refused("wrong_database")
    assert other.password not in said.message
    assert "tool.env" in said.next
    assert projects.stands(other) == UNTOUCHED


# ------------------------------------------------------------------ programs and folders


@pytest.mark.parametrize(
    ("tool", "hint"),
    [
        ({"python": "./no/such/python"}, "tool.python"),
        ({"directory": "./no/such/folder"}, "tool.directory"),
        ({"config": "other.ini"}, "tool.config"),
    ],
    ids=["python", "folder", "configuration"],
)
async def test_a_tool_that_is_not_there_is_refused(lab: Lab, tool: dict[str, str], hint: str) -> None:
    lab.target["tool"] = {"kind": "alembic", "directory": str(lab.project().directory), "python": sys.executable, **tool}
    assert hint in (await lab.refused("tool_missing")).next


@pytest.mark.parametrize("kind", ["a file is in the way", "everybody may write"])
async def test_a_store_that_proves_nothing_is_refused(lab: Lab, kind: str) -> None:
    store = lab.root / "store"
    if kind == "everybody may write":
        store.mkdir()
        store.chmod(0o777)
        hint = f"chmod o-w {store}"
    else:
        store.write_text("")
        hint = "a directory that it may write to"
    lab.target["backups"] = {"store": str(store)}
    assert hint in (await lab.refused("store_unusable")).next


async def test_a_server_newer_than_every_pg_dump_here_is_refused(lab: Lab) -> None:
    version = (await PostgresDatabase(target="shop", tool=lab.own, admin=lab.server).identity()).version
    newer = (version.to_bytes(4, "big"), (version + 10_000).to_bytes(4, "big"))
    async with Proxy(lab.server, rewrite=newer) as line:
        said = await lab.refused("client_older_than_server", database=line.to(lab.own))
    assert f"PostgreSQL {version // 10_000 + 1}" in said.message
    assert f"postgresql-client-{version // 10_000 + 1}" in said.next


async def test_a_server_that_is_too_old_is_refused(lab: Lab) -> None:
    version = (await PostgresDatabase(target="shop", tool=lab.own, admin=lab.server).identity()).version
    async with Proxy(lab.server, rewrite=(version.to_bytes(4, "big"), (110_022).to_bytes(4, "big"))) as line:
        assert "Upgrade" in (await lab.refused("server_too_old", database=line.to(lab.own))).next


# ------------------------------------------------------------------ the server and the way to it


async def test_a_server_that_does_not_answer_is_refused(lab: Lab) -> None:
    nowhere = lab.own.model_copy(update={"port": free_port()})
    said = await lab.refused("unreachable", database=nowhere)
    assert f"127.0.0.1:{nowhere.port}" in said.message
    assert "may connect" in said.next


async def test_a_wrong_password_is_refused_and_not_told(lab: Lab) -> None:
    said = await lab.refused("wrong_credentials", database=lab.own.model_copy(update={"password": "hunter2-hunter2"}))
    assert "hunter2" not in said.message + said.next
    assert "Check user, password" in said.next


async def test_a_database_that_is_not_there_is_refused(lab: Lab) -> None:
    assert "name" in (await lab.refused("database_missing", database=lab.own.model_copy(update={"database": "no_such_database"}))).next


async def test_a_server_without_a_free_connection_is_refused(lab: Lab) -> None:
    lab.superuser(f"ALTER ROLE {lab.own.user} CONNECTION LIMIT 0")
    assert "End sessions" in (await lab.refused("too_many_connections")).next


@pytest.mark.parametrize("last_in_first_out", [True, False])
async def test_a_transaction_pooler_is_refused(lab: Lab, *, last_in_first_out: bool) -> None:
    async with TransactionPooler(lab.server, last_in_first_out=last_in_first_out) as port:
        said = await lab.refused("transaction_pooler", database=lab.own.model_copy(update={"port": port}), admin=lab.own)
    assert "server's own address" in said.next


async def test_a_standby_is_refused(lab: Lab) -> None:
    async with physical_copy(lab.server, standby=True) as copy:
        said = await lab.refused("standby", database=lab.own.model_copy(update={"port": copy.port}))
    assert "primary" in said.next


async def test_the_journals_own_server_is_refused(lab: Lab, make_database: MakeDatabase) -> None:
    lab.journal = make_database("journal")
    assert "BACKOUT_DATABASE_URL" in (await lab.refused("journal_server")).next


async def test_a_second_backout_on_the_same_target_is_refused(lab: Lab) -> None:
    other = PostgresDatabase(target="shop", tool=lab.own, admin=lab.server)
    async with lab.open() as app, other.fence("shop"):
        with pytest.raises(Refusal) as caught:
            async with app.rollbacks.targets["shop"].database.fence("shop"):
                pass
    said = told(caught.value, "fence_taken")
    assert "backout/" in said.message
    assert "Wait for it" in said.next


async def test_database_and_admin_on_two_servers_are_refused(lab: Lab, journal_server: Connect) -> None:
    """Both servers have a database of that name, as production and its copy do."""
    elsewhere = journal_server.model_copy(update={"database": lab.own.database})
    with psycopg.connect(journal_server.url(), autocommit=True) as there:
        there.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(lab.own.database)))
        try:
            said = await lab.refused("wrong_database", database=elsewhere, admin=lab.own)
        finally:
            there.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(lab.own.database)))
    assert "Give both URLs the same server" in said.next


async def test_a_server_that_keeps_its_identity_to_itself_is_a_refusal_with_its_words(lab: Lab) -> None:
    lab.superuser("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public")
    said = await lab.refused("planning_failed")
    assert "permission denied for function pg_control_system" in said.message


# ------------------------------------------------------------------ verifications, policy, targets, channels


async def test_a_verification_that_does_not_run_is_refused(lab: Lab) -> None:
    lab.target["verify"] = [{"name": "no order lost", "sql": "select count(*) from ordres", "expect": "same"}]
    said = await lab.refused("verification_broken")
    assert "no order lost" in said.message
    assert "ordres" in said.message
    assert "sql in backout.yml" in said.next


async def test_a_verification_that_could_not_run_afterwards_is_refused(lab: Lab) -> None:
    lab.target["verify"] = [{"name": "scores", "sql": 'select sum("score") from orders', "expect": "same"}]
    said = await lab.refused("verification_not_at_both")
    assert "orders.score" in said.message
    assert "another expect" in said.next


async def test_an_unknown_target_is_refused_with_the_known_ones(lab: Lab) -> None:
    async with lab.open() as app:
        for asking in (app.rollbacks.preview("shpo", "0004"), app.rollbacks.request(request(target="shpo"))):
            with pytest.raises(Refusal) as caught:
                await asking
            assert told(caught.value, "unknown_target").next == "Known: shop."
        assert [one.code for one in await app.rollbacks.check("shpo")][:1] == ["unknown_target"]
        assert await app.journal.find() == ()


async def test_a_request_from_another_channel_is_refused(lab: Lab) -> None:
    async with lab.open() as app:
        with pytest.raises(Refusal) as caught:
            await app.rollbacks.request(request(channel="C0LUNCH"))
        assert "own channel" in told(caught.value, "not_in_this_channel").next
        assert await app.journal.find() == ()


async def test_a_severity_that_nobody_may_approve_is_refused(lab: Lab) -> None:
    lab.top["policy"] = {"high": {"approve": {"dba": 1}, "within": "1h"}}
    async with lab.open() as app:
        with pytest.raises(Refusal) as caught:
            await app.rollbacks.request(request(severity=Severity.LOW))
        assert "policy.low" in told(caught.value, "no_policy_for_severity").next
        assert await app.journal.find() == ()


async def test_a_second_run_on_a_database_is_refused_while_the_first_is_open(lab: Lab) -> None:
    async with lab.open() as app:
        first: Run = await app.journal.create("r234567", request())
        for asking in (app.rollbacks.request(request()), app.rollbacks.preview("shop", "0004")):
            with pytest.raises(Refusal) as caught:
                await asking
            assert f"/rollback status {first.id}" in told(caught.value, "run_in_progress").next
        assert [run.id for run in await app.journal.find()] == [first.id]


async def test_two_runs_that_begin_in_the_same_moment_are_one_run_and_a_refusal(lab: Lab) -> None:
    async with lab.open() as app:
        both = await asyncio.gather(*(app.journal.create(f"r23456{number}", request()) for number in range(8)), return_exceptions=True)
        refused = [one for one in both if isinstance(one, Refusal)]
        assert [told(one, "run_in_progress").code for one in refused] == ["run_in_progress"] * 7
        assert len(await app.journal.find()) == 1


async def test_a_run_that_is_not_there_is_refused(lab: Lab) -> None:
    async with lab.open() as app:
        with pytest.raises(Refusal) as caught:
            await app.rollbacks.view("rnothere")
        assert "/rollback history" in told(caught.value, "unknown_run").next


async def test_a_role_that_only_slack_can_fill_is_a_warning_and_no_refusal(lab: Lab) -> None:
    async with lab.open() as app:
        (found,) = await app.rollbacks.check("shop")
        assert found.warning
        assert "roles.team-lead.users" in told(found, "role_without_people").next


# ------------------------------------------------------------------ from the command line


async def test_plan_prints_the_contracts_object_and_exits_1_when_it_is_refused(make_bot: MakeBot) -> None:
    bot = await make_bot(start=False)
    dead = {"TARGET_URL": bot.target.model_copy(update={"port": free_port()}).url()}
    cases: tuple[tuple[str, str, str, dict[str, str]], ...] = (
        ("nothing_to_roll_back", "shop", "0005", {}),
        ("unknown_target", "shpo", "0004", {}),
        ("unreachable", "shop", "$(reboot)", dead),
    )
    for code, target, rev, environ in cases:
        bot.environ = environ
        exit_code, output = await bot.run("plan", target, rev, "--json")
        found = json.loads(output)
        assert (exit_code, found["target"], found["refusal"]["code"]) == (1, target, code)
        assert set(found) >= {"target", "from", "to", "undone", "strategy", "steps", "digest", "refusal"}
        assert set(found["refusal"]) == {"code", "message", "next"}
        assert all(found["refusal"].values())
        assert (found["from"], found["digest"], found["undone"], found["steps"]) == (None, None, [], [])
    assert bot.stands() == "0005"


# ------------------------------------------------------------------ none is forgotten


def test_every_refusal_code_of_the_contract_is_met_on_this_page() -> None:
    """A code that is left out is one that nobody meets before production does."""
    contract = (Path(__file__).parents[2] / "docs/contract.md").read_text()
    promised = {word.strip("` .") for line in contract.splitlines() if line.startswith("Refusal codes: ") for word in line[15:].split(",")}
    promised = {word for word in promised if word.replace("_", "").isalpha()}
    page = Path(__file__).read_text()
    assert len(promised) >= 21
    assert {code for code in promised if f'"{code}"' not in page} == set()
