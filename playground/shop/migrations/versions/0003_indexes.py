"""indexes for the order pages

Revision ID: 0003
Revises: 0002
Create Date: 2026-05-06 11:02:00
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("orders_customer_id_idx", "orders", ["customer_id"])
    op.create_index("order_items_order_id_idx", "order_items", ["order_id"])
    op.create_index("orders_open_idx", "orders", ["placed_at"], postgresql_where=sa.text("status = 'open'"))


def downgrade() -> None:
    op.drop_index("orders_open_idx", "orders")
    op.drop_index("order_items_order_id_idx", "order_items")
    op.drop_index("orders_customer_id_idx", "orders")
