"""Finds the helper's frames in one merged stream, whatever is printed around and between them.

A frame is a line: RS NONCE SP SEQ.PART/PARTS SP PIECE. The pieces of one SEQ, joined, are a JSON object.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

Frame = dict[str, Any]
_HEAD = re.compile(rb"(\d+)\.(\d+)/(\d+) ")
_LINE = 1 << 20  # bytes without a newline that are kept: a frame is far shorter
_ALIEN = 16 * 1024  # bytes of foreign text kept, the last ones


class Frames:
    """Feed it bytes as they come. Lines with another nonce are foreign text, so user code can't forge a frame."""

    def __init__(self, nonce: str) -> None:
        self._mark = b"\x1e" + nonce.encode() + b" "
        self._rest = b""
        self._pieces: dict[int, dict[int, bytes]] = {}
        self._alien = b""

    @property
    def alien(self) -> str:
        """The end of what came outside of frames: a Python that could not even start speaks there."""
        return (self._alien + self._rest).decode("utf-8", "replace").strip()

    def feed(self, data: bytes) -> Iterator[Frame]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._rest = self._rest[-_LINE:]
        for line in lines:
            frame = self._frame(line) if line.startswith(self._mark) else None
            if frame is not None:
                yield frame
            elif line.strip() and not line.startswith(self._mark):
                self._alien = (self._alien + line + b"\n")[-_ALIEN:]

    def _frame(self, line: bytes) -> Frame | None:
        found = _HEAD.match(line, len(self._mark))
        if found is None:
            return None
        seq, part, parts = (int(number) for number in found.groups())
        pieces = self._pieces.setdefault(seq, {})
        pieces[part] = line[found.end() :]
        if len(pieces) < parts:
            return None
        del self._pieces[seq]
        frame: Frame = json.loads(b"".join(pieces[number] for number in sorted(pieces)))
        return frame
