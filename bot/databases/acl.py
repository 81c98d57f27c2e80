"""A database's rights: read to the letter, and given back to the letter. All of it works from another database of the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from pydantic import Field

from bot.databases.connecting import Connection, quoted, words
from bot.errors import StepFailed
from bot.evidence import Noun

PUBLIC = 0  # as a grantee's OID
SAME = "the rights are the same as before"

_TEXT = "SELECT datacl::text AS text, datdba::int8 AS owner FROM pg_database WHERE oid = $1::int8::oid"
_ITEMS = """
SELECT a.grantor::int8, a.grantee::int8, a.privilege_type AS privilege, a.is_grantable AS grantable
FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) WITH ORDINALITY AS a (grantor, grantee, privilege_type, is_grantable, n)
WHERE d.oid = $1::int8::oid ORDER BY a.n"""


class Right(Noun):
    """Roles are OIDs, so that a renamed role is still the same; grantee 0 is PUBLIC."""

    grantor: int
    grantee: int
    privilege: str
    grantable: bool


class Acl(Noun):
    """`text` is what pg_database says, None where nothing was ever granted or revoked; `rights` are in its order, defaults spelled out."""

    text: str | None
    owner: int
    rights: tuple[Right, ...] = Field(default=())

    def grantees(self, privilege: str | None = None) -> tuple[int, ...]:
        return tuple(dict.fromkeys(right.grantee for right in self.rights if privilege in {None, right.privilege}))

    def effect(self) -> set[tuple[int, str, bool]]:
        return {(right.grantee, right.privilege, right.grantable) for right in self.rights}


async def read(session: Connection, database: int) -> Acl:
    """Of the database with that OID. Raises StepFailed when it is gone."""
    row = await session.fetchrow(_TEXT, database)
    if row is None:
        raise StepFailed(f"The database with OID {database} is gone.")
    return Acl(text=row["text"], owner=row["owner"], rights=tuple(Right(**right) for right in await session.fetch(_ITEMS, database)))


@asynccontextmanager
async def as_owner(session: Connection, database: int) -> AsyncIterator[None]:
    """Inside a transaction: grants and revokes are the owner's, who has every right.

    A role with a grant option of its own would act by that one, and revoke nothing but what it had granted itself.
    """
    owner = await session.fetchval("SELECT pg_get_userbyid(datdba) FROM pg_database WHERE oid = $1::int8::oid", database)
    await session.execute(f"SET LOCAL ROLE {quoted(owner)}")
    yield
    await session.execute("RESET ROLE")


async def give_back(session: Connection, database: int, name: str, acl: Acl) -> tuple[str, ...]:
    """Inside the caller's transaction: that database's rights are `acl` again. What could not be as it was, in sentences.

    Raises StepFailed when a right is missing afterwards; then nothing was changed.
    """
    if (await read(session, database)).text == acl.text:
        return ()
    names = {row["oid"]: row["rolname"] for row in await session.fetch("SELECT oid::int8, rolname FROM pg_roles")}
    on = f"ON DATABASE {quoted(name)}"
    async with as_owner(session, database):
        for grantee in (await read(session, database)).grantees():
            await session.execute(f"REVOKE ALL {on} FROM {_who(grantee, names)} CASCADE")
        notes = [await _grant(session, on, right, acl.owner, names) for right in acl.rights]
    notes.append(await _to_the_letter(session, database, acl))
    missing = {entry for entry in acl.effect() - (await read(session, database)).effect() if entry[0] in {PUBLIC, *names}}
    if missing:
        lines = " ".join(f"GRANT {privilege} {on} TO {_who(grantee, names)};" for grantee, privilege, _ in sorted(missing))
        raise StepFailed(f"Backout's role may not give back what it took. Somebody who may has to run: {lines}")
    return tuple(dict.fromkeys(note for note in notes if note))


async def _grant(session: Connection, on: str, right: Right, owner: int, names: dict[int, str]) -> str | None:
    """By the one who granted it, where that can be; else by the owner, which comes to the same for the one who has it."""
    if right.grantee not in {PUBLIC, *names}:
        return f"a role that had {right.privilege} is gone (its OID was {right.grantee})"
    statement = f"GRANT {right.privilege} {on} TO {_who(right.grantee, names)}{' WITH GRANT OPTION' if right.grantable else ''}"
    if right.grantor == owner:
        await session.execute(statement)
        return None
    back = await session.fetchval("SELECT format('SET LOCAL ROLE %I', current_user)")
    try:
        async with session.transaction():
            await session.execute(f"SET LOCAL ROLE {quoted(names.get(right.grantor, ''))}")
            await session.execute(statement)
            await session.execute(back)
    except asyncpg.PostgresError as error:
        await session.execute(statement)
        return f"{right.privilege} of {_who(right.grantee, names)} is now granted by the owner, not by who had granted it ({words(error)})"
    return None


async def _to_the_letter(session: Connection, database: int, acl: Acl) -> str | None:
    """GRANT can't make 'never granted' out of the same rights spelled out, nor every order. A superuser can; the effect is equal before and after."""
    now = await read(session, database)
    if now.text == acl.text or set(now.rights) != set(acl.rights):
        return None
    if not await session.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        return f"{SAME}, now spelled out" if acl.text is None else f"{SAME}, in another order"
    await session.execute("UPDATE pg_database SET datacl = $2::text::aclitem[] WHERE oid = $1::int8::oid", database, acl.text)
    return None


def _who(grantee: int, names: dict[int, str]) -> str:
    return "PUBLIC" if grantee == PUBLIC else quoted(names.get(grantee, str(grantee)))
