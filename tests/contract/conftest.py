"""Servers of two major versions, and a database with an awkward name on each, with Backout as an ordinary role or as a superuser."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from bot.place import Connect
from tests.contract.places import Place, place, running


@pytest.fixture(scope="module")
def eighteen() -> Iterator[Connect]:
    with running(18) as connect:
        yield connect


@pytest.fixture(scope="module")
def sixteen() -> Iterator[Connect]:
    with running(16) as connect:
        yield connect


@pytest.fixture
async def plain(eighteen: Connect) -> AsyncIterator[Place]:
    """Backout is an ordinary role, with the few rights that it needs."""
    async with place(eighteen, is_superuser=False, database='We"ird shop', role='the "App"') as found:
        yield found


@pytest.fixture(params=["eighteen", "sixteen"])
def one_of_both(request: pytest.FixtureRequest) -> Connect:
    found: Connect = request.getfixturevalue(request.param)
    return found


@pytest.fixture
async def either(one_of_both: Connect) -> AsyncIterator[Place]:
    """The same on both."""
    async with place(one_of_both, is_superuser=False, database='We"ird shop', role='the "App"') as found:
        yield found


@pytest.fixture(params=[("eighteen", False), ("eighteen", True), ("sixteen", False)], ids=["18", "18 as a superuser", "16"])
def kind(request: pytest.FixtureRequest) -> tuple[Connect, bool]:
    server, is_superuser = request.param
    return request.getfixturevalue(server), is_superuser


@pytest.fixture
async def of_any_kind(kind: tuple[Connect, bool]) -> AsyncIterator[Place]:
    async with place(kind[0], is_superuser=kind[1], database='We"ird shop', role='the "App"') as found:
        yield found
