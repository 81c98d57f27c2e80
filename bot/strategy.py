"""The strategies: how a database goes back, each in its words. What differs between them by name only is read here, nowhere decided again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

#: steps that are done to a copy before anybody is asked
ON_A_COPY = frozenset({"back_up", "rehearse", "try_copy", "recover", "try_tables", "try_stamp"})

Strategy = Literal["downgrade", "reapply", "restore", "tables", "pitr", "stamp"]


@dataclass(frozen=True)
class Way:
    """`move` is the step that changes the database, `noun` what people call it, `revisions` the heading of the plan's list of them."""

    move: str
    noun: str
    revisions: str
    #: how an ended run is called
    done: str
    #: the copies: a whole database takes this one's place, which is kept
    swaps: bool = False
    #: the tool moves it, over the revisions of the plan
    by_tool: bool = False


WAYS: Mapping[Strategy, Way] = {
    "downgrade": Way("downgrade", "downgrade", "undone, newest first", "rolled back", by_tool=True),
    "reapply": Way("upgrade", "upgrade", "applied, oldest first", "applied again", by_tool=True),
    "restore": Way("swap", "restore", "gone with it, newest first", "restored", swaps=True),
    "pitr": Way("swap", "recovery", "gone with it, newest first", "recovered", swaps=True),
    "tables": Way("merge_tables", "merge of tables", "", "tables brought back"),
    "stamp": Way("stamp", "stamp", "passed over, newest first", "stamped"),
}
