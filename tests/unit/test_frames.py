"""Frames are found whatever is printed around them, and what scripts say of themselves is read from their text."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.tools import alembic_helper
from bot.tools.frames import Frames
from bot.tools.scripts import downgrade_kind, version_table

HELPER = sorted(Path(alembic_helper.__file__).parent.glob("*.py"))
NONCE = "0123456789abcdef"


def frame(seq: int, body: object, *, size: int = 3000, nonce: str = NONCE) -> bytes:
    """As the helper writes it."""
    text = json.dumps(body)
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    return b"".join(f"\n\x1e{nonce} {seq}.{number}/{len(pieces)} {piece}\n".encode() for number, piece in enumerate(pieces, 1))


def fed(data: bytes, step: int = 1 << 20) -> list[object]:
    frames = Frames(NONCE)
    return [one for at in range(0, len(data), step) for one in frames.feed(data[at : at + step])]


def test_a_frame_comes_out_as_it_went_in() -> None:
    assert fed(frame(1, {"k": "out", "text": "ü\n\x1e\x00"})) == [{"k": "out", "text": "ü\n\x1e\x00"}]


@given(st.lists(st.dictionaries(st.text(), st.text(), min_size=1), max_size=5), st.integers(1, 40), st.integers(1, 50), st.binary(max_size=60))
def test_frames_survive_any_cut_and_any_print_between_them(bodies: list[dict[str, str]], size: int, step: int, noise: bytes) -> None:
    data = b"".join(noise + frame(number, body, size=size) for number, body in enumerate(bodies))
    assert fed(data, step) == bodies


def test_pieces_of_two_frames_may_be_mixed() -> None:
    first, second = (frame(number, {"n": "x" * 50 * number}, size=20).splitlines(keepends=True) for number in (1, 2))
    mixed = b"".join(line for pair in zip(first, second, strict=False) for line in pair) + b"".join(second[len(first) :])
    assert {len(one["n"]) for one in Frames(NONCE).feed(mixed)} == {50, 100}


@pytest.mark.parametrize(
    "forged",
    [
        frame(1, {"k": "done"}, nonce="deadbeef"),
        b'\x1e 1.1/1 {"k": "done"}\n',
        f'\x1e{NONCE} one.1/1 {{"k": "done"}}\n'.encode(),
        f'no line start \x1e{NONCE} 1.1/1 {{"k": "done"}}\n'.encode(),
    ],
)
def test_a_forged_frame_is_no_frame(forged: bytes) -> None:
    assert fed(forged) == []


def test_what_is_said_outside_of_frames_is_kept_at_its_end() -> None:
    frames = Frames(NONCE)
    list(frames.feed(b"x" * 50_000 + b"\nSyntaxError: invalid syntax\n" + frame(1, {}) + b"no newline"))
    assert frames.alien.endswith("SyntaxError: invalid syntax\nno newline")
    assert len(frames.alien) < 20_000


def test_a_line_without_an_end_does_not_fill_the_memory() -> None:
    frames = Frames(NONCE)
    for _ in range(5):
        assert list(frames.feed(b"x" * (1 << 20))) == []
    assert len(frames.alien) <= 1 << 20


def test_the_helper_is_written_for_python_3_7() -> None:
    for part in HELPER:
        ast.parse(part.read_text(), feature_version=(3, 7))
    ast.parse(alembic_helper.source(), feature_version=(3, 7))


def test_the_helper_imports_nothing_but_the_standard_library() -> None:
    nodes = [node for part in HELPER for node in ast.walk(ast.parse(part.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in nodes if not getattr(node, "level", 0)}
    assert names <= sys.stdlib_module_names


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (None, "missing"),
        ("", "unknown"),
        ("x = 1", "unknown"),
        ("def downgrade(:", "unknown"),
        ("def downgrade():\n    pass", "empty"),
        ("def downgrade():\n    '''not needed'''", "empty"),
        ("def downgrade():\n    ...", "empty"),
        ("def downgrade():\n    return None", "empty"),
        ("def downgrade():\n    import logging\n    logging.getLogger().info('nothing')\n    print('nothing')", "empty"),
        ("def downgrade():\n    raise NotImplementedError", "raises"),
        ("def downgrade():\n    '''no way back'''\n    raise RuntimeError('no')", "raises"),
        ("def downgrade():\n    op.drop_table('x')\n    raise RuntimeError('no')", "real"),
        ("def downgrade(name):\n    globals()[name]()", "real"),
        ("def downgrade() -> None:\n    print(op.drop_table('x'))", "real"),
    ],
)
def test_the_kind_of_a_downgrade_is_read_from_its_text(source: str | None, kind: str) -> None:
    assert downgrade_kind(source) == kind


@pytest.mark.parametrize(
    ("env", "table"),
    [
        ("", ("alembic_version", None)),
        ("def broken(", ("alembic_version", None)),
        ("context.configure(connection=c)", ("alembic_version", None)),
        ("context.configure(connection=c, version_table='v', version_table_schema='s')", ("v", "s")),
        ("S = 's'\ndef run():\n    context.configure(version_table_schema=S)", ("alembic_version", "s")),
        ("context.configure(version_table_schema=settings.schema)", ("alembic_version", None)),
    ],
)
def test_the_version_table_is_read_from_env(env: str, table: tuple[str, str | None]) -> None:
    assert version_table(env) == table
