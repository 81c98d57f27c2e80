"""What the project promises about itself: sizes, pages that keep up with the code, links that lead somewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from bot.backups import POINTS_IN_TIME
from bot.config import Config
from bot.place import Connect
from bot.stores import STORES
from bot.tools import TOOLS

ROOT = Path(__file__).parents[1]
PRODUCT = [path for room in ("bot", "handlers", "playground") for path in sorted((ROOT / room).rglob("*.py"))]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
#: in docs/contract.md, the lines that list codes begin so
CODES = re.compile(r"^(?:Refusal codes|More refusal codes): (.*)$", re.MULTILINE)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_no_module_has_more_than_400_lines() -> None:
    sizes = {named(path): len(path.read_text().splitlines()) for path in PRODUCT}

    assert {name: size for name, size in sizes.items() if size > 400} == {}


def test_nothing_is_left_to_do_in_product_code() -> None:
    marked = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")

    assert [named(path) for path in PRODUCT if marked.search(path.read_text())] == []


# ------------------------------------------------------------------ refusals


def promised_codes() -> set[str]:
    lists = CODES.findall((ROOT / "docs/contract.md").read_text())
    assert len(lists) >= 2
    return set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`([^`]*)`", " ".join(lists)))))


def raised_codes() -> set[str]:
    """First arguments of Refusal(...), and first items of the tools' tables of (code, message, next)."""
    nodes = [(path, node) for path in PRODUCT for node in ast.walk(ast.parse(path.read_text()))]
    heads = [n.args[0] for _, n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "Refusal" and n.args]
    tables = [n for path, n in nodes if path.parent.name == "tools" and isinstance(n, ast.Dict)]
    heads += [row.elts[0] for table in tables for row in table.values if isinstance(row, ast.Tuple) and len(row.elts) == 3]
    texts = {head.value for head in heads if isinstance(head, ast.Constant) and isinstance(head.value, str)}
    return {text for text in texts if re.fullmatch(r"[a-z]+(_[a-z]+)*", text)}


def test_every_refusal_that_the_contract_names_has_its_way_out() -> None:
    explained = set(re.findall(r"^### ([a-z_]+)$", (ROOT / "docs/operate.md").read_text(), re.MULTILINE))

    assert promised_codes() - explained == set()
    assert explained - promised_codes() == set()


def test_every_refusal_in_the_code_is_in_the_contract() -> None:
    raised = raised_codes()

    assert len(raised) > 10
    assert raised - promised_codes() == set()


# ------------------------------------------------------------------ configuration


def is_written(model: Any) -> bool:
    """A model whose fields are keys of the file; a connection is written as one URL."""
    return isinstance(model, type) and issubclass(model, BaseModel) and not issubclass(model, Connect)


def keys(model: Any, path: str = "") -> Iterator[str]:
    """The path of every key: * for a name of the user's own, [] for an item of a list."""
    if is_written(model):
        for name, field in model.model_fields.items():
            here = f"{path}.{field.alias or name}".lstrip(".")
            yield here
            yield from keys(field.annotation, here)
        return
    below = "[]" if getattr(model, "__origin__", None) is tuple else ".*" if getattr(model, "__origin__", None) is dict else ""
    for inner in get_args(model):
        if is_written(inner):
            yield from keys(inner, path + below)


def test_the_walk_over_the_keys_finds_the_deep_ones() -> None:
    found = set(keys(Config))

    assert {"people.*.token", "targets.*.verify[].expect", "targets.*.health.json", "policy.high.self", "escalation.after.down"} <= found


def test_every_key_of_the_configuration_is_explained_and_no_other() -> None:
    page = (ROOT / "docs/configure.md").read_text()
    cells = [cell for cell in re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE) if "." in cell or cell in Config.model_fields]
    written = {re.sub(r"\b[A-Z]{2,}\b", "*", cell) for cell in cells}
    severities = re.compile(r"^policy\.(critical|high|medium|low)\b")

    of_tools = {key for tool in TOOLS.values() for key in keys(tool.Settings, "targets.*.tool")}
    of_archives = {key for source in POINTS_IN_TIME.values() for key in keys(source.Settings, "targets.*.backups.pitr")}
    of_stores = {key for store in STORES.values() for key in keys(store.Settings, "targets.*.backups.store")}
    needed = {severities.sub("policy.*", key) for key in keys(Config)} | of_tools | of_archives | of_stores

    assert needed - written == set()
    assert written - needed == set()


# ------------------------------------------------------------------ pages


def heading_anchors(page: Path) -> set[str]:
    """As GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), link
        if anchor:
            assert anchor in heading_anchors(there), link


def test_every_page_can_be_reached_from_the_first_one() -> None:
    index = (ROOT / "docs/index.md").read_text()

    assert [
        named(page) for page in PAGES if "docs" in page.parts and page.name != "index.md" and f"({page.relative_to(ROOT / 'docs')})" not in index
    ] == []


def test_the_first_page_names_every_command_of_the_makefile_that_it_needs() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {
        word
        for page in PAGES
        for word in re.findall(r"\bmake ([a-z-]+)\b", "\n".join(re.findall(r"^\$ make .*$|`make [a-z-]+`", page.read_text(), re.MULTILINE)))
    }

    assert used
    assert used - targets == set()


def test_the_version_is_the_changelogs() -> None:
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None

    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert newest is not None
    assert newest[1] in {"Unreleased", f"[{version[1]}]", version[1]}
