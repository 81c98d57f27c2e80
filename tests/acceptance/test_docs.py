"""The pages keep their word: every command that they show is run here or says why not, every configuration loads, every picture is there."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
import yaml

from bot.__main__ import parser
from bot.config import Config, TargetConfig, load
from bot.embedded import binaries
from handlers.grammar import parse
from tests.conftest import MakeDatabase
from tests.contract import projects
from tests.harness import PEOPLE, Bot, Json, project, workspace

pytestmark = pytest.mark.acceptance

ROOT = Path(__file__).parents[2]
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")))}
#: how the pages call a run
RUN = "r4k2m9"

_NETWORK = "takes packages from a registry; `make demo` and `make test` do the same with the same lock, from a bare clone"
_CONTAINER = "needs a container engine"
#: commands that no test runs, each with its reason
NOT_RUN = {
    "python3 -m venv /opt/backout": "writes to /opt",
    "/opt/backout/bin/pip install --require-hashes -r requirements.lock": _NETWORK,
    "/opt/backout/bin/pip install --no-deps .": _NETWORK,
    "export PATH=/opt/backout/bin:$PATH": "the tests have `backout` in PATH already",
    "export PATH=$PWD/.venv/bin:$PATH": "the tests have `backout` in PATH already",
    "ssh -L 4004:127.0.0.1:4004 HOST": "needs a second machine",
    "docker build -t backout .": _CONTAINER,
    "docker run --env-file backout.env -v backout:/var/lib/backout -v ./backout.yml:/etc/backout/backout.yml:ro backout": _CONTAINER,
}
#: commands that another test runs, and the words by which it does; where stdout is no terminal, the demo plays its script unasked
RUN_ELSEWHERE = {
    ".venv/bin/backout demo --script": ("tests/acceptance/test_demo.py", '"-m", "bot", "demo"'),
    'backout reapply shop 0005 --as U0DEV --reason "it is mended" --sev high': ("tests/scenario/test_round_trip.py", '"reapply", "shop"'),
    'backout restore shop shop-r4k2m9.dump --as U0DEV --reason "the data is wrong" --sev high': (
        "tests/scenario/test_restore.py",
        '"restore", "shop"',
    ),
    'backout restore shop shop-r4k2m9.dump in place --as U0DEV --reason "no room for two databases" --sev high': (
        "tests/scenario/test_in_place.py",
        '"in", "place"',
    ),
    'backout tables shop orders,items from shop-r4k2m9.dump --as U0DEV --reason "a script deleted them" --sev high': (
        "tests/scenario/test_tables.py",
        "tables orders,ratings from",
    ),
    'backout pitr shop 2026-01-17T10:00:00Z --as U0DEV --reason "a script deleted them" --sev critical': ("tests/scenario/test_pitr.py", "pitr {"),
    "backout address --as U0DEV": ("tests/scenario/test_provider.py", '"address", "--as"'),
    "backout address r4k2m9 --as U0DEV": ("tests/scenario/test_provider.py", '"address", "--as"'),
    'backout stamp shop 0004 --as U0DEV --reason "the restored copy has no version table" --sev high': (
        "tests/scenario/test_stamp.py",
        '"stamp", "shop"',
    ),
    ".venv/bin/backout demo --port 0": ("tests/acceptance/test_demo.py", '"--port", "0"'),
}
#: run in a shell as they stand, beside the shop
RUN_HERE = ("backout ", "pg_dump ", "cd shop && .venv/bin/alembic ", ".venv/bin/alembic ")


@dataclass(frozen=True)
class Block:
    """A fenced part of a page."""

    page: str
    line: int
    language: str
    text: str

    def commands(self) -> list[str]:
        """Lines that people type; in `console` they begin with $, and a backslash at the end goes on."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "sh":
            return [line for line in lines if line.strip() and not line.startswith("#")]
        return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def blocks() -> Iterator[Block]:
    for page, text in PAGES.items():
        for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            yield Block(page, text.count("\n", 0, found.start()) + 1, found[1], found[2])


def bare(command: str) -> str:
    """Without its comment and without the spaces before it."""
    return re.sub(r"\s+#.*$", "", command).strip()


def expected_code(command: str) -> int:
    found = re.search(r"#.*\bexits (\d+)", command)
    return int(found[1]) if found else 0


SHELL = [block for block in blocks() if block.language in {"console", "sh"}]
PAGES_WITH_COMMANDS = sorted({block.page for block in SHELL})


# ------------------------------------------------------------------ what is done with a command


def made_by_make(command: str) -> list[str]:
    """The recipe's names."""
    return [word for word in shlex.split(command)[1:] if "=" not in word]


def exported(command: str) -> str:
    found = re.fullmatch(r"export ([A-Z_]+)=\S+", command)
    assert found, f"a page sets one variable a line: {command}"
    return found[1]


def how(command: str) -> str:
    """`run`, or the reason why it is not run here. Raises LookupError for a command of which nobody has thought."""
    if command in NOT_RUN:
        return NOT_RUN[command]
    if command in RUN_ELSEWHERE:
        return f"run in {RUN_ELSEWHERE[command][0]}"
    if command.startswith("make "):
        return "named in the Makefile"
    if command.startswith("export "):
        return "sets what the reader has to know; the test has its own values"
    if command.startswith(RUN_HERE):
        return "run"
    raise LookupError(f"nothing runs this command: {command}. Run it in tests/acceptance/test_docs.py, or give it a reason there.")


def test_a_command_of_which_nobody_thought_is_not_let_through() -> None:
    for command in ("kubectl get pods", "docker run backout", "backoutx check", "curl http://127.0.0.1:3000/readyz"):
        with pytest.raises(LookupError, match="nothing runs this command"):
            how(command)
    assert how("backout check shop") == "run"


def test_every_command_of_every_page_is_run_or_says_why_not() -> None:
    shown = [bare(command) for block in SHELL for command in block.commands()]

    assert len(shown) > 20
    for command in shown:
        assert how(command)
    assert set(NOT_RUN) - set(shown) == set(), "a reason for a command that no page shows"
    for command, (file, words) in RUN_ELSEWHERE.items():
        assert words in (ROOT / file).read_text()
        assert parser().parse_args(shlex.split(command)[1:])


def test_no_command_hides_in_a_block_that_nobody_reads() -> None:
    for block in blocks():
        assert block.language in {"", "console", "sh", "yaml"}, f"{block.page}:{block.line}"
        if block.language not in {"console", "sh"}:
            assert not re.search(r"^(\$ |backout |make )", block.text, re.MULTILINE), f"{block.page}:{block.line}"
        else:
            assert block.commands(), f"{block.page}:{block.line}"


def test_what_is_made_is_in_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    inline = {found for text in PAGES.values() for found in re.findall(r"`(make [a-z-]+)`", text)}
    for command in inline | {bare(command) for block in SHELL for command in block.commands() if command.startswith("make ")}:
        for name in made_by_make(command):
            assert re.search(rf"^{name}:", makefile, re.MULTILINE), command
    assert "\t$(BIN)/backout demo\n" in makefile, "tests/acceptance/test_demo.py runs what `make demo` runs"


def test_every_variable_that_is_set_is_known() -> None:
    known = set(re.findall(r"`([A-Z_]+)`", PAGES["docs/install.md"])) | set(re.findall(r"\$\{(\w+)\}", reader_config()))
    for block in SHELL:
        for command in (bare(each) for each in block.commands()):
            if how(command).startswith("sets"):
                assert exported(command) in known, command


def verbs() -> Iterable[str]:
    (found,) = (action.choices for action in parser()._actions if action.dest == "command")
    assert found is not None
    return found


def test_what_is_said_in_passing_is_a_command_too() -> None:
    for page, text in PAGES.items():
        prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        for verb in re.findall(r"`backout ([a-z]+)[^`]*`", prose):
            assert verb in set(verbs()), f"{page}: backout {verb}"
        for words in re.findall(r"`/rollback ([^`\[]+)`", prose):
            if not re.search(r"\b[A-Z]{3,}\b", words):  # TARGET and REV stand for something
                parse(words, {"shop"})  # raises UsageError


def test_the_page_of_the_command_line_shows_every_command() -> None:
    page = [bare(command) for block in SHELL if block.page == "docs/command-line.md" for command in block.commands()]
    shown = {shlex.split(command)[1] for command in page if command.removeprefix(".venv/bin/").startswith("backout ")}

    assert set(verbs()) == shown


# ------------------------------------------------------------------ configurations and pictures


def readme_config() -> str:
    (found,) = (block.text for block in blocks() if block.page == "README.md" and block.language == "yaml")
    return found


def reader_config() -> str:
    """README's, and who may use the command line, from its page."""
    (people,) = (block.text for block in blocks() if block.page == "docs/command-line.md" and block.language == "yaml")
    return people + readme_config()


def variables(text: str) -> dict[str, str]:
    """A value for each ${NAME}: an address for a URL, else a word of its own."""
    names = set(re.findall(r"\$\{(\w+)\}", text))
    return {name: "postgresql://shop:x@127.0.0.1/shop" if name.endswith("_URL") else f"fake-{name}" for name in names}


def whole(block: Block) -> str:
    """The file that the block shows, or README's with the part that it shows. Raises AssertionError for a part of nothing."""
    shown: Json = yaml.safe_load(block.text)
    if "targets" in shown:
        return block.text
    base: Json = yaml.safe_load(readme_config())
    if set(shown) <= set(Config.model_fields):
        base.update(shown)
    else:
        assert set(shown) <= {field.alias or name for name, field in TargetConfig.model_fields.items()}, f"{block.page}:{block.line}"
        base["targets"]["shop"].update(shown)
    return yaml.safe_dump(base, sort_keys=False)


@pytest.mark.parametrize("block", [block for block in blocks() if block.language == "yaml"], ids=lambda block: f"{block.page}:{block.line}")
def test_every_configuration_that_is_shown_loads(block: Block, tmp_path: Path) -> None:
    text = whole(block)
    (tmp_path / "backout.yml").write_text(text)

    assert load(tmp_path / "backout.yml", variables(text)).targets["shop"]


def test_every_picture_is_there_and_says_what_it_shows() -> None:
    shown = []
    for page, text in PAGES.items():
        for tag in re.findall(r"<img\b[^>]*>", text):
            attributes = dict(re.findall(r'(\w+)="([^"]*)"', tag))
            assert len(attributes.get("alt", "")) > 20, f"{page}: {tag}"
            assert int(attributes["width"]) <= 800, f"{page}: {tag}"
            shown.append((page, attributes["src"]))
        shown += [(page, link) for link in re.findall(r"!\[[^\]]+\]\(([^)\s]+)\)", text)]
    assert len(shown) > 8
    for page, source in shown:
        assert (ROOT / page).parent.joinpath(source).is_file(), f"{page}: {source}"


# ------------------------------------------------------------------ running them


@dataclass
class Reader(Bot):
    """Somebody with README's backout.yml and a shop at 0005 beside it, who types what a page shows."""

    waiting: list[tuple[str, asyncio.subprocess.Process]] = field(default_factory=list)

    def write(self) -> None:
        (self.root / "backout.yml").write_text(reader_config())

    def env(self, **more: str) -> dict[str, str]:
        """A shell's, with the values that a reader would have set."""
        path = (str(Path(sys.executable).parent), str(binaries()), os.environ["PATH"])  # noqa: TID251  a shell's environment
        without = {name: value for name, value in super().env().items() if name not in {"BACKOUT_CONFIG", "TARGET_URL"}}
        tokens = {f"{name.upper()}_TOKEN": f"fake-token-of-{name}" for name in PEOPLE.values()}
        mine = {"SHOP_DATABASE_URL": self.target.url(), "DATABASE_URL": self.target.url(), "PATH": os.pathsep.join(path)}
        return {**without, **tokens, **mine, **more}

    def renew(self) -> None:
        with psycopg.connect(self.target.url(), autocommit=True) as session:
            session.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public; CREATE TABLE divisor AS SELECT 1 AS n")
        projects.seed(self.target)

    def divisor(self, n: int) -> None:
        """0 makes the downgrade fail."""
        with psycopg.connect(self.target.url(), autocommit=True) as session:
            session.execute("UPDATE divisor SET n = %s", (n,))

    def newest(self) -> tuple[str, str] | None:
        """Id and state."""
        try:
            found = self.journaled("select id, state from backout.runs order by created desc limit 1")
        except psycopg.errors.UndefinedTable:
            return None
        return found[0] if found else None

    async def block(self, block: Block) -> None:
        """Each block is a story of its own: the shop is at 0005 when it begins, and nothing is open when it has ended."""
        self.renew()
        folder = self.root
        for command in block.commands():
            line = bare(command)
            if how(line) == "run":
                await self.prepare(line)
                await self.type(line, expected_code(command), folder, f"{block.page}:{block.line}")
            folder = folder / "shop" if line.startswith("cd shop") else folder
        await self.clear()

    async def prepare(self, line: str) -> None:
        """The run that the command speaks of."""
        verb = line.split()[1]
        state = (self.newest() or ("", ""))[1]
        if verb == "decide" and state != "needs_decision":
            self.divisor(0)
            await self.asked()
            await self.type(f"backout approve {RUN} --as U0DBA", 0)
            self.divisor(1)
        elif verb == "withdraw":
            await self.asked("critical")
            await self.type(f"backout approve {RUN} --as U0DBA", 0)
        elif (verb in {"approve", "reject", "abort", "note"} and state not in OPEN) or (verb == "status" and not state):
            await self.asked()
        elif verb == "report" and state not in {"succeeded", "failed", "rejected", "aborted"}:
            await self.asked()
            await self.type(f"backout reject {RUN} --as U0DBA --reason no", 0)

    async def asked(self, severity: str = "high") -> None:
        await self.clear()
        await self.type(f"backout run shop 0004 --as U0DEV --reason down --sev {severity} --no-wait", 0)

    async def type(self, line: str, code: int, folder: Path | None = None, where: str = "before it") -> None:
        newest = self.newest()
        real = line.replace(RUN, newest[0]) if newest else line
        person = re.search(r"--as (U0\w+)", line)
        token = {"BACKOUT_TOKEN": f"fake-token-of-{PEOPLE[person[1]]}"} if person else {}
        process = await asyncio.create_subprocess_exec(  # noqa: TID251  a test types commands as a reader would
            "/bin/sh", "-ec", f"exec {real}" if line.startswith("backout ") else real, cwd=folder or self.root, env=self.env(**token),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        if line == "backout serve" or (line.startswith("backout run ") and "--no-wait" not in line):
            await self.stays(line, process)
            return
        async with asyncio.timeout(120):
            output, _ = await process.communicate()
        assert process.returncode == code, f"{where}: {line}\n{output.decode()}"

    async def stays(self, line: str, process: asyncio.subprocess.Process) -> None:
        """It runs in a terminal of its own, and the next command is typed when it has come to rest."""
        self.waiting.append((line, process))
        if line == "backout serve":
            self.process = process
            await self.until(self._ready, what="ready")
        else:
            await self.until(lambda: (self.newest() or ("", ""))[1] == "awaiting_approval", what=f"asked for by {line}")

    async def clear(self) -> None:
        """End what is still there, as a person would: Leave, Cancel, SIGTERM for the bot. What waits for a run ends by the page's own words."""
        for line, process in self.waiting:
            if line != "backout serve":
                await self.ended(line, process)
        newest = self.newest()
        if newest and newest[1] == "needs_decision":
            await self.type(f"backout decide {RUN} leave --as U0DBA", 0)
        elif newest and newest[1] in OPEN:
            await self.type(f"backout abort {RUN} --as U0DEV", 0)
        for line, process in self.waiting:
            if line == "backout serve":
                process.send_signal(signal.SIGTERM)
                await self.ended(line, process)
        self.waiting.clear()

    async def ended(self, line: str, process: asyncio.subprocess.Process) -> None:
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
        assert process.returncode == 0, f"{line}\n{output.decode()}"


OPEN = frozenset({"planning", "rehearsing", "awaiting_approval", "running", "needs_decision"})


def runs_something(page: str) -> bool:
    return any(command.startswith(RUN_HERE) for block in SHELL if block.page == page for command in block.commands())


@pytest.fixture
def home() -> Iterator[Path]:
    """Not under tmp_path, which is closed to the user that runs Postgres for root."""
    made = Path(tempfile.mkdtemp(prefix="backout-docs-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


@pytest.mark.parametrize("page", [page for page in PAGES_WITH_COMMANDS if runs_something(page)])
async def test_the_commands_of_a_page_do_what_it_says(
    page: str, tmp_path: Path, home: Path, make_database: MakeDatabase, make_journal_database: MakeDatabase
) -> None:
    # It fails in production alone: what fails on a copy is never asked for.
    fragile = (
        "if 'BACKOUT_REHEARSAL' not in __import__('os').environ:\n    op.execute('select 1 / n from divisor')\nop.drop_column('orders', 'score')"
    )
    project(tmp_path / "shop", downgrades={"0005": fragile})
    (tmp_path / "shop/.venv").symlink_to(sys.prefix)
    async with workspace() as slack:
        reader = Reader(tmp_path, make_database("shop"), make_journal_database("journal"), slack, config={})
        reader.environ["BACKOUT_HOME"] = str(home)
        if page == "README.md":
            reader.environ["BACKOUT_DATABASE_URL"] = ""  # a newcomer has none: the embedded one
        reader.write()
        try:
            for block in (block for block in SHELL if block.page == page):
                await reader.block(block)
        finally:
            for _, process in reader.waiting:
                if process.returncode is None:
                    process.kill()
                    await process.communicate()
