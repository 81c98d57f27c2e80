"""What a reader of the terminal sees: each message of the local Slack once, in order, and the card again only as a change of state."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import TextIO

from playground.slack import SlackStandIn
from playground.slack.model import Channel, Json

WIDTH = 100
#: the state in which the card is drawn as a whole: then it says all that the decision rests on
DECISION = "awaiting_approval"

_BOLD = re.compile(r"(?<![\w*])\*(?=\S)(.+?)(?<=\S)\*(?![\w*])")
_PLAIN, _STRONG, _FAINT = "\x1b[0m", "\x1b[1m", "\x1b[2m"


def card_state(message: Json) -> str | None:
    """The state that a card shows; None for any other message."""
    metadata = message.get("metadata") or {}
    return str(metadata["event_payload"]["state"]) if metadata.get("event_type") == "backout_card" else None


class Screen:
    """Draws on `out`, at most WIDTH columns wide; `colours` makes headings stand out."""

    def __init__(self, out: TextIO = sys.stdout, *, colours: bool = False) -> None:
        self._out = out
        self._colours = colours
        self._drawn: set[str] = set()
        self._cards: dict[str, str] = {}
        self._place = ""

    def scene(self, title: str) -> None:
        self._place = ""
        self._write(f"\n{self._marked(f'--- {title} '.ljust(WIDTH, '-'), _STRONG)}")

    def tell(self, text: str) -> None:
        """A sentence of the demo's own."""
        self._place = ""
        self._write("")
        self._write("\n".join(_wrapped(text, "")))

    def show(self, title: str, text: str) -> None:
        """A file, as it is."""
        self._put(title, (part for line in text.splitlines() for part in _wrapped(line, "  ")))

    def catch_up(self, slack: SlackStandIn) -> None:
        """Draw what is new in the channel, its threads, the direct messages, and what only one person sees."""
        for ts, where, message in _all(slack):
            state = card_state(message)
            if state is not None:
                self._card(slack, where, message, state)
            elif ts not in self._drawn:
                self._message(slack, where, message)
            self._drawn.add(ts)

    def _message(self, slack: SlackStandIn, where: str, message: Json) -> None:
        author = slack.names().get(message["user"], message["user"])
        self._put(f"{where} · {author}", self._lines(slack.render(message)))

    def _card(self, slack: SlackStandIn, where: str, message: Json, state: str) -> None:
        before = self._cards.get(message["ts"])
        if before == state:
            return
        self._cards[message["ts"]] = state
        self._put(f"{where} · card: {f'{before} -> ' if before else ''}{state}", ())
        if state == DECISION:
            self._message(slack, where, message)

    def _put(self, place: str, lines: Iterable[str]) -> None:
        """What stands at the same place as the lines before gets no heading of its own."""
        if place != self._place:
            self._write(f"\n{self._marked(place, _FAINT)}")
            self._place = place
        for line in lines:
            self._write(line)

    def _lines(self, text: str) -> Iterator[str]:
        """Wrapped, without Slack's marks; what is fenced keeps its spaces."""
        fenced = False
        for line in text.splitlines():
            if line.startswith("```"):
                fenced = not fenced
                continue
            shown = line if fenced else _BOLD.sub(lambda found: self._marked(found[1], _STRONG), line)
            yield from _wrapped(shown, "    " if fenced else "  ")

    def _marked(self, text: str, mark: str) -> str:
        return f"{mark}{text}{_PLAIN}" if self._colours else text

    def _write(self, line: str) -> None:
        self._out.write(f"{line}\n")
        self._out.flush()


def _wrapped(line: str, margin: str) -> list[str]:
    hanging = margin + ("  " if margin else "")
    return textwrap.wrap(line, WIDTH, initial_indent=margin, subsequent_indent=hanging, break_on_hyphens=False) or [""]


def _all(slack: SlackStandIn) -> list[tuple[str, str, Json]]:
    """Every message with its ts and where it stands, in the order in which they were written."""
    channels = list(slack.channels.values())
    kept = [(ts, _where(channel, message), message) for channel in channels for ts, message in channel.messages.items()]
    kept += [(message["ts"], f"only {user.name} sees", message) for user in slack.users.values() for message in slack.ephemerals(user.id)]
    return sorted(kept, key=lambda entry: entry[0])


def _where(channel: Channel, message: Json) -> str:
    if channel.user:
        return f"direct message to {channel.name}"
    return f"#{channel.name}{', thread' if message.get('thread_ts', message['ts']) != message['ts'] else ''}"
