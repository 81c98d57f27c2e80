"""A small shop with a real Alembic history, whose newest migration breaks the checkout."""

from playground.shop.app import serving
from playground.shop.config import backout_yml
from playground.shop.data import DIRECTORY, alembic, fill

__all__ = ["DIRECTORY", "alembic", "backout_yml", "fill", "serving"]
