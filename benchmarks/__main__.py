"""`python -m benchmarks`: every bench in turn, its ratios against their limits. Exit code 1 when a limit was not held."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from typing import Any

from pydantic import TypeAdapter

from benchmarks import ack, archive, clone, rehearsal, restore, rollback, services
from benchmarks.frame import QUIET, Bench, Result, measured, show
from benchmarks.ground import Ground, prepared
from bot.values import Size

BENCHES: dict[str, Bench] = {one.name: one for room in (ack, rollback, rehearsal, archive, clone, restore, services) for one in room.benches()}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=BENCHES, metavar="NAME", help=f"one of {', '.join(BENCHES)}; may be given again")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (default: 5)")
    parser.add_argument(
        "--size",
        type=TypeAdapter(Size).validate_python,
        help="of the databases that are 1GB otherwise, such as 50MB: to try a bench, not to judge it",
    )
    parser.add_argument("--json", action="store_true", help="everything that was measured, as JSON on standard output")
    return parser.parse_args()


async def _run(arguments: argparse.Namespace) -> list[Result]:
    async with prepared() as ground:
        return [await _one(BENCHES[name], ground, arguments) for name in arguments.only or BENCHES]


async def _one(bench: Bench, ground: Ground, arguments: argparse.Namespace) -> Result:
    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    size = 0 if bench.size is None else arguments.size or bench.size
    say(f"{bench.name}: {bench.says}{f' of {size // 2**20} MB' if size else ''}, against {bench.theirs}")
    result = await measured(bench, ground, size=size, rounds=arguments.rounds, say=say)
    if not arguments.json:
        print("\n".join(_lines(result)), flush=True)
    return result


def _lines(result: Result) -> list[str]:
    found = [f"{result.bench.name}: {result.clean} of {len(result.rounds)} rounds were clean"]
    if result.clean < len(result.rounds):
        found[0] += f" (others took more than {QUIET:.0%} of the machine, also in {result.repeated} rounds that were repeated)"
    for one in result.ratios:
        told = "no limit" if one.limit is None else f"at most {one.limit:g}: {'held' if one.held else 'NOT HELD'}"
        found.append(f"  {one.measure}: {show(one.measure, one.ours)} against {show(one.measure, one.theirs)}, {one.ratio:.2f} times ({told})")
    for side, sample in zip(("ours", "theirs"), result.details(), strict=True):
        if sample:
            found.append(f"  {side}: " + ", ".join(f"{name} {show(name, value)}" for name, value in sample.items()))
    return found


def _machine(results: list[Result]) -> dict[str, Any]:
    return {"cores": os.cpu_count(), "benches": [_plain(result) for result in results]}


def _plain(result: Result) -> dict[str, Any]:
    return {
        "name": result.bench.name, "says": result.bench.says, "against": result.bench.theirs, "size": result.size,
        "ratios": [{**vars(one), "held": one.held} for one in result.ratios], "clean": result.clean, "repeated": result.repeated,
        "rounds": [{"ours": dict(one.ours), "theirs": dict(one.theirs), "others": one.others} for one in result.rounds],
    }  # fmt: skip


def main() -> int:
    """0 when every limit was held."""
    arguments = _arguments()
    results = asyncio.run(_run(arguments))
    if arguments.json:
        print(json.dumps(_machine(results), indent=1))
    return 0 if all(result.held for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
