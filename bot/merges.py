"""What a merge of single tables finds, is told, and did: rows of a backup beside the live ones."""

from __future__ import annotations

from typing import Literal

from bot.evidence import Conflict, Noun


class Compared(Noun):
    """A table in a database beside against the live one, row by row. `why`: it can't be merged, in a sentence; then nothing was counted.

    A row is newer than the backup when its time, or the key that a sequence handed out, is beyond all that the backup has: `newer_by` says which
    columns tell; empty when none does, then the counts of newer rows are None.
    """

    table: str
    key: tuple[str, ...] = ()
    there: int = 0
    here: int = 0
    only_there: int = 0
    only_here: int = 0
    different: int = 0
    equal: int = 0
    newer_by: tuple[str, ...] = ()
    #: the latest moment that the backup has, as text
    newest: str | None = None
    newer_only_here: int | None = None
    newer_different: int | None = None
    why: str = ""


class MergeRule(Noun):
    """What happens to live rows; rows that are only in the backup are always inserted."""

    #: rows that differ, and are not known to be newer than the backup
    different: Literal["keep", "replace"] = "keep"
    #: rows that differ and are newer than the backup; only with "replace" are newer rows that are only here deleted, too, where those are
    newer: Literal["keep", "replace"] = "keep"
    #: rows that are only here; newer ones as `newer` says
    only_here: Literal["keep", "delete"] = "keep"
    #: do user triggers fire?
    triggers: bool = False


class MergedTable(Noun):
    """`kept`: live rows that differ from the backup, or are not in it, and were left as they are because the rule says so."""

    table: str
    before: int
    after: int
    inserted: int
    updated: int
    deleted: int
    kept: int
    equal: int


class Merged(Noun):
    """What merging came to. A conflict is a row that was left alone though the rule says otherwise."""

    tables: tuple[MergedTable, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    conflicts_total: int = 0
    #: triggers that did or did not fire, sequences that were set: sentences
    notes: tuple[str, ...] = ()
