"""What a downgrade destroys, as far as its script can be read, and what of it can't."""

from __future__ import annotations

import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.evidence import Loss, LossClass
from bot.model import Revision
from bot.rollback.loss import loss_class, read_loss, surely_one_transaction


def script(body: str, revision: str = "0005") -> Revision:
    return Revision(revision=revision, source="def downgrade() -> None:\n" + textwrap.indent(body, "    "))


def found(body: str) -> list[tuple[str, str]]:
    return [(loss.kind, loss.name) for loss in read_loss([script(body)])]


def named(kind: str, certain: bool = True) -> Loss:
    return Loss(kind=kind, name="x", revision="1", certain=certain)


@pytest.mark.parametrize(
    ("body", "losses"),
    [
        ("op.drop_table('orders')", [("table", "orders")]),
        ("op.drop_table(table_name='orders', schema='shop')", [("table", "orders")]),
        ("op.drop_column('orders', 'score')", [("column", "orders.score")]),
        ("op.drop_column(table_name='orders', column_name='score')", [("column", "orders.score")]),
        ("with op.batch_alter_table('orders') as batch:\n    batch.drop_column('score')", [("column", "orders.score")]),
        ("op.drop_index('ix_name', table_name='orders')", [("index", "ix_name")]),
        ("op.drop_index(op.f('ix_name'))", [("index", "ix_name")]),
        ("op.drop_constraint('fk', 'orders', type_='foreignkey')", [("constraint", "fk")]),
        ("op.bulk_insert(t, [])", [("rows", "bulk_insert")]),
        ("op.add_column('orders', sa.Column('old', sa.Integer()))\nop.create_index('ix', 'orders', ['old'])", []),
        ("op.alter_column('orders', 'name', nullable=False, existing_type=sa.Text())", []),
        ("pass", []),
    ],
)
def test_alembics_own_operations_are_read(body: str, losses: list[tuple[str, str]]) -> None:
    assert found(body) == losses


@pytest.mark.parametrize(
    ("sql", "losses"),
    [
        ("DROP TABLE orders", [("table", "orders")]),
        ('drop table if exists shop."Old Orders", items;', [("table", 'shop."Old Orders"'), ("table", "items")]),
        ("alter table orders drop column score, drop column if exists note", [("column", "score"), ("column", "note")]),
        ("ALTER TABLE orders DROP score", [("column", "score")]),
        ("alter table only shop.orders\n  add x int,\n  drop if exists score", [("column", "score")]),
        ("alter table orders alter x drop default, alter y drop not null, alter z drop identity if exists", []),
        ("alter table orders drop constraint fk", [("constraint", "fk")]),
        ("delete from orders where id > 5", [("rows", "orders")]),
        ("update only orders set score = 0", [("rows", "orders")]),
        ("truncate orders", [("rows", "orders")]),
        ("drop type mood", [("type", "mood")]),
        ("drop policy mine on orders", [("policy", "mine")]),
        ("drop index concurrently if exists ix", [("index", "ix")]),
        ("create table x (id int)", []),
    ],
)
def test_literal_sql_is_read(sql: str, losses: list[tuple[str, str]]) -> None:
    assert found(f"op.execute({sql!r})") == losses
    assert found(f"op.get_bind().execute(sa.text({sql!r}))") == losses


@pytest.mark.parametrize(
    "body",
    [
        "op.execute(f'drop table {name}')",
        "op.execute(STATEMENT)",
        "op.execute('drop ' + 'table orders')",
        "op.execute(sqltext='drop table orders')",
        "op.execute('drop table orders cascade')",
        "op.execute('do $$ begin delete from orders; end $$')",
        "op.execute('call tidy_up()')",
        "_go_back()",
        "helpers.go_back(op)",
        "getattr(op, 'drop_table')('orders')",
        "gone = op.drop_table\ngone('orders')",
        "postgresql.ENUM('a', name='mood').drop(op.get_bind())",
        "op.drop_table('orders'",
    ],
)
def test_what_can_not_be_read_says_so_and_counts_as_the_highest_class(body: str) -> None:
    losses = read_loss([script(body)])
    assert [loss.kind for loss in losses if not loss.certain][:1] == ["unreadable"]
    assert loss_class(losses) is LossClass.HIGH


def test_a_name_that_is_only_known_while_it_runs_is_no_certain_loss() -> None:
    (loss,) = read_loss([script("for name in NAMES:\n    op.drop_table(name)")])
    assert (loss.kind, loss.name, loss.certain) == ("table", "?", False)


@pytest.mark.parametrize("source", ["", "def downgrade(", "downgrade = other", "async def downgrade():\n    pass", "\x00"])
def test_a_script_without_a_readable_downgrade_is_unreadable(source: str) -> None:
    losses = read_loss([Revision(revision="0005", source=source)])
    assert [loss.kind for loss in losses] == ["unreadable"]
    assert not surely_one_transaction([Revision(revision="0005", source=source)])


def test_losses_come_in_the_order_of_undoing_with_their_revision_and_only_once() -> None:
    both = [script("op.drop_table('b')\nop.execute('drop table b')", "0005"), script("op.drop_table('a')", "0004")]
    assert [(loss.revision, loss.name) for loss in read_loss(both)] == [("0005", "b"), ("0004", "a")]


def test_the_class_is_the_highest_of_its_parts() -> None:
    assert loss_class([]) is LossClass.NONE
    assert loss_class([named("index"), named("constraint"), named("policy")]) is LossClass.NONE
    assert loss_class([named("index"), named("column")]) is LossClass.MEDIUM
    for kind in ("table", "rows", "type", "unreadable"):
        assert loss_class([named("column"), named(kind)]) is LossClass.HIGH


@pytest.mark.parametrize(
    ("body", "sure"),
    [
        ("op.drop_column('orders', 'score')", True),
        ("op.execute('alter table orders drop column score')", True),
        ("op.execute(sa.text('delete from orders'))", True),
        ("for name in ('a', 'b'):\n    op.drop_table(name)", True),
        ("op.drop_index('ix', postgresql_concurrently=True)", False),
        ("op.execute('drop index concurrently ix')", False),
        ("op.execute('commit')", False),
        ("op.execute('delete from orders; commit')", False),
        ("op.execute('vacuum orders')", False),
        ("op.execute(\"alter type mood add value 'calm'\")", False),
        ("op.execute('do $$ begin commit; end $$')", False),
        ("op.execute(\"select dblink_exec('x', 'y')\")", False),
        ("with op.get_context().autocommit_block():\n    op.drop_index('ix')", False),
        ("op.get_bind().commit()", False),
        ("helper()", False),
        ("import os", False),
        ("op.execute(STATEMENT)", False),
        ("try:\n    op.drop_table('a')\nexcept Exception:\n    pass", False),
    ],
)
def test_one_transaction_is_only_sure_when_every_line_is_known(body: str, sure: bool) -> None:
    assert surely_one_transaction([script(body)]) is sure
    assert surely_one_transaction([script("op.drop_table('x')", "0006"), script(body)]) is sure


@given(st.text(max_size=300))
def test_no_text_of_a_script_breaks_the_reader(text: str) -> None:
    for source in (text, f"def downgrade():\n    {text}", f"def downgrade():\n    op.execute({text!r})"):
        losses = read_loss([Revision(revision="0005", source=source)])
        assert loss_class(losses) in set(LossClass)
