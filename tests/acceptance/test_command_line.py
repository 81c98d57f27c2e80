"""The command line by itself: no Slack, nothing but the contract's environment; each command in a process of its own."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from playground.slack import SlackStandIn
from tests.conftest import MakeDatabase
from tests.contract import projects
from tests.harness import Bot, Json, configuration, project, workspace

pytestmark = pytest.mark.acceptance

WHY = ("--reason", "checkout is down", "--sev", "high")
VERBS = (
    "demo", "serve", "check", "plan", "run", "approve", "withdraw", "reject", "decide", "note", "abort", "status", "report", "history", "backups",
    "restore", "tables", "pitr", "reapply", "stamp", "config", "help",
)  # fmt: skip


class Terminal(Bot):
    """A shell that knows nothing of Slack."""

    def env(self, **more: str) -> dict[str, str]:
        return {name: value for name, value in super().env(**more).items() if not name.startswith("SLACK_")}

    async def json(self, *argv: str, user: str | None = None) -> tuple[int, Json]:
        """Exit code and the one object that was printed."""
        code, output = await self.run(*argv, "--json", user=user)
        return code, json.loads(output)

    async def ask(self, text: str = "0004", user: str = "U0DEV", channel: str = "") -> None:
        code, output = await self.run("run", "shop", text, *WHY, "--no-wait", user=user)
        assert code == 0, output

    def newest(self) -> str:
        ((run,),) = self.journaled("select id from backout.runs order by created desc limit 1")
        return str(run)

    def states(self) -> list[str]:
        return [row[0] for row in self.journaled("select state from backout.runs order by created")]


def made(
    root: Path, make_database: MakeDatabase, make_journal_database: MakeDatabase, slack: SlackStandIn, kind: type[Bot], **downgrades: str
) -> Bot:
    database = projects.seed(make_database("shop"))
    directory = project(root / "project", downgrades={revision.strip("_"): body for revision, body in downgrades.items()}).directory
    return kind(root, database, make_journal_database("journal"), slack, configuration(directory, root))


@pytest.fixture
async def shell(tmp_path: Path, make_database: MakeDatabase, make_journal_database: MakeDatabase) -> Terminal:
    """A shop at 0005 whose 0005 fails to go down while `divisor` holds a zero, and no bot anywhere."""
    fragile = "op.execute('select 1 / n from divisor')\nop.drop_column('orders', 'score')"
    terminal = made(tmp_path, make_database, make_journal_database, SlackStandIn(), Terminal, _0005=fragile)
    assert isinstance(terminal, Terminal)
    return terminal


def divisor(shell: Bot, n: int) -> None:
    with psycopg.connect(shell.target.url(), autocommit=True) as session:
        session.execute("CREATE TABLE IF NOT EXISTS divisor (n int)")
        session.execute("DELETE FROM divisor")
        session.execute("INSERT INTO divisor VALUES (%s)", (n,))


async def test_every_command_explains_itself_and_needs_nothing_for_it(shell: Terminal) -> None:
    async def explained(verb: str) -> None:
        code, output = await shell.run(verb, "--help")
        assert code == 0, verb
        assert output.startswith(f"usage: backout {verb}"), verb

    for some in range(0, len(VERBS), 4):
        await asyncio.gather(*(explained(verb) for verb in VERBS[some : some + 4]))
    code, output = await shell.run("--help")
    assert code == 0
    assert all(re.search(rf"^    {verb}\b", output, re.MULTILINE) for verb in VERBS)
    assert await shell.run("help") == (0, output)


async def test_usage_that_is_wrong_exits_2_and_says_what_to_write(shell: Terminal) -> None:
    for argv, words in (
        (("frobnicate",), "invalid choice"),
        ((), "COMMAND"),
        (("plan", "shop"), "REV"),
        (("run", "shop", "0004"), "--as"),
        (("run", "shop", "0004", "--reason", "x", "--sev", "urgent", "--as", "U0DEV"), "critical"),
        (("decide", "r1", "shrug", "--as", "U0DBA"), "retry"),
        (("config",), "about"),
        (("restore", "shop"), "BACKUP"),
        (("stamp", "shop"), "REV"),
        (("serve",), "SLACK_BOT_TOKEN"),
    ):
        code, output = await shell.run(*argv)
        assert code == 2, (argv, output)
        assert words in output, argv
        assert "Traceback" not in output
    shell.config["targets"]["shop"]["chanels"] = ["C0INCIDENT"]
    code, output = await shell.run("check")
    assert code == 2
    assert "targets.shop.chanels" in output
    assert "channels" in output, "the nearest known key"


async def test_the_schema_of_the_configuration_is_json(shell: Terminal) -> None:
    code, output = await shell.run("config", "schema")
    assert code == 0
    schema = json.loads(output)
    assert {"targets", "roles", "policy", "people", "escalation"} <= set(schema["properties"])


async def test_a_plan_is_one_object_and_changes_nothing(shell: Terminal) -> None:
    divisor(shell, 1)
    code, plan = await shell.json("plan", "shop", "-1")
    assert code == 0
    assert (plan["target"], plan["from"], plan["to"], plan["strategy"], plan["refusal"]) == ("shop", "0005", "0004", "downgrade", None)
    assert plan["undone"] == [{"revision": "0005", "message": "add scoring fields", "date": plan["undone"][0]["date"]}]
    assert plan["undone"][0]["date"].startswith("2026-11-18")
    assert plan["steps"] == ["check_preconditions", "restore_point", "archive", "downgrade", "verify", "start_writers"]
    assert re.fullmatch(r"[0-9a-f]{64}", plan["digest"])
    for rev in ("–1", "0004"):
        assert await shell.json("plan", "shop", rev) == (0, plan), f"{rev} means the same"
    code, refused = await shell.json("plan", "shop", "9999")
    assert (code, refused["refusal"]["code"]) == (1, "unknown_revision")
    assert set(refused["refusal"]) == {"code", "message", "next"}
    assert set(refused) == set(plan)
    code, output = await shell.run("plan", "shop", "0003")
    assert code == 0
    assert "table customers" in output
    code, ready = await shell.json("check")
    assert (code, ready["target"], ready["ready"]) == (0, "shop", True)
    assert all(set(reason) == {"code", "message", "next"} for reason in ready["reasons"])
    assert shell.stands() == "0005"
    code, elsewhere = await shell.json("plan", "nowhere", "0004")
    assert (code, elsewhere["refusal"]["code"]) == (1, "unknown_target")


async def test_nobody_acts_without_their_own_token(shell: Terminal) -> None:
    divisor(shell, 1)
    ask = ("run", "shop", "0004", *WHY, "--no-wait", "--as")
    for argv, token in (((*ask, "U0DEV"), ""), ((*ask, "U0DEV"), "fake-token-of-U0DBA"), ((*ask, "U0NOBODY"), "fake-token-of-U0DEV")):
        shell.environ["BACKOUT_TOKEN"] = token
        code, output = await shell.run(*argv)
        assert code == 1, output
        assert "denied" in output
        assert "fake-token" not in output
    assert shell.states() == []
    shell.environ.clear()
    await shell.ask()
    run = shell.newest()
    for argv in (("approve", run), ("note", run, "x"), ("abort", run)):
        code, output = await shell.run(*argv, "--as", "U0DBA")
        assert code == 1, argv
        assert "denied" in output, argv
    assert shell.states() == ["awaiting_approval"]
    # The right token of the wrong person.
    for argv in (("approve", run), ("reject", run, "--reason", "x"), ("abort", run)):
        code, output = await shell.run(*argv, user="U0BYSTANDER")
        assert code == 1, argv
        assert "denied" in output, argv
    code, output = await shell.run("approve", run, user="U0DEV")
    assert (code, "somebody else" in output) == (1, True)
    assert [one["by"] for one in shell.events("denied")] == ["U0BYSTANDER"] * 3 + ["U0DEV"]
    assert shell.states() == ["awaiting_approval"]


async def test_the_process_that_approves_carries_the_run_when_nobody_else_does(shell: Terminal) -> None:
    divisor(shell, 1)
    code, asked = await shell.json("run", "shop", "0004", *WHY, "--no-wait", user="U0DEV")
    assert code == 0
    run = asked["run"]
    expected = {
        "run": run, "target": "shop", "state": "awaiting_approval", "from": "0005", "to": "0004", "severity": "high", "reason": "checkout is down",
        "requested_by": "U0DEV", "seats": [{"role": "dba", "by": None}],
    }  # fmt: skip
    assert expected.items() <= asked.items()
    assert [step["name"] for step in asked["steps"]] == ["check_preconditions", "restore_point", "archive", "downgrade", "verify", "start_writers"]
    assert await shell.json("status") == (0, asked), "the newest open run"
    code, twice = await shell.json("run", "shop", "0003", *WHY, user="U0DEV")
    assert (code, twice["refusal"]["code"]) == (1, "run_in_progress")
    code, done = await shell.json("approve", run, user="U0DBA")
    assert (code, done["state"], done["seats"]) == (0, "succeeded", [{"role": "dba", "by": "U0DBA"}])
    assert {step["state"] for step in done["steps"]} == {"done"}
    assert all(set(step) == {"name", "state", "attempt", "seconds"} for step in done["steps"])
    assert shell.stands() == "0004"
    code, report = await shell.run("report", run)
    assert (code, report.splitlines()[0]) == (0, "# Post-mortem: shop 0005 -> 0004: succeeded")
    assert await shell.run("report") == (0, report), "the same bytes, and the newest run"
    code, past = await shell.run("history", "shop")
    assert (code, run in past) == (0, True)
    code, kept = await shell.json("backups")
    assert code == 0
    assert [one.name for one in (shell.root / "backups").glob("*.dump")] == [kept["backups"][0]["name"]]
    assert (await shell.run("report", "r-nothing"))[0] == 1


async def test_a_run_that_waits_is_released_by_a_second_terminal(shell: Terminal) -> None:
    divisor(shell, 1)
    waiting = asyncio.create_task(shell.run("run", "shop", "–1", *WHY, user="U0DEV"))
    await shell.until(lambda: asked(shell), what="asked for approval")
    code, output = await shell.run("approve", shell.newest(), user="U0DBA")
    assert code == 0, output
    code, output = await waiting
    assert code == 0, output
    for words in ("waiting for dba", "U0DBA approved", "downgrade done", "succeeded"):
        assert words in output, words
    assert shell.stands() == "0004"


def asked(shell: Bot) -> bool:
    """False also while there is no journal yet."""
    try:
        return bool(shell.events("asked"))
    except psycopg.errors.UndefinedTable:
        return False


async def test_run_exits_1_for_every_end_but_success(shell: Terminal) -> None:
    divisor(shell, 1)
    for number, (argv, user, state) in enumerate(
        ((("reject", "--reason", "fix forward"), "U0DBA", "rejected"), (("abort",), "U0DEV", "aborted")), 1,
    ):  # fmt: skip
        waiting = asyncio.create_task(shell.run("run", "shop", "0004", *WHY, user="U0DEV"))
        await shell.until(lambda number=number: asked(shell) and len(shell.events("asked")) == number, what="asked for approval")
        code, output = await shell.run(*argv, user=user)
        assert code == 0, output
        code, output = await waiting
        assert code == 1, output
        assert shell.states()[-1] == state
    code, output = await shell.run("run", "shop", "9999", *WHY, user="U0DEV")
    assert code == 1
    assert "unknown_revision" in output
    assert shell.stands() == "0005"


async def test_a_failed_step_is_decided_from_the_terminal(shell: Terminal) -> None:
    divisor(shell, 0)
    await shell.ask()
    run = shell.newest()
    code, failed = await shell.json("approve", run, user="U0DBA")
    assert (code, failed["state"]) == (0, "needs_decision")
    assert {"name": "downgrade", "state": "failed"}.items() <= next(step for step in failed["steps"] if step["name"] == "downgrade").items()
    code, output = await shell.run("status", run)
    assert "division by zero" in output
    assert "pg_restore" in output
    assert shell.target.password not in output
    code, output = await shell.run("decide", run, "restore", user="U0DBA")
    assert "CREATEDB" in output, "its role may not make the database that the restore point would be restored into"
    assert (await shell.json("status", run))[1]["state"] == "needs_decision"
    code, again = await shell.json("decide", run, "retry", user="U0DBA")
    assert (code, again["state"]) == (0, "needs_decision"), "it fails again"
    divisor(shell, 1)
    code, done = await shell.json("decide", run, "retry", user="U0SENIOR")
    assert (code, done["state"]) == (0, "succeeded"), "two failures brought the next rung"
    code, report = await shell.run("report", run)
    assert code == 0
    assert "division by zero" in report


async def test_leave_ends_the_run_from_the_terminal(shell: Terminal) -> None:
    divisor(shell, 0)
    await shell.ask()
    run = shell.newest()
    await shell.run("approve", run, user="U0DBA")
    code, output = await shell.run("note", run, "we fix forward", user="U0LEAD")
    assert code == 0, output
    code, left = await shell.json("decide", run, "leave", user="U0DBA")
    assert (code, left["state"]) == (0, "failed")
    code, report = await shell.run("report", run)
    assert report.startswith("# Post-mortem: shop 0005 -> 0004: failed\n")
    assert "we fix forward" in report
    code, output = await shell.run("decide", run, "retry", user="U0DBA")
    assert code == 1
    assert "denied" in output


@pytest.fixture
async def served(tmp_path: Path, make_database: MakeDatabase, make_journal_database: MakeDatabase) -> AsyncIterator[Bot]:
    async with workspace() as slack:
        bot = made(tmp_path, make_database, make_journal_database, slack, Bot)
        await bot.start()
        try:
            yield bot
        finally:
            await bot.kill()


async def test_beside_a_live_bot_the_terminal_only_records_and_signals(served: Bot) -> None:
    code, output = await served.run("run", "shop", "0004", *WHY, "--no-wait", user="U0DEV")
    assert code == 0, output
    card = await served.card_in("awaiting_approval")
    run = card["metadata"]["event_payload"]["run"]
    code, output = await served.run("approve", run, user="U0DBA")
    assert code == 0, output
    await served.card_in("succeeded")
    report = await served.reported()
    assert await served.run("report", run) == (0, report)
    executors = served.journaled("select distinct executor from backout.attempts")
    assert executors == [((served.root / "home" / "executor-id").read_text().strip(),)]
    assert served.stands() == "0004"
    # Another terminal, with another home: still the bot's work.
    elsewhere = {"BACKOUT_HOME": str(served.root / "elsewhere")}
    served.environ.update(elsewhere)
    code, output = await served.run("run", "shop", "0003", *WHY, "--no-wait", user="U0DEV")
    assert code == 0, output
    await served.card_in("awaiting_approval")
    code, output = await served.run("abort", user="U0DEV")
    assert code == 0, output
    await served.card_in("aborted")
    assert served.process is not None
    assert served.process.returncode is None, "the bot kept its lease"
