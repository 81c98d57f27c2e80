"""The shop's Alembic project with another newest migration: columns that the application fills, or the migration itself, or an index."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playground import shop

_NEWEST = '''"""add scoring fields

Revision ID: 0005
Revises: 0004
Create Date: 2026-11-18 18:55:00
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


{body}
'''
_COLUMNS = """def upgrade():
    op.add_column("customers", sa.Column("score", sa.Integer))
    op.add_column("orders", sa.Column("risk_score", sa.Numeric(5, 2)))
    op.add_column("orders", sa.Column("scored_at", sa.DateTime(timezone=True)))
{filling}

def downgrade():
    op.drop_column("orders", "scored_at")
    op.drop_column("orders", "risk_score")
    op.drop_column("customers", "score")
"""
_FILLING = """    op.execute("UPDATE customers SET score = id % 90")
    op.execute("UPDATE orders SET risk_score = least(total_cents / 1000.0, 100), scored_at = placed_at + interval '1 minute'")
"""


INDEX = "CREATE INDEX order_items_product_idx ON order_items (product_id)"  #: what `lossless` has done, if it ran
_INDEX = f"""def upgrade():
    op.execute("{INDEX}")


def downgrade():
    op.execute("DROP INDEX order_items_product_idx")
"""


@contextmanager
def made(below: Path, *, fills: bool = False, lossless: bool = False) -> Iterator[Path]:
    """Its directory. `fills`: the migration writes every row of two tables, as data migrations do. `lossless`: it adds an index and no column."""
    with tempfile.TemporaryDirectory(dir=below) as place:
        directory = Path(place) / "shop"
        shutil.copytree(shop.DIRECTORY, directory, ignore=shutil.ignore_patterns("__pycache__"))
        (newest,) = (directory / "migrations" / "versions").glob("0005_*.py")
        newest.write_text(_NEWEST.format(body=_INDEX if lossless else _COLUMNS.format(filling=_FILLING if fills else "")))
        yield directory
