"""What each command of the command line does. The same policy, journal and engine as the channel: it is what is left when Slack is down."""

from __future__ import annotations

import asyncio
import json
import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from getpass import getpass
from typing import Any

from bot import config as configuration
from bot import show
from bot.app import App, opened, prove
from bot.config import Config
from bot.errors import Denied, JournalDown, Refusal, UsageError
from bot.handing import hand_over
from bot.model import ENDS, Person, Request, Run, Severity, State
from bot.place import Right
from bot.process import redact
from bot.rollback.addresses import wanted
from bot.settings import Settings, environment
from bot.strategy import Strategy, restorable, restoring

Command = Callable[["Shell", Namespace], Awaitable[int]]

_LOOK_SECONDS = 0.2  # between two looks at a run that is carried elsewhere


class Shell:
    """One command: settings and configuration are read, the journal is open while it runs."""

    def __init__(self, settings: Settings, config: Config, app: App) -> None:
        self.settings, self.config, self.app = settings, config, app

    def say(self, text: str) -> None:
        sys.stdout.write(redact(text, (*self.config.secrets, *self.settings.secrets())) + "\n")
        sys.stdout.flush()

    def out(self, args: Namespace, value: Any, text: str) -> None:
        self.say(json.dumps(value, default=str) if args.json else text)

    def who(self, args: Namespace) -> Person:
        """Raises Denied."""
        return prove(self.config, args.as_, self.settings.token)

    def target(self, args: Namespace) -> str:
        """The named target, or the only one. Raises UsageError."""
        if args.target:
            return str(args.target)
        if len(self.config.targets) != 1:
            raise UsageError(f"name a target: {', '.join(sorted(self.config.targets))}")
        return next(iter(self.config.targets))

    async def run(self, args: Namespace) -> str:
        if args.run:
            return str(args.run)
        newest = await self.app.rollbacks.newest()
        if newest is None:
            raise Refusal("unknown_run", "There are no runs yet.", "Start one with backout run TARGET REV.")
        return newest


async def plan(shell: Shell, args: Namespace) -> int:
    try:
        made = await shell.app.rollbacks.preview(args.target, args.rev)
    except Refusal as refusal:
        shell.out(args, show.plan_json(args.target, None, refusal), show.refusal(refusal))
        return 1
    shell.out(args, show.plan_json(args.target, made, None), show.plan(made))
    return 0


async def check(shell: Shell, args: Namespace) -> int:
    names = [args.target] if args.target else sorted(shell.config.targets)
    looked = shell.app.rollbacks
    found = [(name, await looked.check(name), await _rights(shell, name), await looked.duties(name)) for name in names]
    told = [show.check_json(*each) for each in found]
    lines = []
    for one, (name, reasons, rights, duties) in zip(told, found, strict=True):
        lines.append(f"{name}: {'ready' if one['ready'] else 'NOT ready'}")
        lines += ["  " + show.refusal(reason).replace("\n", "\n  ") for reason in reasons]
        lines += [*show.rights(rights), *show.duties(duties)]
    shell.out(args, told[0] if args.target or len(told) == 1 else {"targets": told}, "\n".join(lines))
    return 0 if all(one["ready"] for one in told) else 1


async def _rights(shell: Shell, target: str) -> tuple[Right, ...]:
    """None where the server can't be asked, which `check` has said."""
    try:
        return await shell.app.rollbacks.rights(target)
    except Refusal:
        return ()


async def run(shell: Shell, args: Namespace) -> int:
    return await _begin(shell, args, "downgrade")


async def reapply(shell: Shell, args: Namespace) -> int:
    return await _begin(shell, args, "reapply")


async def restore(shell: Shell, args: Namespace) -> int:
    if not restorable(args.rev):
        raise UsageError(f"a restore needs one backup, and nothing behind it but 'in place': backout restore {args.target} {args.rev[0]} in place")
    strategy, args.rev = restoring(" ".join(args.rev))
    return await _begin(shell, args, strategy)


async def tables(shell: Shell, args: Namespace) -> int:
    args.rev = " ".join(args.rev)
    return await _begin(shell, args, "tables")


async def pitr(shell: Shell, args: Namespace) -> int:
    args.rev = " ".join(args.rev)
    return await _begin(shell, args, "pitr")


async def stamp(shell: Shell, args: Namespace) -> int:
    return await _begin(shell, args, "stamp")


async def _begin(shell: Shell, args: Namespace, strategy: Strategy) -> int:
    by = shell.who(args)
    target = shell.config.targets.get(args.target)
    channel = target.channels[0] if target and target.channels else None
    request = Request(
        target=args.target, rev=args.rev, reason=args.reason, severity=Severity(args.sev), by=by, channel=channel, strategy=strategy
    )  # fmt: skip
    carried = await shell.app.carries()
    begun = await shell.app.rollbacks.request(request)
    shell.say(f"run {begun.id}") if not args.json else None
    until = _rests if args.no_wait else _over
    ended = await _watch(shell, begun.id, until, quiet=args.json) if carried or not args.no_wait else begun
    view = await shell.app.rollbacks.view(ended.id)
    shell.out(args, show.status_json(view), show.status(view))
    return 1 if ended.state is State.REFUSED or (not args.no_wait and ended.state is not State.SUCCEEDED) else 0


async def _act(shell: Shell, args: Namespace, act: Callable[[str, Person], Awaitable[None]]) -> int:
    """Somebody's press, from the command line. Without a live process the run is carried on here until it rests."""
    by = shell.who(args)
    run_id = await shell.run(args)
    carried = await shell.app.carries()
    await act(run_id, by)
    if carried:
        await _watch(shell, run_id, _rests, quiet=args.json)
    view = await shell.app.rollbacks.view(run_id)
    shell.out(args, show.status_json(view), show.status(view))
    return 0


async def approve(shell: Shell, args: Namespace) -> int:
    async def act(run_id: str, by: Person) -> None:
        now = await shell.app.journal.run(run_id)
        await shell.app.rollbacks.approve(run_id, now.digest or "", by)

    return await _act(shell, args, act)


async def withdraw(shell: Shell, args: Namespace) -> int:
    return await _act(shell, args, shell.app.rollbacks.withdraw)


async def reject(shell: Shell, args: Namespace) -> int:
    async def act(run_id: str, by: Person) -> None:
        now = await shell.app.journal.run(run_id)
        await shell.app.rollbacks.reject(run_id, now.digest or "", by, args.reason)

    return await _act(shell, args, act)


async def decide(shell: Shell, args: Namespace) -> int:
    return await _act(shell, args, lambda run_id, by: shell.app.rollbacks.decide(run_id, args.decision, by))


async def abort(shell: Shell, args: Namespace) -> int:
    return await _act(shell, args, shell.app.rollbacks.cancel)


async def address(shell: Shell, args: Namespace) -> int:
    """Where a provider recovered the instant that a run waits for: from standard input, since every program sees an argv."""
    typed = (getpass("Address of the recovered server: ") if sys.stdin.isatty() else sys.stdin.readline()).strip()

    async def act(run_id: str, by: Person) -> None:
        if shell.app.launched or not await hand_over(shell.settings.home, run_id, typed, by.id, shell.settings.token or ""):
            await shell.app.rollbacks.enter(run_id, typed, by)

    return await _act(shell, args, act)


async def note(shell: Shell, args: Namespace) -> int:
    by = shell.who(args)
    run_id = await shell.run(args)
    await shell.app.rollbacks.note(run_id, args.text, by)
    shell.out(args, {"run": run_id, "noted": True}, f"noted in {run_id}")
    return 0


async def status(shell: Shell, args: Namespace) -> int:
    view = await shell.app.rollbacks.view(await shell.run(args))
    shell.out(args, show.status_json(view), show.status(view))
    return 0


async def report(shell: Shell, args: Namespace) -> int:
    text = await shell.app.rollbacks.report(await shell.run(args))
    if args.json:
        shell.out(args, {"report": text}, "")
    else:
        sys.stdout.write(text)
    return 0


async def history(shell: Shell, args: Namespace) -> int:
    runs = await shell.app.rollbacks.history(shell.target(args))
    told = [{"run": r.id, "state": r.state, "from": r.from_, "to": r.to, "created": r.created, "by": r.request.by.id} for r in runs]
    shell.out(args, {"runs": told}, show.history(runs))
    return 0


async def backups(shell: Shell, args: Namespace) -> int:
    target = shell.target(args)
    kept, archives = await shell.app.rollbacks.backups(target), await shell.app.journal.archives(target)
    told = [one.model_dump(mode="json") for one in kept]
    shell.out(args, {"backups": told, "archives": [show.archive_json(*each) for each in archives]}, show.backups(kept, archives))
    return 0


# ------------------------------------------------------------------ watching a run


def _over(run: Run) -> bool:
    return run.state in ENDS


def _rests(run: Run) -> bool:
    """Nothing more happens by itself: it ended, or it waits for a person."""
    waits = run.state is State.AWAITING_APPROVAL and not (run.seats and all(seat.by for seat in run.seats))
    return run.state in ENDS or run.state is State.NEEDS_DECISION or waits or wanted(run) is not None


async def _watch(shell: Shell, run_id: str, until: Callable[[Run], bool], *, quiet: bool) -> Run:
    """Print what happens as it happens, from the journal: whoever carries the run, it looks the same."""
    seen, said = 0, ""
    while True:
        try:
            now = await shell.app.journal.run(run_id)
            for event in await shell.app.journal.events(run_id, seen):
                seen = event.seq
                line = show.event(event)
                shell.say(line) if line and not quiet else None
            doing = next((f"  {a.step}: {a.progress}" for a in now.attempts if a.progress), "")
            if doing and doing != said and not quiet:
                shell.say(doing)
            said = doing
            if until(now) and (now.state not in ENDS or (seen >= now.seq and await _reported(shell, run_id))):
                return now
        except JournalDown as error:
            shell.say(str(error))
        await asyncio.sleep(_LOOK_SECONDS)


async def _reported(shell: Shell, run_id: str) -> bool:
    events = await shell.app.journal.events(run_id)
    kinds = {event.kind for event in events}
    return "reported" in kinds or ("refused" in kinds and "planned" not in kinds)


# ------------------------------------------------------------------ running one


COMMANDS: dict[str, Command] = {
    "plan": plan, "check": check, "run": run, "reapply": reapply, "restore": restore, "tables": tables, "pitr": pitr, "stamp": stamp,
    "approve": approve, "withdraw": withdraw, "reject": reject, "decide": decide, "abort": abort, "address": address,
    "note": note, "status": status, "report": report, "history": history, "backups": backups,
}  # fmt: skip


async def execute(args: Namespace, settings: Settings) -> tuple[int, bool]:
    """Exit code, and whether DBOS was launched (then the process must leave at once). Raises BackoutError."""
    config = configuration.load(settings.config, environment())
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(opened(settings, config))
        shell = Shell(settings, config, app)
        try:
            code = await COMMANDS[args.command](shell, args)
        except Refusal as refusal:
            shell.out(args, {"refusal": show.refusal_json(refusal)}, show.refusal(refusal))
            code = 1
        except Denied as denied:
            shell.out(args, {"denied": str(denied)}, f"denied: {denied}")
            code = 1
        if app.launched:
            await app.leave()
        return code, app.launched
