"""The guide: a person of the workspace, not the bot, who says in the channel what happened, who to be and what to try."""

from __future__ import annotations

from collections.abc import Iterator

from playground.demo_screen import card_state
from playground.demo_stage import CHANNEL, COMMAND
from playground.slack import SlackStandIn
from playground.slack.model import Json

GUIDE = "U0GUIDE"
WORKS, BLOCKED = "works", "blocked"
INCIDENTS = {WORKS: "Checkout is down", BLOCKED: "Checkout is down, and an export is in the way"}
OPEN = frozenset({"planning", "rehearsing", "awaiting_approval", "running", "needs_decision"})

_BEGIN = (
    "*Checkout is down.* The last deploy ran migration `0005`, “add scoring fields”. Since then every order fails: "
    "the checkout does not fill the new column `risk_score`, and `0005` made it required."
)
_TYPE = f"You are *Dev*, backend, on call. Type this into the box below and send it: `/rollback {COMMAND}`"
_ALSO = "Somebody also left a nightly export open. It reads `orders` and will not let go. You will see what that does."

_HINTS: dict[str, str] = {
    "awaiting_approval": (
        "The card waits for a DBA. “Act as” *Dana*, read it, press *Approve*. Or be *Sam* first: he may not. *Reject* ends it another way."
    ),
    "running": "It runs. The card's thread tells it all; what you write there goes into the report. A good moment to *Kill the bot*.",
    "needs_decision": (
        "The downgrade did not get its lock, and nothing was changed; the thread names who held it. "
        "Under Demo press *End the export*, then as *Dana* press *Retry*. Without that, a second failure calls the next in line. *Leave* gives up."
    ),
    "succeeded": (
        "*Checkout works again.* The report is the last message of the card's thread: open its file. "
        "*Reset* begins again; the other incident shows a downgrade that fails."
    ),
    "rejected": "Somebody said no, and nothing was changed. Checkout is still down: ask again, or press *Reset*.",
    "aborted": "It was cancelled, and the thread has the report. Checkout may still be down: ask again, or press *Reset*.",
    "failed": "It was left as it stands, and the report says so. Checkout is still down: ask again, or press *Reset*.",
    "expired": "Nobody approved in time, and nothing was changed. Ask again, or press *Reset*.",
    "refused": "Backout would not do that, and the card says why. Ask again with another revision, or press *Reset*.",
}
_DENIED = "Only {name} sees that answer: the button was not {name}'s to press. It did nothing else, and the report will name it."
_DEAD = "*The bot is dead*, as after kill -9. What it knew is in its database. Press *Start the bot*: the run goes on, or a person is asked."
_BACK = "The bot is back, and it knows where it was."


class Guide:
    """`catch_up` after every change; each hint once for each run and state."""

    def __init__(self, slack: SlackStandIn, incident: str) -> None:
        self._slack = slack
        self._said: set[str] = set()
        self._died = False
        slack.add_user(GUIDE, "Guide")
        for text in (_BEGIN, *([_ALSO] if incident == BLOCKED else []), _TYPE):
            self._say(text)

    def catch_up(self, *, alive: bool, killed: bool) -> None:
        """`alive`: the bot is connected; `killed`: it is gone, and by the button."""
        for key, text in [*self._states(), *self._denied()]:
            if key not in self._said:
                self._said.add(key)
                self._say(text)
        if killed and not self._died:
            self._say(_DEAD)
        elif alive and self._died:
            self._say(_BACK)
        self._died = killed or (self._died and not alive)

    @property
    def suggestion(self) -> str | None:
        """What is worth typing now."""
        return None if any(card_state(card) in OPEN | {"succeeded"} for card in cards(self._slack)) else f"/rollback {COMMAND}"

    def _states(self) -> Iterator[tuple[str, str]]:
        for card in cards(self._slack):
            state = card_state(card) or ""
            if state in _HINTS:
                yield f"{card['ts']} {state}", _HINTS[state]

    def _denied(self) -> Iterator[tuple[str, str]]:
        for user in ("U0DEV", "U0LEAD", "U0SENIOR", "U0CTO"):
            if cards(self._slack) and any("don't hold" in each.get("text", "") for each in self._slack.ephemerals(user)):
                yield f"denied {user}", _DENIED.format(name=self._slack.users[user].name)

    def _say(self, text: str) -> None:
        self._slack.store_message(self._slack.channels[CHANNEL], {"user": GUIDE, "text": text})


def cards(slack: SlackStandIn) -> list[Json]:
    return [message for message in slack.channels[CHANNEL].messages.values() if card_state(message) is not None]
