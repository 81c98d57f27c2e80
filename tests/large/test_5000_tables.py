"""5,000 tables: the whole rollback behind the door, in minutes."""

from __future__ import annotations

from tests.large.story import rolled_back
from tests.scenario.real import MakeShop


async def test_a_database_of_5000_tables_is_rehearsed_and_rolled_back_behind_the_door(make_shop: MakeShop) -> None:
    print(await rolled_back(make_shop, 5_000))
