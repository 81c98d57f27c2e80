"""The tool's own programs in containers, on real engines: in one that runs, and in one-offs beside one."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from bot.errors import ProgramMissing, Refusal, StepFailed
from bot.model import Person, Request, Severity
from bot.place import Connect
from bot.runners.docker import DockerRunner
from bot.running import Program
from tests.conftest import MakeDatabase
from tests.contract import projects
from tests.lab import Lab as Product
from tests.platforms.conftest import Lab, mounts

DB = Connect(host="10.0.0.1", port=6000, user="u", password="p", database="d")


def runner(lab: Lab, **settings: Any) -> DockerRunner:
    return DockerRunner(DockerRunner.Settings(host=lab.engine.host, **settings))


@pytest.fixture(params=["like", "container"])
def place(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


async def everything(program: Program) -> str:
    return b"".join([data async for data in program.output()]).decode()


def starting(one: DockerRunner, *argv: str, name: str = "backout/r1/downgrade/1", copy: bool = False, directory: str = "/app", **env: str) -> Any:
    return one.start(list(argv), env=env, directory=Path(directory), name=name, copy=copy)


async def test_both_streams_come_as_one_and_input_is_heard_to_its_end(lab: Lab, place: str) -> None:
    shop = await lab.run("shop", HostConfig={"Binds": mounts()})
    code = (
        "import sys; print('out', flush=True); sys.stderr.write('err\\n'); sys.stderr.flush()\n"
        "print('got', sys.stdin.read(), flush=True); sys.exit(7)"
    )

    async with starting(runner(lab, **{place: shop}), sys.executable, "-c", code) as program:
        await program.send(b"first line\n")
        await program.send(b"go")
        await program.close_stdin()
        said = await everything(program)
        ended = await program.wait()

    assert sorted(said.splitlines()) == sorted(["out", "err", "got first line", "go"])
    assert ended == 7
    assert await lab.one_offs() == []


async def test_much_output_comes_whole(lab: Lab, place: str) -> None:
    shop = await lab.run("shop", HostConfig={"Binds": mounts()})

    async with starting(runner(lab, **{place: shop}), sys.executable, "-c", "print('x' * 3_000_000)") as program:
        said = await everything(program)

    assert (len(said.strip()), set(said.strip())) == (3_000_000, {"x"})


async def test_a_one_off_has_the_containers_environment_mounts_user_and_folder_and_none_of_its_labels(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mounted")
    tmp_path.chmod(0o755)  # noqa: ASYNC240  a moment
    shop = await lab.run(
        "shop", Env=["COLOUR=red", "SIZE=s"], User="1000:1000", Labels={"team": "shop"},
        HostConfig={"Binds": [*mounts(), f"{tmp_path}:/data"], "RestartPolicy": {"Name": "always"}},
    )  # fmt: skip
    code = (
        "import os, json; said = [os.environ[name] for name in ('COLOUR', 'SIZE', 'VERSION')]\n"
        "print(json.dumps([*said, os.getuid(), os.getcwd(), open('/data/file').read()]))"
    )
    python = "/usr/bin/python3" if sys.base_prefix.startswith("/root") else sys.executable
    async with starting(runner(lab, like=shop, image="localhost/shop:1.4"), python, "-c", code, directory="/tmp", SIZE="xl") as program:
        (name,) = await lab.one_offs()
        found = (await lab.show(name.removeprefix("/"))) or {}
        said = json.loads(await everything(program))

    assert said == ["red", "xl", "1.4", 1000, "/tmp", "mounted"]
    assert found["HostConfig"]["RestartPolicy"]["Name"] in ("no", "")
    assert {key: value for key, value in found["Config"]["Labels"].items() if key in ("team", "backout.run", "backout.name")} == {
        "backout.run": "r1",
        "backout.name": "backout/r1/downgrade/1",
    }
    assert await lab.one_offs() == []


async def test_a_one_off_of_a_rehearsal_gets_no_environment_of_production_and_may_not_write_where_it_does(lab: Lab, tmp_path: Path) -> None:
    shop = await lab.run("shop", Env=["DATABASE_URL=postgres://production"], HostConfig={"Binds": [*mounts(), f"{tmp_path}:/data"]})
    code = (
        "import os; print(sorted(n for n in os.environ if n in ('DATABASE_URL', 'ASKED')))\n"
        "try: open('/data/x', 'w')\nexcept OSError as e: print(e.strerror)"
    )

    async with starting(runner(lab, like=shop), sys.executable, "-c", code, copy=True, ASKED="1") as program:
        said = await everything(program)

    assert said.splitlines() == ["['ASKED']", "Read-only file system"]


async def test_what_still_runs_is_ended_over_there_when_the_context_is_left(lab: Lab, place: str, tmp_path: Path) -> None:
    shop = await lab.run("shop", HostConfig={"Binds": [*mounts(), f"{tmp_path}:/data"]})
    beats = "import os, time\nos.fork()\nwhile True:\n  open(f'/data/{os.getpid()}', 'a').write('x'); print('beat', flush=True); time.sleep(0.05)"

    async with starting(runner(lab, **{place: shop}), sys.executable, "-c", beats) as program:
        async for _ in program.output():
            if len(sizes(tmp_path)) == 2:
                break

    before = sizes(tmp_path)
    await asyncio.sleep(0.5)  # ten beats
    assert sizes(tmp_path) == before, "nothing beats any more, children included"
    assert await lab.one_offs() == []
    assert await lab.runs(shop)


async def test_a_program_or_folder_that_is_not_there_is_said(lab: Lab, place: str) -> None:
    shop = await lab.run("shop")
    one = runner(lab, **{place: shop})

    with pytest.raises(ProgramMissing, match="/nowhere/python"):
        async with starting(one, "/nowhere/python"):
            pass
    if place == "container":
        with pytest.raises(ProgramMissing, match="no folder /nowhere"):
            async with starting(one, "sh", directory="/nowhere"):
                pass
    assert await lab.one_offs() == []


async def test_what_a_crash_left_is_removed_but_for_runs_that_are_open(lab: Lab) -> None:
    shop, other = await lab.run("shop"), await lab.run("other")
    for run, beside in (("r1", shop), ("r2", shop), ("r1", other), ("read", shop)):
        await lab.run(f"left-{run}-{beside}", Labels={"backout.run": run, "backout.beside": beside})
    await lab.run("read-ended", "true", Labels={"backout.run": "read", "backout.beside": shop})
    async with asyncio.timeout(120):
        while await lab.runs(lab.name("read-ended")):  # noqa: ASYNC110  a condition of another process
            await asyncio.sleep(0.05)

    await runner(lab, like=shop).clean(["r2"])

    assert sorted(await lab.one_offs()) == sorted(f"/{lab.name(one)}" for one in (f"left-r2-{shop}", f"left-r1-{other}", f"left-read-{shop}"))


@pytest.mark.parametrize("engine", ["docker"], indirect=True)
async def test_the_end_of_a_run_leaves_the_one_offs_of_another_targets_open_run_at_the_same_place(
    lab: Lab, tmp_path: Path, server: Connect, make_database: MakeDatabase, make_journal_database: MakeDatabase
) -> None:
    shop = await lab.run("shop", start=False)
    product = Product(tmp_path, projects.seed(make_database("shop")), server, make_journal_database("journal"))
    product.target = {"runner": {"kind": "docker", "like": shop, "host": lab.engine.host}}
    for run in ("ended", "other", "dead"):
        await lab.run(f"left-{run}", Labels={"backout.run": run, "backout.beside": shop})
    async with product.open() as app:
        by = Person(id="U0DEV")
        for run, target in (("ended", "shop"), ("other", "web")):
            await app.journal.create(run, Request(target=target, rev="0004", reason="orders fail", severity=Severity.HIGH, by=by))
        await app.journal.refuse("ended", Refusal("nothing_to_roll_back", "It stands there.", "Nothing."))

        assert await app.rollbacks.advance("ended") == "end"

    assert await lab.one_offs() == [f"/{lab.name('left-other')}"]


async def test_a_place_that_is_not_there_or_does_not_run_is_refused_beforehand(lab: Lab) -> None:
    shop = await lab.run("shop", start=False)

    assert await runner(lab, like=shop).ready() == ()
    (refusal,) = await runner(lab, container=shop).ready()
    assert (refusal.code, refusal.message) == ("container_unfit", f"{shop} does not run, so the tool can't be executed in it.")
    (refusal,) = await runner(lab, like=shop[:-1]).ready()
    assert (refusal.code, refusal.next) == ("container_missing", f"Did you mean {shop}?")
    with pytest.raises(StepFailed, match="does not run, so nothing can be executed in it"):
        async with starting(runner(lab, container=shop), "sh"):
            pass


async def test_the_database_is_reached_as_the_settings_say_and_a_copy_on_this_machine(lab: Lab) -> None:
    shop = await lab.run("shop", start=False)
    one = runner(lab, like=shop, address={"host": "db", "port": 5432})

    assert (one.seen(DB, copy=False).host, one.seen(DB, copy=False).port) == ("db", 5432)
    assert one.seen(DB, copy=True) == DB
    with pytest.raises(Refusal, match="not known to be reached"):
        runner(lab, container=shop).seen(DB, copy=True)
    assert runner(lab, container=shop, rehearsal_network="host").seen(DB, copy=True) == DB
