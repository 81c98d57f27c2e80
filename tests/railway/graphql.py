"""The little of GraphQL that strictness needs: one operation with variables and nested fields. Anything else is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

_TOKEN = re.compile(r"\s*(?:(?P<name>[_A-Za-z]\w*)|(?P<number>-?\d+)|(?P<string>\"[^\"\\]*\")|(?P<sign>[{}()\[\]:!$,]))")


class Invalid(Exception):
    """Not a document that is served here."""


@dataclass
class Chosen:
    """A field with its arguments (values, or ('$', name)) and what is chosen of it."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    inner: list[Chosen] = field(default_factory=list)


@dataclass
class Document:
    operation: str
    variables: dict[str, str]
    fields: list[Chosen]


def parse(text: str) -> Document:
    """Raises Invalid."""
    return _Parser(text).document()


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at = 0
        while text[at:].strip():
            found = _TOKEN.match(text, at)
            if found is None:
                raise Invalid(f"Syntax Error at {at}")
            kind = str(found.lastgroup)
            self._tokens.append((kind, found[kind]))
            at = found.end()
        self._at = 0

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _take(self, wanted: str = "") -> str:
        found = self._peek()
        if not found or (wanted and found != wanted):
            raise Invalid(f"Syntax Error: Expected {wanted or 'more'}, found {found or '<EOF>'}")
        self._at += 1
        return found

    def document(self) -> Document:
        operation = self._take()
        if operation not in {"query", "mutation"}:
            raise Invalid(f"Syntax Error: Unexpected Name {operation}")
        if self._peek() not in {"(", "{"}:
            self._take()
        variables = self._variables() if self._peek() == "(" else {}
        fields = self._chosen()
        if self._peek():
            raise Invalid("Only one operation is served")
        return Document(operation, variables, fields)

    def _variables(self) -> dict[str, str]:
        found: dict[str, str] = {}
        self._take("(")
        while self._peek() != ")":
            self._take("$")
            name = self._take()
            self._take(":")
            found[name] = self._type()
            if self._peek() == ",":
                self._take()
        self._take(")")
        return found

    def _type(self) -> str:
        if self._peek() == "[":
            self._take()
            inner = f"[{self._type()}]"
            self._take("]")
        else:
            inner = self._take()
        if self._peek() == "!":
            self._take()
            return f"{inner}!"
        return inner

    def _chosen(self) -> list[Chosen]:
        found = []
        self._take("{")
        while self._peek() != "}":
            one = Chosen(self._take())
            if self._peek() == "(":
                one.arguments = self._arguments()
            if self._peek() == "{":
                one.inner = self._chosen()
            found.append(one)
        self._take("}")
        return found

    def _arguments(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self._take("(")
        while self._peek() != ")":
            name = self._take()
            self._take(":")
            found[name] = self._value()
            if self._peek() == ",":
                self._take()
        self._take(")")
        return found

    def _value(self) -> Any:
        self._peek() or self._take()
        kind, text = self._tokens[self._at]
        self._at += 1
        if text == "$":
            return ("$", self._take())
        if kind == "number":
            return int(text)
        if kind == "string":
            return text[1:-1]
        if text in {"true", "false"}:
            return text == "true"
        raise Invalid(f"Syntax Error: Unexpected {text}")
