"""The command, the form that asks for what it lacks, and the same words in a mention."""

from __future__ import annotations

import contextlib
import datetime as dt
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict

from bot.asking import Rollbacks
from bot.errors import ChatError, Refusal, UsageError
from bot.model import Request, Run, Severity
from bot.ports import Clock, Journal
from bot.strategy import restorable
from handlers import answers, grammar, modals, payload
from handlers.api import Slack
from handlers.chat import SlackChat
from handlers.grammar import Command
from handlers.inbox import Item
from handlers.payload import Sender
from handlers.text import code, unescape

_NEEDS = {"restore": "one backup", "tables": "tables and a backup", "pitr": "one instant"}
_MENTION = re.compile(r"^\s*<@[^>]+>\s*")
_SAME = dt.timedelta(minutes=30)  # a request that is worked off a second time made its run within this


class RollbackCommand:
    """`targets` maps each target to its channels; a target is for its own channels alone."""

    def __init__(
        self, slack: Slack, chat: SlackChat, journal: Journal, rollbacks: Rollbacks, targets: Mapping[str, Sequence[str]], command: str,
        clock: Clock,
    ) -> None:  # fmt: skip
        self._slack = slack
        self._chat = chat
        self._journal = journal
        self._rollbacks = rollbacks
        self._targets = targets
        self._command = command
        self._clock = clock
        self._verbs: dict[str, Callable[[Sender, Command], Awaitable[str]]] = {
            "help": self._help,
            "plan": self._plan,
            "status": self._status,
            "abort": self._abort,
            "report": self._report,
            "history": self._history,
            "backups": self._backups,
            "check": self._check,
            "note": self._note,
        }

    async def typed(self, item: Item, sender: Sender) -> None:
        """`/rollback ...`"""
        await self._obey(item, sender, str(item.body.get("text") or ""))

    async def mentioned(self, item: Item, sender: Sender) -> None:
        """`@backout ...`, in a thread or beside it."""
        await self._obey(item, sender, _MENTION.sub("", str(item.body["event"].get("text") or "")))

    async def filled_in(self, item: Item, sender: Sender) -> None:
        """The form `backout_request`."""
        filled = modals.values(item.body["view"])
        verb = str(payload.private_metadata(item.body).get("verb"))
        verb = verb if verb in grammar.REQUESTS else "rollback"
        words = filled.get("rev", "").split()
        if (
            not words
            or (len(words) > 1 and verb not in {"tables", "pitr"} and not (verb == "restore" and restorable(words)))
            or not filled.get("reason")
            or filled.get("severity") not in set(Severity)
        ):
            raise UsageError(f"The form needs {_NEEDS.get(verb, 'one revision')}, a reason and a severity. Or write: {self._example(Command(verb))}")
        command = Command(
            verb,
            target=filled.get("target"),
            rev=" ".join(words) if verb == "restore" else grammar.revision(" ".join(words)),
            reason=filled["reason"],
            severity=Severity(filled["severity"]),
        )
        await self._request(item, sender, command, self._target(sender, command))

    async def _obey(self, item: Item, sender: Sender, text: str) -> None:
        command = grammar.parse(unescape(text), self._targets, self._command)
        if command.verb in grammar.REQUESTS:
            await self._begin(item, sender, command)
        else:
            await self._chat.tell(sender.asker, await self._verbs[command.verb](sender, command))

    # -------------------------------------------------------------- a request

    async def _begin(self, item: Item, sender: Sender, command: Command) -> None:
        complete = command.rev and command.reason and command.severity
        here = self._here(sender)
        if complete or not here or command.target:
            target = self._target(sender, command)
            if complete:
                await self._request(item, sender, command, target)
                return
        await self._ask(sender, command, here)

    async def _ask(self, sender: Sender, command: Command, here: Sequence[str]) -> None:
        """Ask for what is missing. A form needs a fresh trigger; without one, say what to type."""
        given = {key: str(value) for key, value in asdict(command).items() if value}
        if len(here) == 1:
            given.setdefault("target", here[0])
        kept = {"channel": sender.channel, "response_url": sender.asker.response_url}
        try:
            await self._slack.open_view(sender.trigger, modals.request(command.verb, here, given, kept))
        except ChatError as error:
            words = self._example(command)
            raise UsageError(f"I need a revision, a severity and a reason, and could not open the form. Write: {words}") from error

    async def _request(self, item: Item, sender: Sender, command: Command, target: str) -> None:
        assert command.rev and command.reason and command.severity  # noqa: S101, PT018  for the type checker: the callers looked
        strategy, rev = grammar.asked(command)
        request = Request(
            target=target, rev=rev, reason=command.reason, severity=command.severity, by=sender.person, channel=sender.channel,
            response_url=sender.asker.response_url, strategy=strategy,
        )  # fmt: skip
        if not (item.again and await self._was_made(request)):
            await self._rollbacks.request(request)

    async def _was_made(self, request: Request) -> bool:
        """Did the process that died get as far as making this run?"""
        since = self._clock.now() - _SAME
        runs = await self._journal.find(target=request.target, channel=request.channel)
        return any(run.created > since and _asks(run.request) == _asks(request) for run in runs)

    # -------------------------------------------------------------- which target, which run

    def _here(self, sender: Sender) -> list[str]:
        return sorted(name for name, channels in self._targets.items() if sender.channel in channels)

    def _target(self, sender: Sender, command: Command) -> str:
        """The one named, else the channel's own. Raises Refusal or UsageError."""
        here = self._here(sender)
        if command.target:
            return self._own(sender, command.target)
        if len(here) == 1:
            return here[0]
        if here:
            raise UsageError(f"Several databases are rolled back from here: {', '.join(here)}. Name one: {self._example(command, here[0])}")
        known = "; ".join(f"{name}: {_channels(channels)}" for name, channels in sorted(self._targets.items()))
        raise UsageError(f"No database is rolled back from this channel. Which one do you mean? Ask in its own channel. {known or 'None is set up.'}")

    def _own(self, sender: Sender, target: str) -> str:
        channels = self._targets.get(target)
        if channels is None:
            raise UsageError(f"There is no target {target[:40]}. There is: {', '.join(sorted(self._targets)) or 'none'}.")
        if sender.channel not in channels:
            raise Refusal("not_in_this_channel", f"{target} is not rolled back from this channel.", f"Ask in {_channels(channels)}.")
        return target

    async def _run(self, sender: Sender, command: Command) -> str:
        """The run named, else the thread's, else the channel's newest. Raises Refusal, UsageError."""
        run = command.run or await self._of_thread(sender)
        if run is None and sender.channel:
            run = await self._rollbacks.newest(channel=sender.channel)
        if run is None:
            raise UsageError(f"There is no run in this channel yet. Begin one: {self._example(Command('rollback'))}")
        self._own_run(sender, await self._journal.run(run))
        return run

    def _own_run(self, sender: Sender, run: Run) -> None:
        if sender.channel != run.request.channel:
            self._own(sender, run.target)

    async def _of_thread(self, sender: Sender) -> str | None:
        if sender.channel is None or sender.asker.thread is None:
            return None
        return await self._journal.run_of_thread(sender.channel, sender.asker.thread)

    def _example(self, command: Command, target: str = "") -> str:
        named = command.target or target
        reason = f"because {command.reason}" if command.reason else "because orders fail"
        verb = "" if command.verb == "rollback" else command.verb
        words = [self._command, verb, named, command.rev or grammar.example(command.verb), "sev", command.severity or "high", reason]
        return " ".join(str(word) for word in words if word)

    # -------------------------------------------------------------- the verbs, answered in private

    async def _help(self, sender: Sender, command: Command) -> str:
        return answers.help_(self._command, self._here(sender))

    async def _plan(self, sender: Sender, command: Command) -> str:
        assert command.rev  # noqa: S101  for the type checker: the grammar looked
        return answers.plan(await self._rollbacks.preview(self._target(sender, command), command.rev))

    async def _status(self, sender: Sender, command: Command) -> str:
        run = await self._run(sender, command)
        return answers.status(await self._rollbacks.view(run), await self._link(run))

    async def _abort(self, sender: Sender, command: Command) -> str:
        run = await self._run(sender, command)
        await self._rollbacks.cancel(run, sender.person)
        return f"{code(run)} is being cancelled. The card shows when it has ended."

    async def _report(self, sender: Sender, command: Command) -> str:
        run = await self._run(sender, command)
        return answers.report(await self._rollbacks.report(run), await self._link(run))

    async def _history(self, sender: Sender, command: Command) -> str:
        target = self._target(sender, command)
        return answers.history(target, await self._rollbacks.history(target))

    async def _backups(self, sender: Sender, command: Command) -> str:
        target = self._target(sender, command)
        return answers.backups(target, await self._rollbacks.backups(target), await self._journal.archives(target))

    async def _check(self, sender: Sender, command: Command) -> str:
        target = self._target(sender, command)
        reasons = await self._rollbacks.check(target)
        with contextlib.suppress(Refusal):  # a server that can't be asked is among the reasons
            return answers.check(target, reasons, await self._rollbacks.rights(target), await self._rollbacks.duties(target))
        return answers.check(target, reasons, (), await self._rollbacks.duties(target))

    async def _note(self, sender: Sender, command: Command) -> str:
        named, _, rest = command.text.partition(" ")
        known = await self._known_run(named) if rest else False
        run = await self._run(sender, Command("note", run=named if known else None))
        await self._rollbacks.note(run, rest if known else command.text, sender.person)
        return f"Noted for {code(run)}."

    async def _known_run(self, word: str) -> bool:
        try:
            await self._journal.run(word)
        except Refusal:
            return False
        return True

    async def _link(self, run: str) -> str:
        card = (await self._journal.deliveries(run)).get("card")
        return self._chat.link(card.channel, card.ts) if card else ""


def _asks(request: Request) -> tuple[object, ...]:
    return request.strategy, request.rev, request.reason, request.severity, request.by


def _channels(channels: Sequence[str]) -> str:
    return ", ".join(f"<#{channel}>" for channel in channels) or "no channel"
