"""Large objects that archived columns name: their bytes are archived too, since a nightly vacuumlo removes what nothing names (databases.md F7 c).

A member's lines are COPY text: object, number of the page, its bytes, owner.
"""

# ruff: noqa: S608  names are quoted here

from __future__ import annotations

from bot.databases.connecting import Connection, quoted
from bot.databases.pieces import Piece
from bot.evidence import Conflict

_PAGE = 1 << 18  # bytes
_READ = 0x40000  # INV_READ

# A descriptor is opened, asked and closed in that order: array elements are evaluated one after another.
_SIZE = f"""(ARRAY[lo_lseek64(fd, 0, 2), lo_close(fd)])[1]
  FROM (SELECT lo_open(m.oid, {_READ}) AS fd OFFSET 0) AS opened"""

_STAGE = """
CREATE TEMP TABLE {stage} (oid oid, page int8, data bytea, owner text, gone boolean) ON COMMIT DROP"""

_MAKE = """SELECT count(lo_create(o.oid)) FROM (SELECT DISTINCT oid FROM {stage} WHERE gone) o"""
_FILL = f"""SELECT count(*) FROM (SELECT lo_put(oid, page * {_PAGE}, data) FROM {{stage}} WHERE gone OFFSET 0) filled"""
_OTHER = f"""
SELECT DISTINCT oid::text FROM {{stage}} WHERE NOT gone AND lo_get(oid, page * {_PAGE}, {_PAGE}) IS DISTINCT FROM data ORDER BY 1"""


def query(piece: Piece) -> str:
    """The objects that the piece's columns name, in pages. Raises as COPY does when one may not be read."""
    named = " UNION ".join(f"SELECT {quoted(name)}::oid FROM ONLY {leaf}" for leaf in piece.leaves for name in piece.large)
    return f"""
SELECT m.oid, p.page, lo_get(m.oid, p.page * {_PAGE}, {_PAGE}), quote_ident(pg_get_userbyid(m.lomowner))
FROM pg_largeobject_metadata m CROSS JOIN LATERAL (SELECT {_SIZE}) AS s (size)
CROSS JOIN LATERAL generate_series(0, greatest(s.size - 1, 0) / {_PAGE}) AS p (page)
WHERE m.oid IN ({named}) ORDER BY m.oid, p.page"""


def staging(stage: str) -> str:
    return _STAGE.format(stage=stage)


async def put(session: Connection, table: str, stage: str) -> tuple[int, list[Conflict]]:
    """Make the objects that are gone, with their bytes and owner. One that is there with other bytes is left alone, and named."""
    await session.execute(f"UPDATE {stage} SET gone = NOT EXISTS (SELECT FROM pg_largeobject_metadata m WHERE m.oid = {stage}.oid)")
    made = int(await session.fetchval(_MAKE.format(stage=stage)))
    await session.fetchval(_FILL.format(stage=stage))
    for row in await session.fetch(f"SELECT DISTINCT oid, owner FROM {stage} WHERE gone AND owner <> quote_ident(current_user)"):
        await session.execute(f"ALTER LARGE OBJECT {int(row['oid'])} OWNER TO {row['owner']}")
    others = await session.fetch(_OTHER.format(stage=stage))
    why = "A large object of that number is there and has other bytes."
    return made, [Conflict(table=table, key=f"large object {row[0]}", why=why) for row in others]
