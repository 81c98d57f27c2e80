"""An archive put back: what was lost is there again, what somebody else owns now is left alone and named."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.errors import StepFailed
from bot.evidence import PutBack
from bot.place import Connect
from tests.conftest import MakeDatabase
from tests.contract.archiving import Shelf, lost


@pytest.fixture
def shop(make_database: MakeDatabase, tmp_path: Path) -> Shelf:
    return Shelf(make_database("shop"), tmp_path / "store")


async def test_a_dropped_table_comes_back_row_by_row_and_a_second_time_changes_nothing(shop: Shelf) -> None:
    made = "CREATE TABLE orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text, twice text GENERATED ALWAYS AS (note || note) STORED)"
    await shop.run(made, "INSERT INTO orders (note) SELECT 'n' || i FROM generate_series(1, 50) i", "UPDATE orders SET note = NULL WHERE id = 7")
    before = await shop.rows("SELECT * FROM orders ORDER BY id")
    kept = await shop.keep(lost("table", "public.orders"))
    await shop.run("DROP TABLE orders", made)

    first, again = await shop.put(kept), await shop.put(kept)

    assert (first.rows, first.unchanged, first.conflicts_total) == (50, 0, 0)
    assert (again.rows, again.unchanged, again.conflicts_total) == (0, 50, 0)
    assert await shop.rows("SELECT * FROM orders ORDER BY id") == before
    await shop.run("INSERT INTO orders (note) VALUES ('next')")
    assert await shop.value("SELECT max(id) FROM orders") == 51


async def test_the_archived_value_wins_over_what_the_upgrade_computed_also_when_it_is_null(shop: Shelf) -> None:
    await shop.run(
        "CREATE TABLE invoices (id serial PRIMARY KEY, score numeric)",
        "INSERT INTO invoices (score) VALUES (1), (NULL), (0.30000000000000004)",
    )
    kept = await shop.keep(lost("column", "public.invoices.score"))
    await shop.run("ALTER TABLE invoices DROP score", "INSERT INTO invoices DEFAULT VALUES")
    await shop.run("ALTER TABLE invoices ADD score numeric", "UPDATE invoices SET score = id * 1.5")

    done = await shop.put(kept)

    assert await shop.rows("SELECT id, score::text FROM invoices ORDER BY id") == [(1, "1"), (2, None), (3, "0.30000000000000004"), (4, "6.0")]
    assert (done.values, done.conflicts_total) == (3, 0)
    assert (await shop.put(kept)).unchanged == 3


async def test_an_archive_that_an_earlier_version_wrote_is_left_whole_and_named(shop: Shelf) -> None:
    await shop.run("CREATE TABLE people (id int PRIMARY KEY, name text, tax text)", "INSERT INTO people VALUES (1, 'Ann', 'A-1')")
    kept = await shop.keep(lost("column", "public.people.tax"))
    (part,) = kept.parts
    facts = {key: value for key, value in part.table_facts.items() if key != "others_types"}
    earlier = kept.model_copy(update={"parts": (part.model_copy(update={"table_facts": facts}),)})
    await shop.run("UPDATE people SET tax = NULL")

    done = await shop.put(earlier)

    assert (done.rows, done.values, done.conflicts_total) == (0, 0, 1)
    assert "earlier Backout" in done.conflicts[0].why
    assert await shop.rows("SELECT tax FROM people") == [(None,)]


# ------------------------------------------------------------------ whose value it is

PEOPLE = "CREATE TABLE people (id {} PRIMARY KEY, name text, city text, tax text)"


async def people(shop: Shelf, key: str, *meanwhile: str) -> PutBack:
    """Archive people.tax, drop it, let things happen, make it again and put it back."""
    await shop.run(PEOPLE.format(key), "INSERT INTO people (id, name, city, tax) VALUES (1, 'Ann', 'Rome', 'A-1'), (2, 'Cy', 'Oslo', 'C-2')")
    await shop.run("DO $$ BEGIN PERFORM setval(pg_get_serial_sequence('people', 'id'), 2); END $$")
    kept = await shop.keep(lost("column", "public.people.tax"))
    await shop.run("ALTER TABLE people DROP tax", *meanwhile, "ALTER TABLE people ADD tax text")
    return await shop.put(kept)


async def tax(shop: Shelf) -> list[tuple[object, ...]]:
    return await shop.rows("SELECT name, tax FROM people ORDER BY id")


async def test_bob_does_not_get_anns_tax_number_when_a_chosen_key_is_used_again(shop: Shelf) -> None:
    done = await people(shop, "int", "DELETE FROM people WHERE id = 1", "INSERT INTO people VALUES (1, 'Bob', 'Rome')")

    assert await tax(shop) == [("Bob", None), ("Cy", "C-2")]
    assert [(conflict.table, conflict.key) for conflict in done.conflicts] == [("public.people", "id=1")]
    assert "name" in done.conflicts[0].why
    assert "city" not in done.conflicts[0].why


async def test_bob_does_not_get_anns_tax_number_when_the_sequence_was_set_back(shop: Shelf) -> None:
    back = ("DELETE FROM people WHERE id = 1", "ALTER SEQUENCE people_id_seq RESTART", "INSERT INTO people (name, city) VALUES ('Bob', 'Rome')")
    done = await people(shop, "serial", *back)

    assert await tax(shop) == [("Bob", None), ("Cy", "C-2")]
    assert done.conflicts_total == 1


async def test_bob_does_not_get_anns_tax_number_when_her_generated_key_was_given_to_him_by_hand(shop: Shelf) -> None:
    done = await people(shop, "serial", "DELETE FROM people WHERE id = 1", "INSERT INTO people VALUES (1, 'Bob', 'Bonn')")

    assert await tax(shop) == [("Bob", None), ("Cy", "C-2")]
    assert done.conflicts_total == 1


async def test_an_ordinary_edit_of_a_row_with_a_generated_key_is_no_conflict(shop: Shelf) -> None:
    done = await people(shop, "serial", "UPDATE people SET city = 'Bonn' WHERE id = 1")

    assert await tax(shop) == [("Ann", "A-1"), ("Cy", "C-2")]
    assert done.conflicts_total == 0


async def test_an_edit_of_a_row_with_a_chosen_key_is_a_conflict(shop: Shelf) -> None:
    done = await people(shop, "int", "UPDATE people SET city = 'Bonn' WHERE id = 1")

    assert await tax(shop) == [("Ann", None), ("Cy", "C-2")]
    assert done.conflicts_total == 1


async def test_another_birth_mark_is_another_row(shop: Shelf) -> None:
    times = "created_at timestamptz DEFAULT now(), updated_at timestamptz DEFAULT now()"
    made = f"CREATE TABLE people (id serial PRIMARY KEY, name text, kind text, {times}, tax int)"
    await shop.run(made, "INSERT INTO people (name, kind, tax) VALUES ('Ann', 'user', 1), ('Cy', 'user', 2)")
    kept = await shop.keep(lost("column", "public.people.tax"))
    await shop.run(
        "ALTER TABLE people DROP tax",
        "DELETE FROM people WHERE id = 1",
        "INSERT INTO people VALUES (1, 'Ann', 'user')",
        "UPDATE people SET updated_at = now(), name = 'Cyd' WHERE id = 2",
        "ALTER TABLE people ADD tax int",
    )

    done = await shop.put(kept)

    assert await shop.rows("SELECT id, tax FROM people ORDER BY id") == [(1, None), (2, 2)]
    assert done.conflicts_total == 1


async def test_a_row_that_is_gone_is_a_conflict_and_is_not_made_again(shop: Shelf) -> None:
    done = await people(shop, "serial", "DELETE FROM people WHERE id = 2")

    assert await tax(shop) == [("Ann", "A-1")]
    assert [(conflict.key, conflict.why) for conflict in done.conflicts] == [("id=2", "The row is gone.")]


async def test_rows_that_the_upgrade_made_get_the_archived_values(shop: Shelf) -> None:
    made = "CREATE TABLE kinds (code text PRIMARY KEY, label text)"
    await shop.run(made, "INSERT INTO kinds VALUES ('a', 'mine'), ('b', NULL), ('c', 'c')")
    kept = await shop.keep(lost("table", "public.kinds"))
    await shop.run("DROP TABLE kinds", made, "INSERT INTO kinds VALUES ('a', 'seed'), ('b', 'seed'), ('z', 'seed')")

    done = await shop.put(kept)

    assert await shop.rows("SELECT * FROM kinds ORDER BY code") == [("a", "mine"), ("b", None), ("c", "c"), ("z", "seed")]
    assert (done.rows, done.conflicts_total) == (3, 0)


async def test_rows_that_a_migration_deleted_come_back_and_others_are_left_alone(shop: Shelf) -> None:
    await shop.run("CREATE TABLE t (id serial PRIMARY KEY, v text)", "INSERT INTO t (v) VALUES ('a'), ('b'), ('c')")
    kept = await shop.keep(lost("rows", "public.t"))
    await shop.run("DELETE FROM t WHERE id = 1", "UPDATE t SET v = 'edited' WHERE id = 2")

    done = await shop.put(kept)

    assert await shop.rows("SELECT * FROM t ORDER BY id") == [(1, "a"), (2, "edited"), (3, "c")]
    assert (done.rows, done.unchanged, done.conflicts_total) == (1, 1, 0)
    assert any("1 rows of public.t" in note for note in done.notes)


async def test_changed_values_come_back_only_where_the_row_was_not_touched_otherwise(shop: Shelf) -> None:
    await shop.run("CREATE TABLE t (id serial PRIMARY KEY, v numeric(8,3), who text)", "INSERT INTO t (v, who) VALUES (1.234, 'a'), (5.678, 'b')")
    kept = await shop.keep(lost("values", "public.t.v"))
    await shop.run("ALTER TABLE t ALTER v TYPE numeric(8,2)", "UPDATE t SET who = 'else' WHERE id = 2", "ALTER TABLE t ALTER v TYPE numeric(8,3)")

    done = await shop.put(kept)

    assert await shop.rows("SELECT v::text FROM t ORDER BY id") == [("1.234",), ("5.680",)]
    assert [conflict.key for conflict in done.conflicts] == ["id=2"]


async def test_a_label_that_was_removed_comes_back_where_it_was_used(shop: Shelf) -> None:
    await shop.run("CREATE TYPE mood AS ENUM ('sad', 'so; so')", "CREATE TABLE t (id serial PRIMARY KEY, m mood, ms mood[], who text)")
    await shop.run("INSERT INTO t (m, ms) VALUES ('so; so', '{sad,so; so}'), ('sad', NULL)")
    kept = await shop.keep(lost("enum", "public.mood.so; so") + lost("enum", 'public.mood."so; so"'))
    await shop.run("UPDATE t SET m = 'sad', ms = '{sad}'")

    done = await shop.put(kept)

    assert await shop.rows("SELECT m::text, ms::text FROM t ORDER BY id") == [("so; so", '{sad,"so; so"}'), ("sad", None)]
    assert "public.mood.so; so" in kept.left_out
    assert done.conflicts_total == 0


# ------------------------------------------------------------------ constraints

CYCLE = (
    "CREATE TABLE dept (id int PRIMARY KEY, head int)",
    "CREATE TABLE emp (id int PRIMARY KEY, dept int REFERENCES dept, boss int REFERENCES emp)",
    "ALTER TABLE dept ADD CONSTRAINT head FOREIGN KEY (head) REFERENCES emp {}",
)


@pytest.mark.parametrize("how", ["", "DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED"])
async def test_a_cycle_of_foreign_keys_comes_back_in_one_piece(shop: Shelf, how: str) -> None:
    made = [statement.format(how) for statement in CYCLE]
    await shop.run(*made, "INSERT INTO dept VALUES (1), (2)", "INSERT INTO emp VALUES (1, 1, NULL), (2, 2, 1), (3, 1, 2)")
    await shop.run("UPDATE emp SET boss = 3 WHERE id = 1", "UPDATE dept SET head = id")
    kept = await shop.keep(lost("table", "public.dept", "public.emp"))
    await shop.run("DROP TABLE dept, emp CASCADE", *made)
    constraints = "SELECT conname, condeferrable, condeferred, convalidated FROM pg_constraint WHERE contype = 'f' ORDER BY 1"
    before = await shop.rows(constraints)

    done = await shop.put(kept)

    assert (done.rows, done.conflicts_total) == (5, 0)
    assert await shop.rows("SELECT * FROM emp ORDER BY id") == [(1, 1, 3), (2, 2, 1), (3, 1, 2)]
    assert await shop.rows(constraints) == before
    assert (await shop.put(kept)).unchanged == 5


async def test_what_would_be_an_orphan_stays_out_with_everything_that_hangs_on_it(shop: Shelf) -> None:
    made = "CREATE TABLE lines (id int PRIMARY KEY, shop int REFERENCES shops, part_of int REFERENCES lines)"
    await shop.run("CREATE TABLE shops (id int PRIMARY KEY)", made, "INSERT INTO shops VALUES (1), (2)")
    await shop.run("INSERT INTO lines VALUES (1, 1, NULL), (2, 2, NULL), (3, 1, 2), (4, 1, 3), (5, 1, 1)")
    kept = await shop.keep(lost("table", "public.lines"))
    await shop.run("DROP TABLE lines", "DELETE FROM shops WHERE id = 2", made)

    done = await shop.put(kept)

    assert await shop.rows("SELECT id FROM lines ORDER BY id") == [(1,), (5,)]
    assert [conflict.key for conflict in done.conflicts] == ["id=2", "id=3", "id=4"]
    assert "public.shops" in done.conflicts[0].why


async def test_who_refers_to_a_row_that_was_refused_stays_out_too(shop: Shelf) -> None:
    made = [statement.format("") for statement in CYCLE]
    await shop.run(*made, "INSERT INTO dept VALUES (1), (2)", "INSERT INTO emp VALUES (1, 1, NULL), (2, 2, NULL), (3, 1, 2)")
    await shop.run("UPDATE dept SET head = 1 WHERE id = 1", "UPDATE dept SET head = 2 WHERE id = 2")
    kept = await shop.keep(lost("table", "public.dept", "public.emp"))
    await shop.run("DROP TABLE dept, emp CASCADE", *made, "ALTER TABLE emp ADD CHECK (id <> 2)")

    done = await shop.put(kept)

    assert (await shop.rows("SELECT * FROM dept"), await shop.rows("SELECT id FROM emp")) == ([(1, 1)], [(1,)])
    assert sorted((conflict.table, conflict.key) for conflict in done.conflicts) == [
        ("public.dept", "id=2"),
        ("public.emp", "id=2"),
        ("public.emp", "id=3"),
    ]


async def test_a_row_that_a_constraint_refuses_is_named_and_the_others_are_put(shop: Shelf) -> None:
    made = "CREATE TABLE t (id int PRIMARY KEY, email text {})"
    await shop.run(made.format(""), "INSERT INTO t SELECT i, 'e' || i % 997 FROM generate_series(1, 1000) i")
    kept = await shop.keep(lost("table", "public.t"))
    await shop.run("DROP TABLE t", made.format("UNIQUE DEFERRABLE INITIALLY DEFERRED CHECK (email <> 'e500')"))

    done = await shop.put(kept)

    assert (done.rows, done.conflicts_total) == (996, 4)
    assert [conflict.key for conflict in done.conflicts] == ["id=500", "id=998", "id=999", "id=1000"]
    assert "violates" in done.conflicts[0].why


async def test_a_sequence_goes_on_after_the_archived_keys_also_those_that_were_deleted(shop: Shelf) -> None:
    made = "CREATE TABLE t (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, down int DEFAULT 0)"
    await shop.run(made, "INSERT INTO t SELECT FROM generate_series(1, 20)", "DELETE FROM t WHERE id > 10", "INSERT INTO t VALUES (15)")
    kept = await shop.keep(lost("table", "public.t"))
    await shop.run("DROP TABLE t", made)

    done = await shop.put(kept)

    assert any("public.t_id_seq was set to 20" in note for note in done.notes)
    await shop.run("INSERT INTO t DEFAULT VALUES")
    assert await shop.value("SELECT max(id) FROM t") == 21


# ------------------------------------------------------------------ triggers, row security, everything around the rows

AUDITED = (
    "CREATE TABLE IF NOT EXISTS audit (what text)",
    "CREATE TABLE t (id int PRIMARY KEY, v text, version int)",
    "CREATE OR REPLACE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.audit VALUES (TG_OP); RETURN NEW; END'",
    "CREATE TRIGGER noted AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION noted()",
    "CREATE TRIGGER off AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION noted()",
    "ALTER TABLE t DISABLE TRIGGER off",
    "CREATE TRIGGER always AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION noted()",
    "ALTER TABLE t ENABLE ALWAYS TRIGGER always",
)


@pytest.mark.parametrize("triggers", [True, False])
async def test_user_triggers_fire_unless_they_are_asked_not_to_and_are_left_as_they_were(shop: Shelf, triggers: bool) -> None:
    await shop.run(*AUDITED, "INSERT INTO t VALUES (1), (2)", "DELETE FROM audit")
    kept = await shop.keep(lost("table", "public.t"))
    await shop.run("DROP TABLE t", *AUDITED)
    enabled = "SELECT tgname, tgenabled::text FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1"
    before = await shop.rows(enabled)

    done = await shop.put(kept, triggers=triggers)

    assert await shop.value("SELECT count(*) FROM audit") == (4 if triggers else 0)
    assert any("always, noted" in note for note in done.notes)
    assert await shop.rows(enabled) == before


async def test_a_value_that_a_trigger_changes_is_named(shop: Shelf) -> None:
    await shop.run("CREATE TABLE t (id serial PRIMARY KEY, v text)", "INSERT INTO t (v) VALUES ('Loud'), ('low')")
    kept = await shop.keep(lost("column", "public.t.v"))
    await shop.run(
        "ALTER TABLE t DROP v",
        "ALTER TABLE t ADD v text",
        "CREATE FUNCTION low() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.v := lower(NEW.v); RETURN NEW; END'",
        "CREATE TRIGGER low BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION low()",
    )

    done = await shop.put(kept)

    assert (done.values, [conflict.key for conflict in done.conflicts]) == (1, ["id=1"])


async def test_the_owner_gets_past_forced_row_security_and_it_is_forced_again(shop: Shelf, server: Connect) -> None:
    made = (
        "CREATE TABLE t (id int PRIMARY KEY, tenant text)",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE t FORCE ROW LEVEL SECURITY",
        "CREATE POLICY own ON t USING (tenant = current_setting('app.tenant', true))",
    )
    await shop.run(*made, "SET app.tenant = 'a'; INSERT INTO t VALUES (1, 'a'); SET app.tenant = 'b'; INSERT INTO t VALUES (2, 'b')")
    admin = server.model_copy(update={"database": shop.connect.database})
    kept = await shop.keep(lost("table", "public.t"), connect=admin)
    await shop.run("DROP TABLE t", *made)

    done = await shop.put(kept)

    assert (done.rows, done.conflicts_total) == (2, 0)
    assert await shop.value("SELECT relforcerowsecurity FROM pg_class WHERE relname = 't'") is True
    by_owner = await Shelf(shop.connect, shop.path / "other").keep(lost("table", "public.t"))
    assert "row-level security" in by_owner.left_out["public.t"]


async def test_a_table_gets_its_owner_grants_publications_and_identity_back(shop: Shelf, server: Connect) -> None:
    admin = Shelf(server.model_copy(update={"database": shop.connect.database}), shop.path)
    reader = f'"{shop.connect.database} reader"'
    await admin.run(f"CREATE ROLE {reader}")
    try:
        made = 'CREATE TABLE t (id serial PRIMARY KEY, v text, "Weird ""C" int, CONSTRAINT u UNIQUE (v))'
        await shop.run(
            made,
            "ALTER TABLE t ALTER v SET NOT NULL",
            f"GRANT SELECT ON t TO PUBLIC; GRANT INSERT ON t TO {reader} WITH GRANT OPTION",
            f'GRANT UPDATE ("Weird ""C") ON t TO {reader}; GRANT USAGE ON SEQUENCE t_id_seq TO {reader}',
            "ALTER TABLE t REPLICA IDENTITY FULL",
            "ALTER TABLE t ALTER v SET STATISTICS 500",
        )
        await admin.run("CREATE PUBLICATION p FOR TABLE t (id, v) WHERE (id > 5)")
        facts = """SELECT relowner::regrole::text, relacl::text, relreplident::text,
          (SELECT string_agg(concat(attname, attacl, attstattarget), ' ' ORDER BY attnum) FROM pg_attribute
            WHERE attrelid = 't'::regclass AND attnum > 0),
          (SELECT relacl::text FROM pg_class WHERE relname = 't_id_seq'),
          (SELECT string_agg(concat(attnames, rowfilter), ' ') FROM pg_publication_tables)
        FROM pg_class WHERE relname = 't'"""
        before = await admin.rows(facts)
        kept = await admin.keep(lost("table", "public.t"))
        await admin.run("DROP TABLE t", made, "ALTER TABLE t ALTER v SET NOT NULL")

        done = await admin.put(kept)

        now = await admin.rows(facts)
        assert [sorted(str(value).strip("{}").split(",")) for value in now[0]] == [sorted(str(value).strip("{}").split(",")) for value in before[0]]
        assert not [note for note in done.notes if note.startswith("Not given back")]
        assert [note for note in (await admin.put(kept)).notes if "given back" in note.lower()] == []
    finally:
        await admin.run("DROP TABLE t", f"DROP ROLE {reader}")


async def test_what_this_role_may_not_give_back_is_said_and_the_rows_are_there(shop: Shelf, server: Connect) -> None:
    admin = Shelf(server.model_copy(update={"database": shop.connect.database}), shop.path)
    await shop.run("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    await admin.run("ALTER TABLE t OWNER TO CURRENT_USER")
    kept = await admin.keep(lost("table", "public.t"))
    await admin.run("DROP TABLE t")
    await shop.run("CREATE TABLE t (id int PRIMARY KEY)")

    done = await shop.put(kept)

    assert done.rows == 1
    assert [note for note in done.notes if note.startswith("Not given back: public.t belongs to")]


async def test_a_large_object_that_was_removed_is_made_again_with_its_bytes_and_owner(shop: Shelf) -> None:
    await shop.run("CREATE DOMAIN lo AS oid", "CREATE TABLE t (id serial PRIMARY KEY, doc lo)")
    await shop.run(
        "INSERT INTO t (doc) SELECT lo_from_bytea(0, decode(repeat('00ff5c0a', 200000) || '61', 'hex')) FROM generate_series(1, 2)",
        "INSERT INTO t (doc) VALUES (lo_from_bytea(0, '')), (NULL), (4000000000)",
    )
    bytes_ = "SELECT id, doc::oid::text, CASE WHEN id < 4 THEN md5(lo_get(doc)) END FROM t ORDER BY id"
    before = await shop.rows(bytes_)
    kept = await shop.keep(lost("column", "public.t.doc"))
    await shop.run("ALTER TABLE t DROP doc", "SELECT lo_unlink(oid) FROM pg_largeobject_metadata", "ALTER TABLE t ADD doc lo")

    done = await shop.put(kept)

    assert await shop.rows(bytes_) == before
    assert any("3 large objects" in note for note in done.notes)
    assert (await shop.put(kept)).conflicts_total == 0


async def test_a_large_object_that_has_other_bytes_now_is_left_alone(shop: Shelf) -> None:
    await shop.run("CREATE TABLE t (id serial PRIMARY KEY, doc oid)", "INSERT INTO t (doc) VALUES (lo_from_bytea(0, 'then'))")
    kept = await shop.keep(lost("table", "public.t"))
    await shop.run("SELECT lo_put(doc, 0, 'now!') FROM t")

    done = await shop.put(kept)

    assert await shop.value("SELECT convert_from(lo_get(doc), 'UTF8') FROM t") == "now!"
    assert done.conflicts_total == 1


# ------------------------------------------------------------------ a schema that moved on


async def test_a_table_that_is_not_there_is_named_with_what_stays_in_the_archive(shop: Shelf) -> None:
    await shop.run("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1), (2)")
    kept = await shop.keep(lost("table", "public.t"))
    await shop.run("DROP TABLE t")

    done = await shop.put(kept)

    assert (done.rows, done.conflicts_total, len(done.conflicts)) == (0, 2, 1)
    assert "2 rows stay in the archive" in done.conflicts[0].why


async def test_a_column_that_is_not_there_or_is_computed_now_is_named_and_the_rest_is_put(shop: Shelf) -> None:
    await shop.run("CREATE TABLE t (id int PRIMARY KEY, a int, b int, c int)", "INSERT INTO t VALUES (1, 2, 3, 4)")
    kept = await shop.keep(lost("table", "public.t"))
    await shop.run("DROP TABLE t", "CREATE TABLE t (c int GENERATED ALWAYS AS (b) STORED, b int, id int PRIMARY KEY, new text DEFAULT 'n')")

    done = await shop.put(kept)

    assert await shop.rows("SELECT id, b, c, new FROM t") == [(1, 3, 3, "n")]
    assert sorted(conflict.key for conflict in done.conflicts) == ["column a", "column c"]


async def test_a_value_that_does_not_fit_the_type_of_now_is_a_conflict_and_is_never_cut(shop: Shelf) -> None:
    await shop.run("CREATE TYPE mood AS ENUM ('sad', 'glad')")
    await shop.run("CREATE TABLE t (id int PRIMARY KEY, s text, n numeric(8,3), m mood, d timestamp, i bigint)")
    await shop.run(
        "INSERT INTO t VALUES (1, 'abc', 1.5, 'sad', '2026-01-02', 7), (2, 'abcdef', 1, 'sad', NULL, NULL), (3, 'a', 1.234, 'sad', NULL, 1)",
        "INSERT INTO t VALUES (4, NULL, NULL, 'glad', NULL, NULL), (5, '', NULL, NULL, '2026-01-02 03:04', 1), (6, 'x', 2, NULL, NULL, 3000000000)",
    )
    kept = await shop.keep(lost("table", "public.t"))
    await shop.run("DROP TABLE t", "DROP TYPE mood", "CREATE TYPE mood AS ENUM ('sad')")
    await shop.run("CREATE TABLE t (id int PRIMARY KEY, s varchar(3), n numeric(8,2), m mood, d date, i int)")

    done = await shop.put(kept)

    assert await shop.rows("SELECT id, s, n::text, m::text, d::text, i FROM t") == [(1, "abc", "1.50", "sad", "2026-01-02", 7)]
    assert [conflict.key for conflict in done.conflicts] == ["id=2", "id=3", "id=4", "id=5", "id=6"]


async def test_a_key_that_is_not_unique_any_more_puts_nothing(shop: Shelf) -> None:
    await shop.run("CREATE TABLE t (id int PRIMARY KEY, v int)", "INSERT INTO t VALUES (1, 1)")
    kept = await shop.keep(lost("table", "public.t"))
    await shop.run("DROP TABLE t", "CREATE TABLE t (id int, v int)")

    done = await shop.put(kept)

    assert (done.rows, done.conflicts_total) == (0, 1)
    assert await shop.rows("SELECT * FROM t") == []


async def test_a_failure_at_the_end_puts_nothing(shop: Shelf) -> None:
    made = "CREATE TABLE t (id int PRIMARY KEY, v int)"
    await shop.run(made, "INSERT INTO t VALUES (1, 1)")
    kept = await shop.keep(lost("table", "public.t"))
    await shop.run(
        "DROP TABLE t",
        made,
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''books do not balance''; END'",
        "CREATE CONSTRAINT TRIGGER no AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION no()",
    )

    with pytest.raises(StepFailed, match="books do not balance"):
        await shop.put(kept)

    assert await shop.rows("SELECT * FROM t") == []


# ------------------------------------------------------------------ tables of other kinds


async def test_a_table_without_a_key_gets_as_many_of_each_row_as_it_had(shop: Shelf) -> None:
    made = "CREATE TABLE t (a int, b json, p point)"
    await shop.run(made, "INSERT INTO t VALUES (1, '{}', '(1,2)'), (1, '{}', '(1,2)'), (NULL, NULL, NULL), (2, '{ }', NULL)")
    kept = await shop.keep(lost("table", "public.t"))
    await shop.run("DROP TABLE t", made, "INSERT INTO t VALUES (1, '{}', '(1,2)'), (9, '{}', NULL)")

    first, again = await shop.put(kept), await shop.put(kept)

    expected = [(1, "{}", "(1,2)"), (1, "{}", "(1,2)"), (2, "{ }", None), (9, "{}", None), (None, None, None)]
    assert await shop.rows("SELECT a, b::text, p::text FROM t ORDER BY 1") == expected
    assert ((first.rows, first.unchanged), (again.rows, again.unchanged)) == ((3, 1), (0, 4))


PARTITIONED = (
    "CREATE TABLE parts (id int, day date, v text, twice text GENERATED ALWAYS AS (v || v) STORED, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
    "CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
    "CREATE TABLE parts_2 (v text, day date NOT NULL, gone int, id int NOT NULL, twice text GENERATED ALWAYS AS (v || v) STORED)",
    "ALTER TABLE parts_2 DROP gone",
    "ALTER TABLE parts ATTACH PARTITION parts_2 DEFAULT",
)


async def test_a_partitioned_table_comes_back_through_its_parent(shop: Shelf) -> None:
    await shop.run(*PARTITIONED, "INSERT INTO parts SELECT i, date '2026-01-20' + i, 'v' || i FROM generate_series(1, 30) i")
    before = await shop.rows("SELECT tableoid::regclass::text, * FROM parts ORDER BY id")
    kept = await shop.keep(lost("table", "public.parts", "public.parts_1", "public.parts_2"))
    await shop.run("DROP TABLE parts", *PARTITIONED)

    done = await shop.put(kept)

    assert [part.table for part in kept.parts] == ["public.parts"]
    assert await shop.rows("SELECT tableoid::regclass::text, * FROM parts ORDER BY id") == before
    assert done.rows == 30


async def test_a_column_of_a_partitioned_table_comes_back_in_every_partition(shop: Shelf) -> None:
    await shop.run(*PARTITIONED, "ALTER TABLE parts ADD score float8")
    await shop.run("INSERT INTO parts (id, day, score) SELECT i, date '2026-01-20' + i, i / 3.0 FROM generate_series(1, 30) i")
    before = await shop.rows("SELECT id, score::text FROM parts ORDER BY id")
    kept = await shop.keep(lost("column", "public.parts.score", "public.parts_1.score"))
    await shop.run("ALTER TABLE parts DROP score", "ALTER TABLE parts ADD score float8 DEFAULT 1")

    done = await shop.put(kept)

    assert await shop.rows("SELECT id, score::text FROM parts ORDER BY id") == before
    assert (done.values, done.unchanged, done.conflicts_total) == (29, 1, 0)


async def test_a_column_of_a_parent_comes_back_in_its_children_too(shop: Shelf) -> None:
    await shop.run("CREATE TABLE top (id int PRIMARY KEY, v text)", "CREATE TABLE below (PRIMARY KEY (id)) INHERITS (top)")
    await shop.run("INSERT INTO top VALUES (1, 'top')", "INSERT INTO below VALUES (1, 'below')")
    kept = await shop.keep(lost("column", "public.top.v"))
    await shop.run("ALTER TABLE top DROP v", "ALTER TABLE top ADD v text")

    await shop.put(kept)

    assert await shop.rows("SELECT v FROM ONLY top UNION ALL SELECT v FROM below") == [("top",), ("below",)]


async def test_hostile_names_of_schemas_tables_and_columns_are_names(shop: Shelf) -> None:
    table = '''"Mixed ""Sch'ema"."weird"".table; DROP"'''
    made = f"""CREATE TABLE {table} ("i"".d" int, "select" text, "$1" text DEFAULT 'x', PRIMARY KEY ("i"".d", "select"))"""
    await shop.run('''CREATE SCHEMA "Mixed ""Sch'ema"''', made, f"INSERT INTO {table} VALUES (1, E'a\\tb\\nc\\\\d''\"', NULL), (2, '', '')")
    before = await shop.rows(f"SELECT * FROM {table} ORDER BY 1")
    place = "pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
    name = await shop.value(f"SELECT format('%I.%I', nspname, relname) FROM {place} WHERE relname LIKE 'weird%' AND relkind = 'r'")
    kept = await shop.keep(lost("table", name))
    await shop.run(f"DROP TABLE {table}", made)

    done = await shop.put(kept)

    assert await shop.rows(f"SELECT * FROM {table} ORDER BY 1") == before
    assert (done.rows, kept.left_out) == (2, {})
