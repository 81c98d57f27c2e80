"""What of a run's data was kept, was missing, came back, and what the code has to do: the thread's words for these steps.

Facts in; a text, and what only fits a file; pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bot import words
from bot.evidence import Archive, Loss, PutBack
from bot.model import CodeSeen, Plan
from bot.words import many
from handlers import story
from handlers.blocks import listing
from handlers.text import clean, code, safe

_ROOM = 1800  # characters of a list in the thread
_FILED = "and {} more, see the file"

Facts = Mapping[str, Any]


def archived(facts: Facts) -> tuple[str, str] | None:
    """Rows and bytes, what could not be archived, and how it comes back."""
    if not facts.get("archive"):
        return None
    made = Archive(**facts["archive"])
    until = f" Kept until {safe(facts['until'], 40)}." if facts.get("until") else ""
    text = f"Archived: {story.kept(made)}; read back and compared.{until}"
    if made.left_out:
        text += "\n*Not archived, so it will be gone:*\n" + listing(_left_out(made), _ROOM, _FILED)
    if made.parts:
        text += f"\nAfter the fix, bring it back with {story.put_it_back(made)}."
    lines = [f"{part.table} ({', '.join(part.columns)}): {many(part.rows, 'row')}" for part in made.parts]
    lines += [f"NOT archived: {name}: {why}" for name, why in sorted(made.left_out.items())]
    return text, _file(lines) if len(made.parts) > 3 or _is_long(_left_out(made)) else ""


def _left_out(made: Archive) -> list[str]:
    return [f"• {code(name)}: {safe(why, 300)}" for name, why in sorted(made.left_out.items())]


def reconciled(facts: Facts) -> tuple[str, str] | None:
    """What is really gone; loudly when it is more than the copy had shown."""
    if "loss" not in facts:
        return None
    losses = words.worst_first(Loss(**one) for one in facts["loss"])
    lines = [f"• {words.line(loss, code, _said)}" for loss in losses]
    more = facts.get("more") or ()
    if more:
        named = listing((f"• {safe(each, 200)}" for each in more), _ROOM, _FILED)
        kept = " What of it could be archived was archived now." if facts.get("archive") else ""
        text = f"\n*More is gone than the copy had shown:*\n{named}\n{kept.strip()}".rstrip()
    elif lines:
        text = "What is gone is what the copy had shown, compared row by row with the restore point:\n" + listing(lines, _ROOM, _FILED)
    else:
        return "Nothing is gone, compared row by row with the restore point.", ""
    plain = [words.line(loss, _plain, _plain) for loss in losses]
    return text, _file([*(f"MORE than the copy had shown: {_plain(each)}" for each in more), *plain]) if more or _is_long(lines) else ""


def put_back(facts: Facts) -> tuple[str, str] | None:
    """Rows and values, and every conflict by its key."""
    done = [PutBack(**one) for one in facts.get("put_back") or ()]
    if not done:
        return None
    rows, values, there = sum(one.rows for one in done), sum(one.values for one in done), sum(one.unchanged for one in done)
    already = f"; {many(there, 'value')} {'was' if there == 1 else 'were'} there already" if there else ""
    text = f"{many(rows, 'row')} and {many(values, 'value')} are back{already}."
    conflicts = [each for one in done for each in one.conflicts]
    total = sum(one.conflicts_total for one in done)
    shown = [f"• {code(each.table)} {code(each.key)}: {safe(each.why, 200)}" for each in conflicts]
    if total:
        text += f"\n*{many(total, 'conflict')} left alone; they stay in the archive:*\n" + listing(shown, _ROOM, _FILED)
    text += "".join(f"\n• {safe(note, 300)}" for one in done for note in one.notes[:10])
    lines = [f"{each.table} {each.key}: {each.why}" for each in conflicts]
    lines += [f"and {total - len(conflicts):,} more conflicts"] if total > len(conflicts) else []
    return text, _file(lines) if _is_long(shown) or total > len(conflicts) else ""


def written(plan: Plan) -> tuple[tuple[tuple[str, str], ...], str]:
    """Ways down that a program wrote, each in full as a file, and the sentence about them."""
    found = [one for one in plan.undone if one.script] if plan.strategy == "downgrade" else []
    files = tuple((f"{clean(one.revision, 200)}.down.sql", f"{_UNREAD.format(clean(one.revision, 300))}{one.script}") for one in found)
    told = "\nNobody wrote the way down of {}: a program did, and it can't know data. It is here in full; read it before you approve."
    return files, told.format(", ".join(code(one.revision, 100) for one in found)) if found else ""


_UNREAD = "-- Undoes {}. Written by a program, read by nobody yet. It can't know data: a column that comes back is empty.\n"


def to_commit(facts: Facts) -> tuple[tuple[tuple[str, str], ...], str]:
    """Files that the team commits, named as their directory, and the sentence that says where each belongs."""
    found = [(str(one["path"]), str(one["text"])) for one in facts.get("files") or ()]
    files = tuple((f"{clean(path.rpartition('/')[0].rpartition('/')[2] or path, 200)}.sql", text) for path, text in found)
    return files, "".join(f"\nCommit the file below as {code(path, 300)}, to the byte: it is recorded as applied." for path, _ in found)


def looked_at_code(facts: Facts) -> tuple[str, str] | None:
    """What is left to do there, and whether the tool's schema is what the database is."""
    found = facts.get("code") or {}
    if "not_looked" in found:
        return f"*The code could not be looked at:* {safe(found['not_looked'], 400)}", ""
    seen = CodeSeen(**found)
    text = f"{_said(seen.says[:1].upper() + seen.says[1:])}."
    if seen.left:
        text += "\n" + listing((f"• {safe(each, 400)}" for each in seen.left), _ROOM, _FILED)
    lines = [*seen.left, *([f"\n{seen.difference}"] if seen.difference else [])]
    return text, "\n".join(lines) + "\n" if seen.difference or len(seen.left) > 3 else ""


def _is_long(lines: Sequence[str]) -> bool:
    return sum(len(each) + 1 for each in lines) > _ROOM


def _file(lines: Sequence[str]) -> str:
    return "\n".join(_plain(each, 2000) for each in lines) + "\n"


def _plain(text: object, limit: int = 400) -> str:
    return clean(text, limit)


def _said(text: object) -> str:
    return safe(text, 200)
