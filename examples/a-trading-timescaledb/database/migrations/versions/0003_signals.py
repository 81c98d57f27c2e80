"""signals of the models as a hypertable, the spread of each bar

Revision ID: 0003
Create Date: 2026-01-16 23:40:00
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade():
    op.add_column("usdcop_m5_ohlcv", sa.Column("spread", sa.Numeric(12, 4)))
    op.create_table(
        "trading_signals",
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("model_id", sa.Integer(), sa.ForeignKey("model_registry.id"), nullable=False),
        sa.Column("signal", sa.Numeric(6, 4)),
        sa.UniqueConstraint("model_id", "time"),
    )
    op.execute("SELECT create_hypertable('trading_signals', 'time', chunk_time_interval => INTERVAL '1 day')")


def downgrade():
    op.drop_table("trading_signals")
    op.drop_column("usdcop_m5_ohlcv", "spread")
