"""The command line. Exit 0 done, 1 refused or failed, 2 usage."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from bot.errors import BackoutError, ConfigError, UsageError
from bot.settings import Settings

_SEVERITIES = ("critical", "high", "medium", "low")


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="backout", description="Takes a bad database migration back out of production, safely.")
    verbs = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def verb(name: str, says: str, *, as_: bool = False, run: bool = False, target: bool = False) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=says, description=says[0].upper() + says[1:] + ".")
        made.add_argument("--json", action="store_true", help="print one JSON object")
        if as_:
            made.add_argument("--as", dest="as_", required=True, metavar="USER", help="who you are; BACKOUT_TOKEN must be that person's token")
        if run:
            made.add_argument("run", nargs="?", metavar="RUN", help="default: the newest open run, else the newest")
        if target:
            made.add_argument("target", nargs="?", metavar="TARGET", help="default: the only one")
        return made

    demo = verbs.add_parser(
        "demo", help="try it on a throwaway shop", description="An incident channel in the browser, on a throwaway shop. Needs nothing."
    )
    demo.add_argument("--script", action="store_true", help="play one whole rollback in the terminal; so it does when stdout is no terminal")
    demo.add_argument("--port", type=int, help="where the page is, on 127.0.0.1 (default 4004); 0 takes a free one")
    verbs.add_parser("serve", help="be the bot in Slack", description="Be the bot in Slack: Socket Mode with SLACK_APP_TOKEN, else HTTP.")
    verb("check", "say for each target whether a rollback could run right now", target=True)
    planned = verb("plan", "say what a rollback would do; changes nothing")
    begun = verb("run", "ask for a rollback and watch it", as_=True)
    again = verb("reapply", "ask to go forward again and put back what was archived, and watch it", as_=True)
    stamped = verb("stamp", "ask to write down where the database stands, running no script, and watch it", as_=True)
    stays = "stays applied, everything above it is undone: an id, a prefix, -N or base"
    for one, rev in (
        (planned, stays),
        (begun, stays),
        (again, "where to go forward to: an id, a prefix or head"),
        (stamped, "where it stands: an id, a prefix, head or base"),
    ):
        one.add_argument("target", metavar="TARGET")
        one.add_argument("rev", metavar="REV", help=rev)
    for one in (begun, again, stamped, *_copies(verb)):
        one.add_argument("--reason", required=True)
        one.add_argument("--sev", required=True, choices=_SEVERITIES)
        one.add_argument("--no-wait", action="store_true", help="return once it is recorded")
    verb("approve", "fill a seat of a run", as_=True, run=True)
    verb("withdraw", "take an approval back", as_=True, run=True)
    verb("reject", "end a run that waits for approval", as_=True, run=True).add_argument("--reason", required=True)
    decided = verb("decide", "say what happens after a failed step", as_=True)
    decided.add_argument("run", metavar="RUN")
    decided.add_argument("decision", choices=("retry", "restore", "leave", "escalate"))
    noted = verb("note", "add a line to a run's timeline", as_=True)
    noted.add_argument("run", metavar="RUN")
    noted.add_argument("text", metavar="TEXT")
    verb("abort", "cancel a run", as_=True, run=True)
    verb("address", "say where a provider recovered what a run waits for; it is read from standard input", as_=True, run=True)
    verb("status", "show a run", run=True)
    verb("report", "print the post-mortem", run=True)
    verb("history", "list runs of a target", target=True)
    verb("backups", "list backups and archives of a target", target=True)
    verbs.add_parser("help", help="show this page", description="Show the list of commands.")
    schema = verbs.add_parser("config", help="about backout.yml", description="About backout.yml.")
    schema.add_subparsers(dest="about", required=True).add_parser("schema", help="print its JSON Schema, with every default")
    return top


def _copies(verb: Callable[..., argparse.ArgumentParser]) -> tuple[argparse.ArgumentParser, ...]:
    """The requests that bring a copy back."""
    restored = verb("restore", "ask to bring a whole backup back, and watch it", as_=True)
    merged = verb("tables", "ask to bring the rows of single tables back out of a backup, and watch it", as_=True)
    recovered = verb("pitr", "ask to take the database back to an instant, and watch it", as_=True)
    for one in (restored, merged, recovered):
        one.add_argument("target", metavar="TARGET")
    named = "its name, or the beginning of it; backout backups lists them. 'in place' behind it: the database is dropped first"
    restored.add_argument("rev", metavar="BACKUP [in place]", nargs="+", help=named)
    merged.add_argument("rev", metavar="T[,T] from BACKUP", nargs="+", help="tables as SQL names them, and the backup they come from")
    recovered.add_argument("rev", metavar="TIME", nargs="+", help="with its zone: 2026-01-17T10:00:00Z")
    return restored, merged, recovered


def main(argv: list[str] | None = None) -> NoReturn:
    _own_package()
    args = _parse(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(args)
    except (UsageError, ConfigError) as error:
        sys.stderr.write(f"backout: {error}\n")
        code = 2
    except BackoutError as error:
        output = getattr(error, "output", "")
        sys.stderr.write(f"backout: {error}\n{output}".rstrip() + "\n")
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _parse(argv: list[str]) -> argparse.Namespace:
    # A phone turns -1 into –1; argparse knows only the plain dash.
    return parser().parse_args([f"-{word[1:]}" if word[:1] in "–—" and word[1:].isdigit() else word for word in argv])


def _dispatch(args: argparse.Namespace) -> int:
    if args.command == "help":
        parser().print_help()
        return 0
    if args.command == "config":
        from bot.config import json_schema  # noqa: PLC0415  --help stays fast

        sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
        return 0
    if args.command == "demo":
        from bot.embedded import EmbeddedPostgres  # noqa: PLC0415  only the demo needs them
        from playground.demo import main as demo  # noqa: PLC0415

        return demo(lambda home: EmbeddedPostgres(home, name="shop", durable=False), script=args.script, port=args.port)
    if args.command == "serve":
        from bot.memory import one_arena  # noqa: PLC0415  before there is a thread
        from bot.serve import serve  # noqa: PLC0415  only serve needs Slack

        one_arena()
        return asyncio.run(serve(Settings()))
    from bot.commands import execute  # noqa: PLC0415  --help stays fast
    from bot.engine import exit_now  # noqa: PLC0415

    code, launched = asyncio.run(execute(args, Settings()))
    if launched:
        sys.stdout.flush()
        exit_now(code)
    return code


def _own_package() -> None:
    """`bot` is a common name: beside another one we would run somebody else's code."""
    import bot  # noqa: PLC0415

    if Path(bot.__file__ or "").resolve().parent != Path(__file__).resolve().parent:
        sys.stderr.write("backout: another package named `bot` is in the way. Install backout alone, with pipx or uv tool.\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
