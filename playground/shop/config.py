"""The shop's backout.yml."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from playground.shop.data import DIRECTORY

_TEMPLATE = """\
# The sample shop. SHOP_DATABASE_URL comes from the environment.
targets:
  shop:
    database: ${{SHOP_DATABASE_URL}}
    channels: [C0INCIDENT]
    tool:
      kind: alembic
      directory: {directory}
      python: {python}
      config: alembic.ini
      env: {{DATABASE_URL: "postgresql+asyncpg://{{user}}:{{password}}@{{host}}:{{port}}/{{database}}"}}
    runner: {{kind: local}}
    platform: {{kind: none}}
    backups: {{store: {store}, keep: 24h}}
    verify:
      - {{name: no order lost, sql: "select count(*) from orders", expect: same}}
      - {{name: every item has its order, sql: "select i.id from order_items i left join orders o on o.id = i.order_id where o.id is null", expect: none}}
    health: {{url: {health}, json: {{status: healthy}}}}
roles:
  dba: {{title: DBA on call, users: [U0DBA]}}
  team-lead: {{title: Team lead, usergroup: S0LEADS, users: [U0LEAD]}}
  senior-backend: {{title: Senior backend, users: [U0SENIOR]}}
  cto: {{title: CTO, users: [U0CTO]}}
policy:
  critical: {{approve: {{dba: 1, team-lead: 1}}, within: 15m, self: false}}
  high:     {{approve: {{dba: 1}}, within: 1h}}
  medium:   {{approve: {{dba: 1}}, within: 4h}}
  low:      {{approve: {{dba: 1}}, within: 24h, advice: fix forward}}
  loss:     {{medium: {{dba: 1}}, high: {{dba: 1, team-lead: 1}}}}
escalation:
  ladder: [dba, senior-backend, cto]
  after: {{failed_attempts: 2, down: 2h}}
"""  # noqa: E501  one verification, one line


def backout_yml(health: str, *, store: Path, directory: Path = DIRECTORY) -> str:
    """The configuration as text. `health`: the shop's health address; `store`: where backups lie; `directory`: the Alembic project.

    The database's address stays out of it: SHOP_DATABASE_URL.
    """
    # JSON strings are YAML strings, whatever stands in them.
    return _TEMPLATE.format(
        directory=json.dumps(str(directory)), python=json.dumps(sys.executable), store=json.dumps(str(store)), health=json.dumps(health)
    )
