"""What stands in the way of putting a database beside the target's into its place, and what would be missing there afterwards (databases.md F10)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import asyncpg

from bot.databases import acl, dressing, visitors
from bot.databases.beside import OURS
from bot.databases.connecting import CATALOG, LONGEST, Connection, connected, quoted, words
from bot.databases.may_close import Here
from bot.errors import Refusal, StepFailed
from bot.evidence import BackupFile, Noun
from bot.place import Connect

# Never the live one; OID and comment say that it is ours, since a name says nothing.
_INCOMING = "SELECT datname::text AS name, shobj_description(oid, 'pg_database') AS note FROM pg_database WHERE oid = $1::int8::oid"

_OF_SERVER = """
SELECT d.datname::text AS name, pg_encoding_to_char(d.encoding)::text AS encoding, d.datcollate AS collation, d.datctype AS "character type",
  t.spcname::text AS tablespace, to_jsonb(d) ->> 'datlocprovider' AS "locale provider",
  coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') AS locale
FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.oid = $1::int8::oid"""
HANGING = """
SELECT ARRAY(SELECT slot_name::text FROM pg_replication_slots WHERE database = d.datname ORDER BY 1) AS slots,
  ARRAY(SELECT subname::text FROM pg_subscription WHERE subdbid = d.oid ORDER BY 1) AS subscriptions,
  ARRAY(SELECT l.provider FROM pg_shseclabel l WHERE l.classoid = 'pg_database'::regclass AND l.objoid = d.oid) AS labels
FROM pg_database d WHERE d.oid = $1::int8::oid"""

_OF_DATABASE = """
SELECT (SELECT coalesce(json_object_agg(extname, extversion), '{}')::text FROM pg_extension) AS extensions,
  ARRAY(SELECT evtname::text FROM pg_event_trigger ORDER BY 1) AS triggers"""

_RIGHTS = """
SELECT m.rolsuper OR m.rolcreatedb AS creates, m.rolsuper OR pg_has_role(m.oid, d.datdba, 'USAGE') AS owns, pg_get_userbyid(d.datdba)::text AS owner
FROM pg_roles m, pg_database d WHERE m.rolname = session_user AND d.oid = ANY ($1::oid[])"""

# Only a superuser may end a superuser's session.
_SUPERUSERS = """
SELECT a.pid, a.usename FROM pg_stat_activity a JOIN pg_roles r ON r.oid = a.usesysid
WHERE a.datid = ANY ($1::oid[]) AND r.rolsuper AND a.pid <> pg_backend_pid() ORDER BY a.pid"""


async def in_the_way(session: Connection, admin: Connect, it: Here, incoming: BackupFile, kept: str | None) -> tuple[Refusal, ...]:
    """A warning is not in the way. The giving of owner, rights and settings is tried and rolled back; nobody notices."""
    row = await session.fetchrow(_INCOMING, incoming.oid)
    if (refusal := _not_ours(it, incoming, row)) is not None:
        return (refusal,)
    assert row is not None and incoming.oid is not None  # noqa: S101, PT018  that would have been refused
    if await session.fetchval("SELECT pg_is_in_recovery()"):
        return (Refusal("standby", "The server is a standby: nothing can be renamed there.", "Write the primary's address in the URL."),)
    both = [it.oid, incoming.oid]
    found = [await _taken(session, it, row["name"], kept), await rights(session, it, both)]
    found += [await superusers(session, it, both), await prepared(session, it, both), await _consumers(session, it, both)]
    if not any(found):
        found += await _tried(session, it, incoming.oid, row["name"])
    found += await _differences(session, admin, it, incoming.oid, row["name"])
    return tuple(refusal for refusal in found if refusal is not None)


def _not_ours(it: Here, incoming: BackupFile, row: asyncpg.Record | None) -> Refusal | None:
    what = f"The database {incoming.name} (OID {incoming.oid})"
    if row is None:
        why = f"{what} is not on this server any more."
    elif incoming.oid == it.oid:
        why = f"{what} is {it.name} itself."
    elif not (row["note"] or "").startswith(OURS):
        why = f"{what}, now called {row['name']}, does not say any more that Backout made it."
    else:
        return None
    return Refusal("swap_not_ours", f"{why} Nothing was changed.", "Restore once more, into a new database.")


async def _taken(session: Connection, it: Here, incoming: str, kept: str | None) -> Refusal | None:
    if kept is None:
        return None
    if not kept or len(kept.encode()) > LONGEST or "\0" in kept:
        return Refusal("swap_name", f"{it.name} can't be kept as '{kept[:80]}': a name has 1 to {LONGEST} bytes.", "Give it another name.")
    if kept in {it.name, incoming} or await session.fetchval("SELECT true FROM pg_database WHERE datname = $1", kept):
        return Refusal("swap_name", f"There is a database {kept} already, so {it.name} can't be kept by that name.", "Give it another name.")
    return None


async def rights(session: Connection, it: Here, both: list[int]) -> Refusal | None:
    rows = await session.fetch(_RIGHTS, both)
    me = quoted(it.my_name)
    lines = [f"GRANT {quoted(owner)} TO {me};" for owner in dict.fromkeys(row["owner"] for row in rows if not row["owns"])]
    if it.owner != it.my_name and not (it.owns or it.superuser) and not lines:
        lines.append(f"GRANT {quoted(it.owner)} TO {me} WITH SET TRUE;")
    lines += [] if rows and rows[0]["creates"] else [f"ALTER ROLE {me} CREATEDB;"]
    lines += [] if it.ends or it.superuser else [f"GRANT pg_signal_backend TO {me};"]
    if not lines:
        return None
    return Refusal(
        "swap_rights",
        f"Backout's role {it.my_name} may not put another database in the place of {it.name}: it lacks {len(lines)} right{'s' if lines[1:] else ''}.",
        f"Somebody who may has to run: {' '.join(lines)}",
    )


async def superusers(session: Connection, it: Here, both: list[int]) -> Refusal | None:
    there = [] if it.superuser else [f"{row['usename']} (session {row['pid']})" for row in await session.fetch(_SUPERUSERS, both)]
    if not there:
        return None
    return Refusal(
        "swap_sessions",
        f"Superusers are in {it.name}, or in the database that is to take its place: {', '.join(there[: visitors.SHOWN])}. "
        f"Only a superuser can end their sessions, and {it.my_name} is none.",
        "Have them leave, then ask again.",
    )


async def prepared(session: Connection, it: Here, both: list[int]) -> Refusal | None:
    gids = [gid for each in both for gid in await visitors.prepared(session, each)]
    if not gids:
        return None
    return Refusal(
        "prepared_transactions",
        f"Prepared transactions hold {it.name}, or the database that is to take its place: {', '.join(gids[: visitors.SHOWN])}.",
        "Decide each one in its database: COMMIT PREPARED or ROLLBACK PREPARED.",
    )


async def _consumers(session: Connection, it: Here, both: list[int]) -> Refusal | None:
    """They stay with the OID, so with the old database: who reads them would hear nothing more, and nobody would notice."""
    rows = [row for each in both if (row := await session.fetchrow(HANGING, each)) is not None]
    slots = [f"slot {name}" for row in rows for name in row["slots"]]
    named = slots + [f"subscription {name}" for row in rows for name in row["subscriptions"]]
    if not named:
        return None
    return Refusal(
        "swap_consumers",
        f"Replication hangs on {it.name} and would stay with the old database: {', '.join(named[: visitors.SHOWN])}.",
        "Stop what reads or feeds them and drop them (pg_drop_replication_slot, DROP SUBSCRIPTION); make them anew after the swap.",
    )


async def _tried(session: Connection, it: Here, incoming: int, name: str) -> list[Refusal]:
    trying = session.transaction()
    await trying.start()
    try:
        notes = await dressing.give(session, incoming, name, await dressing.read(session, it.oid))
        await dressing.retire(session, it.oid, it.name, f"{OURS}tried", it.my_name)
    except Refusal as refusal:
        return [refusal]
    except StepFailed as error:
        return [Refusal("swap_rights", error.message, "Give Backout's role the right that is missing, or make it a superuser.")]
    except asyncpg.LockNotAvailableError:
        await trying.rollback()
        return [await _locked(session, it, incoming)]
    except asyncpg.PostgresError as error:
        return [
            Refusal(
                "swap_rights",
                f"Owner, rights and settings of {it.name} can't be given to another database by {it.my_name}: {words(error)}.",
                "Give it the right that is missing, or make it a superuser.",
            )
        ]
    finally:
        if session.is_in_transaction():
            await trying.rollback()
    return [differs(note) for note in notes if not note.startswith(acl.SAME)]


async def _locked(session: Connection, it: Here, incoming: int) -> Refusal:
    who = ", ".join(dict.fromkeys([await visitors.locking(session, each) for each in (it.oid, incoming)]))
    return Refusal(
        "swap_sessions",
        f"{it.name}, or what belongs to it, is being altered by somebody else: {who}.",
        "Have them end that, then ask again.",
    )


# ------------------------------------------------------------------ what will be another than it was


class _Inside(Noun):
    extensions: dict[str, str]
    triggers: tuple[str, ...]


async def inside(admin: Connect, name: str) -> _Inside:
    async with connected(admin.model_copy(update={"database": name}), CATALOG) as session:
        row = await session.fetchrow(_OF_DATABASE)
    assert row is not None  # noqa: S101  a SELECT without FROM has one row
    return _Inside(extensions=json.loads(row["extensions"]), triggers=row["triggers"])


async def _differences(session: Connection, admin: Connect, it: Here, incoming: int, name: str) -> list[Refusal]:
    here, there = [dict(await session.fetchrow(_OF_SERVER, oid) or {}) for oid in (it.oid, incoming)]
    found = [f"its {what} is {there[what]}, of {it.name} it is {here[what]}" for what in here if what != "name" and here[what] != there[what]]
    lost = await session.fetchrow(HANGING, it.oid)
    found += [f"the security label of {label} stays with the old database" for label in (lost["labels"] if lost else ())]
    found += _within(await inside(admin, it.name), await inside(admin, name))
    return [differs(each) for each in found]


def _within(here: _Inside, there: _Inside) -> Iterator[str]:
    for extension, version in here.extensions.items():
        if there.extensions.get(extension) != version:
            has = there.extensions.get(extension)
            yield f"the extension {extension} {version} is {f'there in version {has}' if has else 'not there'}"
    yield from _gone("event trigger", here.triggers, there.triggers, "it will not fire")


def _gone(what: str, here: Iterable[str], there: Iterable[str], so: str) -> Iterator[str]:
    for name in sorted(set(here) - set(there)):
        yield f"the {what} {name} is not there: {so}"


def differs(what: str) -> Refusal:
    return Refusal("swap_differs", f"In the database that is to take the place, {what}.", "Nothing, or make it alike after the swap.", warning=True)
