"""50,000 tables behind the door, on a server with room for their locks: an hour and more on two cores. Without that room: test_lock_budget.py."""

from __future__ import annotations

from tests.large.story import rolled_back
from tests.scenario.real import MakeShop


async def test_a_database_of_50000_tables_is_rehearsed_and_rolled_back_behind_the_door(make_shop: MakeShop) -> None:
    print(await rolled_back(make_shop, 50_000))
