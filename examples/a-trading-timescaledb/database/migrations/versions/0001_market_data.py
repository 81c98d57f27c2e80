"""market data: bars as a hypertable, macro indicators, models

Revision ID: 0001
Create Date: 2026-01-05 09:00:00
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade():
    op.create_table(
        "usdcop_m5_ohlcv",
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("symbol", sa.String(20), nullable=False),
        sa.Column("open", sa.Numeric(12, 4)),
        sa.Column("high", sa.Numeric(12, 4)),
        sa.Column("low", sa.Numeric(12, 4)),
        sa.Column("close", sa.Numeric(12, 4)),
        sa.Column("volume", sa.Numeric(20, 2)),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now()),
        sa.UniqueConstraint("symbol", "time"),
    )
    op.execute("SELECT create_hypertable('usdcop_m5_ohlcv', 'time', chunk_time_interval => INTERVAL '7 days')")
    op.create_table("macro_indicators_daily", sa.Column("fecha", sa.Date(), primary_key=True), sa.Column("dxy", sa.Numeric(10, 4)))
    op.create_table("model_registry", sa.Column("id", sa.Integer(), primary_key=True), sa.Column("name", sa.Text(), nullable=False))


def downgrade():
    op.drop_table("model_registry")
    op.drop_table("macro_indicators_daily")
    op.drop_table("usdcop_m5_ohlcv")
