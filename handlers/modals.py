"""The forms: what is missing from a request, why somebody rejects, where a provider recovered a server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from bot.model import Severity
from handlers.blocks import Block, context, mrkdwn, option, plain

REQUEST = "backout_request"
REJECT = "backout_reject"
ADDRESS = "backout_address"
ADDRESS_INPUT = "address"


#: the form's title, what the revision is, and an example; by verb
_ASKS = {
    "rollback": ("Roll back", "Revision that stays applied", "0004, -1 or base"),
    "reapply": ("Go forward again", "Revision to go forward to", "0005"),
    "restore": ("Restore a backup", "Backup, or the beginning of its name", "shop-r7k2.dump"),
    "tables": ("Bring tables back", "Which tables, from which backup", "orders,items from shop-r7k2.dump"),
    "pitr": ("Back to an instant", "Day, time and zone", "2026-01-17 10:00:00 UTC"),
    "stamp": ("Write a revision down", "Revision that the database stands at", "0004, head or base"),
}


def request(verb: str, targets: Sequence[str], given: Mapping[str, str | None], context_: Mapping[str, Any]) -> Block:
    """Asks for the target, the revision, the reason and the severity; prefilled with what was given. The form carries the verb for itself."""
    title, revision, example = _ASKS[verb]
    return {
        "type": "modal",
        "callback_id": REQUEST,
        "title": plain(title, 24),
        "submit": plain("Plan it", 24),
        "close": plain("Not now", 24),
        "private_metadata": json.dumps({**context_, "verb": verb}),
        "blocks": [
            _input("target", "Database", _select("target", [option(name, name) for name in targets[:100]], given.get("target"))),
            _input("rev", revision, _line("rev", given.get("rev"), example, 255)),
            _input("reason", "Why", _line("reason", given.get("reason"), "Orders fail since 02:40", 1000)),
            _input("severity", "Severity", _select("severity", [option(each, each) for each in Severity], given.get("severity"))),
            context("Nothing is changed by this. You get a plan, and the people whose role it is approve it."),
        ],
    }


def reject(run: str, digest: str, context_: Mapping[str, Any]) -> Block:
    """Asks why; rejecting ends the run."""
    return {
        "type": "modal",
        "callback_id": REJECT,
        "title": plain("Reject", 24),
        "submit": plain("Reject", 24),
        "close": plain("Back", 24),
        "private_metadata": json.dumps({**context_, "run": run, "digest": digest}),
        "blocks": [
            _input("reason", "Why not", _line("reason", None, "Fix forward is on its way", 1000)),
            {"type": "section", "text": mrkdwn("This ends the run. Nothing in the database is changed.")},
        ],
    }


def address(run: str, context_: Mapping[str, Any]) -> Block:
    """Asks where a recovered server is. Slack has no input that hides what is typed."""
    return {
        "type": "modal",
        "callback_id": ADDRESS,
        "title": plain("The recovered server", 24),
        "submit": plain("Look at it", 24),
        "close": plain("Not yet", 24),
        "private_metadata": json.dumps({**context_, "run": run}),
        "blocks": [
            _input(ADDRESS_INPUT, "Its address", _line(ADDRESS_INPUT, None, "postgresql://user:password@host:5432/shop", 1000)),
            context(
                "It is looked at before it is taken: it must not be production, and its version table must be there. "
                "Backout holds the address in memory alone: it is not stored, shown, logged or journaled. Slack itself can't hide what you type, "
                "so give it a password of its own, and drop that afterwards."
            ),
        ],
    }


def values(view: Mapping[str, Any]) -> dict[str, str]:
    """What was filled in, by action id."""
    found: dict[str, str] = {}
    for inputs in view.get("state", {}).get("values", {}).values():
        for name, state in inputs.items():
            chosen = (state.get("selected_option") or {}).get("value") or state.get("value")
            if chosen:
                found[name] = str(chosen).strip()
    return found


def _input(name: str, label: str, element: Block) -> Block:
    return {"type": "input", "block_id": name, "label": plain(label, 2000), "element": element}


def _line(name: str, initial: str | None, placeholder: str, most: int) -> Block:
    made: Block = {"type": "plain_text_input", "action_id": name, "placeholder": plain(placeholder, 150), "max_length": most}
    return made | ({"initial_value": initial[:most]} if initial else {})


def _select(name: str, options: list[Block], initial: str | None) -> Block:
    chosen = [each for each in options if each["value"] == initial]
    made: Block = {"type": "static_select", "action_id": name, "options": options}
    return made | ({"initial_option": chosen[0]} if chosen else {})
