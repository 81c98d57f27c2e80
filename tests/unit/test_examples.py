"""Every example is a configuration that loads, down to the settings of its adapters, and says which part of its runbook each line is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bot.config import load
from bot.targets import target

EXAMPLES = Path(__file__).parents[2] / "examples"


def value(name: str) -> str:
    if name.endswith(("DATABASE_URL", "ADMIN_URL")):
        return "postgresql://app:x@127.0.0.1/app"
    if name == "MINIO_URL":
        return "http://127.0.0.1:9000"
    return f"http://127.0.0.1/{name}" if name.endswith("_URL") else f"fake-{name.lower().replace('_', '-')}"


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*/backout.yml")), ids=lambda file: file.parent.name)
def test_an_example_loads_with_all_its_adapters(file: Path, tmp_path: Path) -> None:
    names = set(re.findall(r"\$\{(\w+)\}", file.read_text()))
    config = load(file, {name: value(name) for name in names})
    for name in config.targets:
        parts = target(config, name, "1", tmp_path)
        assert (parts.name, parts.channels, parts.verify != ()) == (name, ("C0INCIDENT",), True)


def test_the_escrow_examples_page_answers_every_part_of_its_runbook() -> None:
    page = (EXAMPLES / "e-escrow-prisma-railway" / "README.md").read_text()
    assert set(re.findall(r"^\| (E\d+) ", page, re.MULTILINE)) == {f"E{number}" for number in range(1, 14)}
