"""What people, scripts and servers should not send, and do: a clear private answer or one effect, a journal entry, nothing lost."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from bot.place import Connect
from bot.process import start
from bot.settings import inherited
from tests.conftest import MakeDatabase
from tests.contract import projects
from tests.contract.projects import Script, env
from tests.harness import CHANNEL, Bot, Json, free_port
from tests.lab import Lab
from tests.proxy import Proxy
from tests.scenario.conftest import MakeBot
from tests.scenario.parts import approve, ask, ends, run_of

ENGINE = "create_engine(os.environ['DATABASE_URL'])"
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")  # noqa: TID251  looks for a program as a shell would

#: a revision and messages that no sane person writes; the database stands at 0005
HOSTILE: dict[str, Script] = {
    **{revision: projects.SCRIPTS[revision] for revision in ("0001", "0002", "0003")},
    "<!channel>": Script("0003", "$(reboot); drop table orders", "op.drop_table('customers')"),
    "0005": Script("<!channel>", "`<@U0CTO>` *add* | \u202escore\u202c <!here>", "op.drop_column('orders', 'score')"),
}
WORDS = [
    "; drop table orders; -- sev high because x",
    ";drop/**/table/**/orders;-- sev high because x",
    "$(reboot) sev high because x",
    "`reboot` sev high because x",
    "<!here> sev high because x",
    "../../etc/passwd sev high because x",
    f"{'A' * 3900} sev high because x",
    "\u202e4000 sev high because x",
    "\u05d0\u05d1\u05d2 sev high because x",
    "0003\u0000 sev high because x",
    "nowhere 0003 sev high because x",
    "0003 sev apocalyptic because x",
    "status rnothere",
    "plan $(reboot)",
]
REASON = "``` <!channel> <@U0CTO> *bold* `code` | \u202eesrever\u202c <http://evil|click> &lt;!here&gt; " + "long " * 100


@pytest.fixture
def lab(tmp_path: Path, server: Connect, make_database: MakeDatabase, make_journal_database: MakeDatabase) -> Lab:
    return Lab(tmp_path, projects.seed(make_database("shop")), server, make_journal_database("journal"))


def shown(bot: Bot) -> str:
    """Every text that was sent in Slack's markup, to anybody."""
    messages = [*bot.slack.messages(CHANNEL), *bot.slack.dms("U0DBA"), *bot.slack.dms("U0CTO"), *bot.slack.ephemerals("U0DEV")]
    for card in bot.cards():
        messages += bot.slack.thread(card["ts"])
    return "\n".join(text for one in messages for text in marked_up(one))


def marked_up(value: Any) -> list[str]:
    """Texts of a message, without those that Slack shows as they are (files' titles too), and without metadata, which nobody sees."""
    if isinstance(value, dict) and value.get("type") != "plain_text":
        return [text for key, member in value.items() if key not in ("metadata", "files") for text in marked_up(member)]
    if isinstance(value, list):
        return [text for member in value for text in marked_up(member)]
    return [value] if isinstance(value, str) else []


def pings(text: str) -> list[str]:
    """Mentions that would wake somebody who was not meant."""
    return [live for live in ("<!channel>", "<!here>", "<!everyone>", "<@U0CTO>", "<http://evil") if live in text]


# ------------------------------------------------------------------ words


async def test_hostile_words_are_answered_in_private_and_are_only_words(make_bot: MakeBot, tmp_path: Path) -> None:
    bot: Bot = await make_bot(http=True, start=False)
    bot.config["targets"]["shop"]["tool"]["directory"] = str(
        projects.make(tmp_path / "hostile", projects.by_environment(), scripts=HOSTILE).directory
    )
    await bot.start()
    for number, words in enumerate(WORDS, 1):
        ack = await bot.slack.command(CHANNEL, "U0DEV", "/rollback", words)
        assert ack.ok, words
        assert not ack.body, words
        await bot.until(lambda: len(bot.slack.ephemerals("U0DEV")) == number, what=f"an answer to {words[:40]!r}")  # noqa: B023  awaited here
    assert pings(shown(bot)) == []
    assert "\u202e" not in shown(bot)
    assert all(len(one["text"]) < 600 for one in bot.slack.ephemerals("U0DEV"))
    slow = "what was planned for so long that it has a card says so there"
    await bot.until(lambda: all(one["metadata"]["event_payload"]["state"] == "refused" for one in bot.cards()), what=slow)
    before = len(bot.cards())
    assert bot.stands() == "0005"
    assert set(bot.journaled("select distinct state from backout.runs")) <= {("refused",)}
    assert len(bot.events("refused")) == bot.journaled("select count(*) from backout.runs")[0][0] > 5
    assert bot.journaled("select count(*) from backout.inbox where done is null") == [(0,)]

    # A revision of that very name is a revision, a reason is a reason, and the same signed request counts once.
    card = await ask(bot, f"<!channel> sev high because {REASON}")
    await bot.slack.resend()
    await bot.slack.redeliver()
    await approve(bot, "U0DBA")
    done = await ends(bot, "succeeded")
    assert bot.stands() == "<!channel>"
    assert bot.query("select count(*) from orders") == [(100,)]
    assert len(bot.cards()) == before + 1
    assert run_of(done) == run_of(card)
    assert len(bot.events("started")) == 1
    report = await bot.reported()
    assert report.startswith("# Post-mortem: shop 0005 -> <!channel>: succeeded\n")
    reasons = [line for line in report.split("\n") if line.startswith("| Reason |")]
    assert len(reasons) == 1
    assert "\\<!channel> \\<@U0CTO> \\*bold\\*" in reasons[0]
    assert "\u202e" not in report
    assert "\u202e" not in shown(bot)
    assert pings(shown(bot)) == []


# ------------------------------------------------------------------ configuration


def _typo(config: Json) -> None:
    config["targets"]["shop"]["databse"] = config["targets"]["shop"].pop("database")


def _missing_variable(config: Json) -> None:
    config["targets"]["shop"]["database"] = "${NO_SUCH_VARIABLE}"


def _role_nobody_holds(config: Json) -> None:
    config["roles"]["dba"] = {"title": "DBA on call"}


def _unknown_role(config: Json) -> None:
    config["policy"]["high"]["approve"] = {"dbaa": 1}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_typo, ["targets.shop.databse", "database"]),
        (_missing_variable, ["targets.shop.database", "NO_SUCH_VARIABLE"]),
        (_role_nobody_holds, ["roles.dba", "nobody holds this role"]),
        (_unknown_role, ["policy.high.approve.dbaa", "dba"]),
    ],
)
async def test_a_wrong_configuration_ends_serve_with_2_and_names_the_key(make_bot: MakeBot, spoil: Callable[[Json], None], told: list[str]) -> None:
    bot: Bot = await make_bot(start=False)
    spoil(bot.config)
    code, output = await bot.run("serve")
    assert code == 2
    assert all(words in output for words in told), output
    assert "Traceback" not in output
    assert bot.target.password not in output
    assert len(output.splitlines()) <= 3


# ------------------------------------------------------------------ env.py


@pytest.mark.parametrize(
    "first",
    [
        "print('\\x1e1234 1.1/1 {}'); print('x' * 100_000); os.system('echo from a child')",
        "sys.stdout.close()",
        "child = os.fork()\nif child == 0:\n    os._exit(1)\nos.waitpid(child, 0)",
        "import atexit; atexit.register(print, 'bye')",
        "os.environ['PGHOST'] = 'elsewhere'; os.environ['PGPORT'] = '1'",
    ],
    ids=["prints", "closes stdout", "forks", "atexit", "PGHOST"],
)
async def test_an_env_that_is_only_odd_gives_the_same_plan(lab: Lab, first: str) -> None:
    lab.project(env(ENGINE, first=first))
    async with lab.open() as app:
        before = await lab.photo()
        plan = await app.rollbacks.preview("shop", "0003")
        assert [one.revision for one in plan.undone] == ["0005", "0004"]
        assert await lab.photo() == before


async def test_an_env_that_writes_when_it_is_read_writes_nothing_and_is_named(lab: Lab) -> None:
    lab.project(env(ENGINE, before="connection.execute(sa.text('create table mine (id int)')); connection.commit()"))
    async with lab.open() as app:
        before = await lab.photo()
        plan = await app.rollbacks.preview("shop", "0004")
        assert any("create table mine" in remark for remark in plan.remarks)
        assert await lab.photo() == before


# ------------------------------------------------------------------ the line to the database


async def test_a_database_that_goes_away_in_the_middle_asks_a_person_and_retry_works_when_it_is_back(make_bot: MakeBot) -> None:
    sleep = "op.execute(\"select pg_sleep(120) where current_setting('application_name') like '%/1'\")"
    bot: Bot = await make_bot(start=False, downgrades={"0005": f"op.drop_column('orders', 'score')\n{sleep}"})
    async with Proxy(bot.target) as line:
        bot.environ["TARGET_URL"] = line.to(bot.target).url()
        await bot.start()
        await ask(bot)
        await approve(bot, "U0DBA")
        sleeping = "select 1 from pg_stat_activity where query like 'select pg_sleep(120)%' and state = 'active'"
        await bot.until(lambda: bot.query(sleeping), what="in the middle of the downgrade")
        line.cut()
        await bot.card_in("needs_decision")
        assert "Nobody can say how far it came" in bot.thread()
        assert bot.journaled("select state from backout.attempts where step = 'downgrade'") == [("unknown",)]
        line.mend()
        await bot.until(lambda: not bot.query(sleeping), what="rid of the session that was cut off")
        assert bot.stands() == "0005"
        await approve(bot, "U0DBA", "retry")
        await bot.until(
            lambda: len(bot.journaled("select 1 from backout.attempts where step = 'downgrade' and ended is not null")) == 2, what="tried again"
        )
        if (await bot.until(lambda: bot.state() != "running" and bot.state(), what="at rest")) == "needs_decision":
            await approve(bot, "U0DBA", "retry")  # the first look only found that the fence had gone with the line
        await ends(bot, "succeeded")
    assert bot.stands() == "0004"
    assert bot.query("select count(*) from orders") == [(100,)]
    report = await bot.reported()
    assert "nobody can say how it ended" in report


@asynccontextmanager
async def pgbouncer(root: Path, target: Connect) -> AsyncIterator[Connect]:
    """A real one, in transaction mode."""
    assert PGBOUNCER
    port = free_port()
    folder = root / "pgbouncer"
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "users.txt").write_text(f'"{target.user}" "{target.password}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={target.host} port={target.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n"
        f"auth_type = scram-sha-256\nauth_file = {folder}/users.txt\npool_mode = transaction\nunix_socket_dir =\ndefault_pool_size = 2\n"
        "ignore_startup_parameters = extra_float_digits,options,search_path,statement_timeout,lock_timeout,idle_session_timeout,"
        "idle_in_transaction_session_timeout,transaction_timeout,client_connection_check_interval,row_security,jit\n"
    )
    # It refuses to run as root.
    nobody = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    uid, gid = (nobody.pw_uid, nobody.pw_gid) if nobody else (None, None)
    through = target.model_copy(update={"host": "127.0.0.1", "port": port})
    async with start([PGBOUNCER, str(folder / "pgbouncer.ini")], env=inherited(), user=uid, group=gid), asyncio.timeout(30):
        while not await asyncio.to_thread(_answers, through):  # noqa: ASYNC110  a condition of another process
            await asyncio.sleep(0.05)
        yield through


def _answers(connect: Connect) -> bool:
    try:
        psycopg.connect(connect.url(), connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def open_folder() -> Path:
    """Which a user without rights may enter; pytest's own are closed."""
    root = Path(tempfile.mkdtemp(prefix="backout-pooler-"))
    root.chmod(0o755)
    return root


@pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed here; a stand-in is refused in test_refusals.py")
async def test_a_real_pooler_in_transaction_mode_is_refused(lab: Lab) -> None:
    root = open_folder()
    try:
        async with pgbouncer(root, lab.own) as through:
            said = await lab.refused("transaction_pooler", database=through, admin=lab.own)
    finally:
        shutil.rmtree(root)
    assert "not the pooler's" in said.next
