"""The strategies: how a database goes back, each in its words. What differs between them by name only is read here, nowhere decided again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

#: steps that are done to a copy before anybody is asked
ON_A_COPY = frozenset({"back_up", "rehearse", "try_copy", "recover", "try_tables", "try_stamp"})
#: where a database stands whose version table can't be read
UNREAD = "unknown"

Strategy = Literal["downgrade", "reapply", "restore", "in_place", "at_provider", "tables", "pitr", "stamp"]
#: what is written behind a BACKUP so that the database is dropped for it; never meant when it is not written
_IN_PLACE = ["in", "place"]


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
    #: the same without room for both: the database is dropped first
    in_place: bool = False
    #: the server's provider puts one of its own backups in the whole server's place
    at_provider: bool = False
    #: the tool moves it, over the revisions of the plan
    by_tool: bool = False


WAYS: Mapping[Strategy, Way] = {
    "downgrade": Way("downgrade", "downgrade", "undone, newest first", "rolled back", by_tool=True),
    "reapply": Way("upgrade", "upgrade", "applied, oldest first", "applied again", by_tool=True),
    "restore": Way("swap", "restore", "gone with it, newest first", "restored", swaps=True),
    "in_place": Way("replace", "restore in place", "gone with it, newest first", "restored in place", in_place=True),
    "at_provider": Way("deploy_backup", "restore at the provider", "gone with it, newest first", "restored at the provider", at_provider=True),
    "pitr": Way("swap", "recovery", "gone with it, newest first", "recovered", swaps=True),
    "tables": Way("merge_tables", "merge of tables", "", "tables brought back"),
    "stamp": Way("stamp", "stamp", "passed over, newest first", "stamped"),
}


def restoring(rev: str) -> tuple[Strategy, str]:
    """What `restore` was asked for, 'BACKUP' or 'BACKUP in place': the strategy, and the backup."""
    words = rev.split()
    if len(words) == 3 and [word.lower() for word in words[1:]] == _IN_PLACE:
        return "in_place", words[0]
    return "restore", rev


def restorable(words: Sequence[str]) -> bool:
    """One backup, and nothing behind it but 'in place'."""
    return len(words) == 1 or restoring(" ".join(words))[0] == "in_place"
