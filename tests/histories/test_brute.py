"""The judge of the other stories: it sees each kind of loss, and none where there is none."""

from __future__ import annotations

from pathlib import Path

import psycopg

from tests.conftest import MakeDatabase
from tests.histories import brute
from tests.histories.filling import fill

_MADE = """
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE TABLE parent (id serial PRIMARY KEY, name varchar(9) NOT NULL UNIQUE, mood mood NOT NULL DEFAULT 'ok', price numeric(8, 3));
CREATE TABLE child (parent int NOT NULL REFERENCES parent, place int NOT NULL CHECK (place > 0), "Odd.Name" jsonb, PRIMARY KEY (parent, place));
CREATE TABLE keyless (a int, b text);
INSERT INTO keyless VALUES (1, 'x'), (1, 'x'), (2, NULL)"""
_CHANGED = """
DELETE FROM keyless WHERE ctid = (SELECT min(ctid) FROM keyless);
ALTER TABLE child DROP COLUMN "Odd.Name";
ALTER TABLE child DROP CONSTRAINT child_parent_fkey;
DELETE FROM parent WHERE id = 3;
UPDATE parent SET price = price + 1 WHERE id IN (1, 2);
UPDATE parent SET mood = 'ok';
ALTER TABLE parent RENAME TO renamed"""


def test_every_kind_of_loss_is_found_and_counted(make_database: MakeDatabase, programs: Path) -> None:
    connect = make_database("judged")
    with psycopg.connect(connect.url(), autocommit=True) as session:
        session.execute(_MADE)
        assert fill(connect, 10)["parent"] == 10
        session.execute("UPDATE parent SET price = 1.5, mood = CASE WHEN id = 5 THEN 'sad' ELSE 'ok' END::mood")
        session.execute("UPDATE child SET \"Odd.Name\" = CASE WHEN place > 0 THEN '{}'::jsonb END")
        before = brute.photo(connect, programs)
        children = len(next(table for table in before.tables.values() if table.name == "public.child").rows)
        assert brute.lost(before, brute.photo(connect, programs)) == {}
        session.execute(_CHANGED)
        after = brute.photo(connect, programs)
    assert brute.lost(before, after) == {
        ("rows", "public.keyless"): 1,
        ("column", 'public.child."Odd.Name"'): children,
        ("rows", "public.parent"): 1,
        ("values", "public.parent.price"): 2,
        ("values", "public.parent.mood"): 1,
    }
    assert brute.unguarded(before, after) == {("foreign key", "public.child.child_parent_fkey")}
    with psycopg.connect(connect.url(), autocommit=True) as session:
        session.execute("DROP TABLE child")
    assert brute.lost(before, brute.photo(connect, programs))["table", "public.child"] == children
