"""Whether code in a copy is held back on this machine is what `check` says before anybody needs to know."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot import cage, targets
from tests.unit.test_config import load, smallest


@pytest.mark.parametrize(
    ("version", "server", "codes"), [(0, "throwaway", ["not_held_back"]), (1, "throwaway", []), (0, "same", []), (0, "none", [])]
)
def test_a_kernel_that_can_not_is_said_where_a_throwaway_server_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, server: str, codes: list[str]
) -> None:
    monkeypatch.setattr(cage, "version", lambda: version)
    written = smallest()
    written["targets"]["shop"] |= {"tool": {"kind": "alembic", "directory": "."}, "rehearsal": {"server": server}}
    parts = targets.target(load(tmp_path, written), "shop", "7", tmp_path)
    assert [one.code for one in parts.rehearsal.warnings] == codes
    assert all(one.warning for one in parts.rehearsal.warnings)
