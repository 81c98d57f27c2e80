"""What the helper refused or failed at, in sentences: what happened, what it means, what to do next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bot.errors import Refusal
from bot.tools.frames import Frame

_GIVE_ENV = "Let env.py read its URL from a variable that tool.env sets, and open one engine only."
_ONE_PROCESS = "Let env.py run the migrations once, in its own process, on one connection of SQLAlchemy."

#: why -> code, message, what to do next. {words} are the frame's own.
_SENTENCES: dict[str, tuple[str, str, str]] = {
    "tool_missing": ("tool_missing", "{python} can't load alembic: {message}. So neither the history nor the revision can be read.",
        "Name the Python of the application's own environment as tool.python."),
    "no_config": ("tool_missing", "There is no {file}, and no pyproject.toml beside it. So the migrations can't be found.",
        "Set tool.directory to the folder that holds alembic.ini, or tool.config to the file's name."),
    "wrong_config": ("tool_missing", "Alembic can't use its configuration: {message}.", "Mend alembic.ini, or set tool.config and tool.section."),
    "wrong_database": ("wrong_database", "env.py connected to another database than the one meant: it found {found}. Nothing was executed there.",
        _GIVE_ENV),
    "two_databases": ("wrong_database", "env.py connects to two addresses, {found}, so it can't be known which one is meant.", _GIVE_ENV),
    "elsewhere": ("wrong_database", "The tool wants to connect to {was}, too. This is a copy with another address, so no connection was made.",
        "Give it an address for rehearsals by rehearsal.env, or let the migration use its own connection."),
    "redirected_write": (
        "wrong_database",
        "env.py wants to write to {was} before the migrations: {sql}. That is not the address of the database meant, and it was not sent there.",
        _GIVE_ENV,
    ),
    "unproven_connection": ("wrong_database", "env.py uses a connection that can't be proven to lead to the database meant.", _GIVE_ENV),
    "cannot_prove": ("wrong_database", "A connection that env.py opened can't be proven to lead to the database meant: {message}.",
        "Give the tool a direct connection to Postgres, and look at the message."),
    "external_transaction": ("external_transaction", "env.py begins a transaction before context.configure(). Alembic would then not commit: "
        "it would report success, and nothing would have changed.",
        "In env.py, commit before context.configure(), or use connect() in place of begin()."),
    "offline": ("tool_failed", "env.py runs the migrations offline: it would print SQL and execute none.",
        "Let env.py run them online when it is asked to."),
    "again": ("several_version_tables", "env.py runs the migrations more than once, for several schemas or databases.", _ONE_PROCESS),
    "forked": ("tool_failed", "env.py works on the database from a child process, which can't be watched.", _ONE_PROCESS),
    "settings": ("tool_failed", "env.py changes {name} of its session to {found}, where {wanted} is needed. The work would have no bounds.",
        "Take that setting out of env.py."),
    "twin": ("twin", "Another process ({pid}) does this very attempt already.", "Wait until it has ended, then look at the database's revision."),
    "moved": ("moved", "The database stands at {found}, not at the planned revision: somebody moved it.", "Ask for a new plan."),
    "other_plan": ("other_plan", "Alembic would run {found}, which is not what was planned.", "Ask for a new plan."),
    "scripts_changed": ("scripts_changed", "The scripts changed since the plan: {files}.",
        "Ask for a new plan: what was approved is not what would run."),
    "unmeasured": ("tool_failed", "The locks of the migration could not be read after one of its statements: {message}.",
        "Look whether the migration sets a timeout that is too short for a look at pg_locks."),
    "not_confirmed": ("not_confirmed", "This attempt is not the current one any more, so the tool was told not to begin.",
        "Look at the newest attempt."),
}  # fmt: skip

_BROKEN = {
    "missing": ("Revision {revision} is missing: {files} follows it, and no script has it.", "Deploy the missing script to where the tool runs."),
    "duplicate": ("Revision {revision} is there more than once: {files}.", "Remove or renumber one of the scripts."),
    "cycle": ("The revisions lead in a circle: {message}.", "Mend down_revision or depends_on in the scripts that it names."),
    "unloadable": ("A migration script can't be loaded: {type}: {message} ({where}).", "Mend that script, or install what it imports."),
}


def refusal(frame: Frame, clean: Callable[[str], str]) -> Refusal:
    """The Refusal for a frame of kind `refused`."""
    words = {key: _spelled(value, clean) for key, value in frame.items()}
    if frame["why"] == "broken_history":
        message, following = _BROKEN[frame["problem"]]
        return Refusal("broken_history", "The history is broken. " + message.format(**words), following)
    code, message, following = _SENTENCES[frame["why"]]
    return Refusal(code, message.format(**words), following)


def failure(frame: Frame, output: str, clean: Callable[[str], str]) -> Refusal:
    """The Refusal for a frame of kind `failed`, or for no last frame at all (then without `type`)."""
    told = [
        f"env.py ended with {frame['type']}: {clean(frame['message'])} ({clean(frame['where'])})."
        if "type" in frame
        else "The tool ended without a word."
    ]
    if output:
        told.append(f"Its last lines: {output}")
    return Refusal("tool_failed", " ".join(told), "Run `alembic current` where the tool runs, with the same variables, and mend what it says.")


def _spelled(value: Any, clean: Callable[[str], str]) -> str:
    match value:
        case {"kind": kind}:
            return f"a {kind} database"
        case {"database": database, "host": host, "port": port, "standby": standby}:
            place = f"{database} on {host}:{port}" if host else str(database)
            return clean(place + (" (a standby)" if standby else ""))
        case [] | ():
            return "no revision"
        case list() | tuple():
            return clean(", ".join(map(str, value)))
    return clean(str(value))
