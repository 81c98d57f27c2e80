"""bars by symbol

Revision ID: 0002
Create Date: 2026-01-09 09:00:00
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade():
    op.execute("CREATE INDEX idx_ohlcv_symbol_time ON usdcop_m5_ohlcv (symbol, time DESC)")


def downgrade():
    op.execute("DROP INDEX idx_ohlcv_symbol_time")
