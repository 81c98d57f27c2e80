"""reviews

Revision ID: 0004
Revises: 0003
Create Date: 2026-07-21 14:25:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "reviews",
        sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
        sa.Column("product_id", sa.BigInteger, sa.ForeignKey("products.id"), nullable=False),
        sa.Column("customer_id", sa.BigInteger, sa.ForeignKey("customers.id"), nullable=False),
        sa.Column("stars", sa.SmallInteger, nullable=False),
        sa.Column("body", sa.Text, nullable=False, server_default=""),
        sa.CheckConstraint("stars BETWEEN 1 AND 5", name="reviews_stars_check"),
    )
    op.create_index("reviews_product_id_idx", "reviews", ["product_id"])


def downgrade() -> None:
    op.drop_table("reviews")
