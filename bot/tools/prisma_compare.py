"""schema.prisma beside the database, by the project's own Prisma: `prisma migrate diff`, which reads.

It is the one command that gets the target's address. The session can only read: the address itself says so to the server, and no variable that
speaks of a shadow is given, since a shadow is what Prisma empties.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bot.errors import ProgramMissing
from bot.place import Connect
from bot.running import Runner
from bot.tools.watched import cleaning

_LONGEST = 64 * 1024  # bytes of what it says
_KEPT = 8000  # characters of the difference
_DIFFERS = 2  # its exit code
_NOT_THERE = frozenset({126, 127})  # a shell's exit codes for a program that can't be started
_READ_ONLY = "options=-c%20default_transaction_read_only%3Don"
_INSTALL = "install it there, or set tool.prisma"
_QUIET = {"CHECKPOINT_DISABLE": "1", "PRISMA_HIDE_UPDATE_MESSAGE": "1", "NO_COLOR": "1"}
#: of Prisma 7, then of 3.9 to 6, which read the address from the schema's own datasource
_DIALECTS = (
    ("--from-config-datasource", "--to-schema", "{schema}"),
    ("--from-schema-datasource", "{schema}", "--to-schema-datamodel", "{schema}"),
)
_OTHER_DIALECT = re.compile(r"unknown or unexpected option|unknown command|was removed", re.IGNORECASE)
#: what a program says beside its output is only wanted when it failed
_SCRIPT = 'err=$(mktemp) || exit 1; trap \'rm -f "$err"\' EXIT\n"$@" 2>"$err"; code=$?\n[ $code -eq 0 ] || [ $code -eq 2 ] || cat "$err"; exit $code'


@dataclass(frozen=True)
class Beside:
    """`same` is None where they were not compared; `why` then says why. `difference` leads from the database to the schema."""

    same: bool | None
    difference: str = ""
    why: str = ""


class Comparer:
    """Asks Prisma once; `env` are the variables that its configuration reads, filled in."""

    def __init__(self, runner: Runner, directory: Path, argv: Sequence[str], env: Mapping[str, str], connect: Connect) -> None:
        self._runner, self._directory, self._argv = runner, directory, tuple(argv)
        self._env = {**env, **_QUIET}
        self._clean = cleaning(connect)

    async def compared(self, schema: str, seconds: float) -> Beside:
        """Never raises for what Prisma did or is."""
        said = ""
        for dialect in _DIALECTS:
            words = [*self._argv, "migrate", "diff", *(word.replace("{schema}", schema) for word in dialect), "--exit-code"]
            try:
                code, said = await self._asked(words, seconds)
            except TimeoutError:
                return Beside(None, why=f"Prisma did not end within {seconds:g} s")
            except ProgramMissing as error:
                return Beside(None, why=f"Prisma isn't installed where the tool runs ({error}); {_INSTALL}")
            if code in _NOT_THERE:
                return Beside(None, why=f"Prisma isn't installed where the tool runs ({self._argv[0]}); {_INSTALL}")
            if code == 0 and "no difference" in said.lower():
                return Beside(True)
            if code == _DIFFERS and said.strip():
                return Beside(False, said.strip()[:_KEPT])
            if not _OTHER_DIALECT.search(said):
                # Prisma was seen to end with 0 and no word when its engine had died.
                return Beside(None, why=f"Prisma ended with {code}: {_short(said) or 'it said nothing'}")
        return Beside(
            None, why=f"this Prisma is too old, or too new: it does not know the options of `migrate diff` ({_short(said)}); compare them by hand"
        )

    async def _asked(self, words: Sequence[str], seconds: float) -> tuple[int, str]:
        kept = bytearray()
        async with (
            asyncio.timeout(seconds),
            self._runner.start(
                ["sh", "-c", _SCRIPT, "sh", *words], env=self._env, directory=self._directory, name=f"backout/read/{secrets.token_hex(4)}", copy=False
            ) as program,
        ):
            await program.close_stdin()
            async for data in program.output():
                kept += data[: max(0, _LONGEST - len(kept))]
            code = await program.wait()
        return code, self._clean(kept.decode("utf-8", "replace"))


def reading(connect: Connect, schema: str) -> str:
    """The database's address, for a session that can only read."""
    url = connect.url()
    wanted = f"{_READ_ONLY}{'' if schema == 'public' else f'&schema={schema}'}"
    return f"{url}{'&' if '?' in url else '?'}{wanted}"


def without_shadow(env: Mapping[str, str], url: str) -> dict[str, str]:
    """The project's variables for Prisma, filled in; none that would name the database as a shadow."""
    return {name: text.replace("{url}", url) for name, text in env.items() if "shadow" not in name.lower()}


def _short(said: str) -> str:
    return " ".join(said.split())[:300]
