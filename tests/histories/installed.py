"""Published packages, pinned by hash, each in a virtual environment of its own beside the project's."""

from __future__ import annotations

import hashlib
import os
import subprocess  # noqa: TID251  a test installs and migrates as a shell would
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / ".venv-histories"


@dataclass(frozen=True)
class Installed:
    """A package's environment."""

    name: str
    root: Path

    @property
    def python(self) -> Path:
        return self.root / "bin" / "python"

    def folder(self, package: str) -> Path:
        """Where an installed package lies, e.g. 'optuna/storages/_rdb'."""
        (found,) = self.root.glob(f"lib/python*/site-packages/{package}")
        return found

    def run(self, *argv: str | Path, environ: Mapping[str, str], directory: Path) -> tuple[int, str]:
        """A program of this environment, with PATH, HOME and `environ`: its exit code and what it printed."""
        program, *rest = map(str, argv)
        done = subprocess.run(
            [str(self.root / "bin" / program), *rest], cwd=directory, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, env={"PATH": os.environ["PATH"], "HOME": str(directory), **environ},  # noqa: TID251  as above
        )  # fmt: skip
        return done.returncode, done.stdout


def installed(name: str) -> Installed:
    """Made once, and again when its lock file or our Python changed. Needs the package index when it is made."""
    lock, root = HERE / f"{name}.lock", ENVIRONMENTS / name
    wanted = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    stamp = root / ".installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        _call(sys.executable, "-m", "venv", "--clear", str(root))
        _call(str(root / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", str(lock))
        stamp.write_text(wanted)
    return Installed(name, root)


def _call(*argv: str) -> None:
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
