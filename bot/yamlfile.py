"""A YAML file -> a mapping with every ${VAR} filled in, and the texts in it that must never be shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from bot.errors import ConfigError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SECRETIVE = re.compile(r"pass|pwd|pw$|secret|token|credential|api_?key", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\{\w+\}")


def read(path: Path, environ: Mapping[str, str]) -> tuple[dict[str, Any], frozenset[str]]:
    """The file's mapping, and the passwords and tokens in it. Raises ConfigError, one line per problem."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"{path} can't be read: {why}. Write it there, or set BACKOUT_CONFIG to where it is.") from None
    filler = _Filler(environ)
    filled = filler.fill(_parse(text, path))
    if filler.problems:
        raise ConfigError("\n".join(filler.problems))
    return filled, frozenset(filler.secrets)


class _Filler:
    """Puts variables into every text value, and remembers which texts must never be shown."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.secrets: set[str] = set()
        self.problems: list[str] = []

    def fill(self, value: Any, path: str = "", key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: self.fill(item, f"{path}.{name}".lstrip("."), name) for name, item in value.items()}
        if isinstance(value, list):
            return [self.fill(item, f"{path}[{number}]", key) for number, item in enumerate(value)]
        return self._text(value, path, key) if isinstance(value, str) else value

    def _text(self, text: str, path: str, key: str) -> str:
        def value_of(found: re.Match[str]) -> str:
            value = self._environ.get(found[1], "")
            if not value:
                self.problems.append(f"{path}: the variable {found[1]} is not set. Set it in the environment of backout.")
            elif _SECRETIVE.search(found[1]):
                self.secrets.add(value)
            return value

        if "${" in _VARIABLE.sub("", text):
            self.problems.append(f"{path}: a variable is not written as ${{NAME}}. Use letters, digits and _ between the braces, nothing else.")
        filled = _VARIABLE.sub(value_of, text)
        self._notice(filled, key)
        return filled

    def _notice(self, text: str, key: str) -> None:
        if _SECRETIVE.search(key) and text and not _PLACEHOLDER.fullmatch(text):
            self.secrets.add(text)
        try:
            url = urlsplit(text)
        except ValueError:
            return
        if not url.password or _PLACEHOLDER.fullmatch(url.password):
            return
        self.secrets.add(text)
        # A password that is also a name would blacken every mention of the name, and protects nothing.
        if url.password not in {url.username, url.path[1:]}:
            self.secrets |= {url.password, unquote(url.password)}


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core words only (`no` is text, 2026-01-01 is text, 12:30 is text), and no key twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  the base class's shape

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag not in {"tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"}:
                raise yaml.MarkedYAMLError(problem="a key that is not text; put it in quotes", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value} stands there twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|false)$", "tf"),
    ("null", r"^(?:null|~|)$", ["n", "~", ""]),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("merge", r"^<<$", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))
# YAML 1.1 reads 0010 as 8.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(str(node.value)))


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(text, _Loader)  # noqa: S506  a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(_syntax(error, path)) from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: this is no mapping. Begin with targets:, roles: and policy:.")
    return raw


def _syntax(error: yaml.YAMLError, path: Path) -> str:
    mark = getattr(error, "problem_mark", None)
    at = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    # The parser quotes what it stumbled over, and that may be half a password.
    problem = re.sub(r"'[^']{2,}'", "'...'", getattr(error, "problem", None) or "it is not YAML")
    hint = ' Inside {...} a variable needs quotes: "${VAR}".' if "flow" in (getattr(error, "context", None) or "") else ""
    return f"{path}{at}: {problem}.{hint}"
