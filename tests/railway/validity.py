"""Is a document one that Railway's schema allows, with variables of the right types? What is not is told as GraphQL servers tell it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.railway.graphql import Chosen, Document, Invalid
from tests.railway.schema import ENUMS, INPUTS, SCALARS, TYPES, bare


def proven(document: Document, given: Mapping[str, Any]) -> None:
    """Raises Invalid."""
    used: set[str] = set()
    for one in document.fields:
        _field(document.operation, one, document.variables, used)
    if unused := sorted(set(document.variables) - used):
        raise Invalid(f'Variable "${unused[0]}" is never used.')
    for name in given:
        if name not in document.variables:
            raise Invalid(f'Variable "${name}" is not defined.')
    for name, written in document.variables.items():
        _value(f'Variable "${name}"', given.get(name), written, there=name in given)


def _field(owner: str, chosen: Chosen, variables: Mapping[str, str], used: set[str]) -> None:
    known = TYPES[owner]
    if chosen.name not in known:
        raise Invalid(f'Cannot query field "{chosen.name}" on type "{owner.capitalize()}".')
    written, arguments = known[chosen.name]
    for name, value in chosen.arguments.items():
        if name not in arguments:
            raise Invalid(f'Unknown argument "{name}" on field "{chosen.name}".')
        if isinstance(value, tuple):
            used.add(value[1])
            declared = variables.get(value[1])
            if declared is None:
                raise Invalid(f'Variable "${value[1]}" is not defined.')
            if declared not in (arguments[name], f"{arguments[name]}!"):
                raise Invalid(f'Variable "${value[1]}" of type "{declared}" used in position expecting type "{arguments[name]}".')
        else:
            _value(f'Argument "{name}"', value, arguments[name], there=True)
    for name, wanted in arguments.items():
        if wanted.endswith("!") and name not in chosen.arguments:
            raise Invalid(f'Field "{chosen.name}" argument "{name}" of type "{wanted}" is required, but it was not provided.')
    inner = bare(written)
    if (inner in TYPES) != bool(chosen.inner):
        raise Invalid(f'Field "{chosen.name}" of type "{written}" must {"" if inner in TYPES else "not "}have a selection of subfields.')
    for one in chosen.inner:
        _field(inner, one, variables, used)


def _value(what: str, value: Any, written: str, *, there: bool) -> None:
    if value is None:
        if written.endswith("!") or there:
            raise Invalid(f'{what} of required type "{written}" was not provided.' if not there else f"{what} got null.")
        return
    wanted = written.rstrip("!")
    if wanted.startswith("["):
        if not isinstance(value, list):
            raise Invalid(f"{what} got a value that is no list.")
        for one in value:
            _value(what, one, wanted[1:-1], there=True)
    elif wanted in INPUTS:
        _input(what, value, wanted)
    elif wanted in ENUMS:
        if value not in ENUMS[wanted]:
            raise Invalid(f'{what} got invalid value; it does not exist in "{wanted}" enum.')
    elif wanted in SCALARS and not isinstance(value, {"Int": int, "Boolean": bool}.get(wanted, str)):
        raise Invalid(f"{what} got invalid value; {wanted} cannot represent it.")


def _input(what: str, value: Any, wanted: str) -> None:
    if not isinstance(value, dict):
        raise Invalid(f'{what} got invalid value; expected type "{wanted}" to be an object.')
    for name in value:
        if name not in INPUTS[wanted]:
            raise Invalid(f'{what} got invalid value; field "{name}" is not defined by type "{wanted}".')
    for name, inner in INPUTS[wanted].items():
        if name in value or inner.endswith("!"):
            _value(f"{what} at {name}", value.get(name), inner, there=name in value)
