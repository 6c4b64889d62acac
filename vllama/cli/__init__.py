"""The command line: one file per command, and the only room that knows all the others.

Only the command that was asked for is imported, so that `vllama --help` is instant.
"""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import Protocol, cast

from vllama import __version__
from vllama.errors import VllamaError

INTERRUPTED = 130

COMMANDS = {
    "tune": "find the fastest way to launch an engine for MODEL here, and save it as a profile",
    "plan": "say whether MODEL fits a machine and how fast it can be, without starting anything",
    "serve": "serve models with their tuned profiles, as Ollama would",
    "bench": "measure a profile, a server, or several against each other",
    "profiles": "list, show, export, import or remove saved profiles",
    "report": "write an HTML page of a tune and a comparison",
    "results": "list, show, export or prune what was measured, and see how it went over time",
    "run": "ask a model, or talk with it",
    "pull": "fetch a model from Ollama's registry or from the hub",
    "push": "give a model to a registry or to the hub",
    "create": "make a model from a Modelfile",
    "list": "list the models that are here",
    "ls": "the same as list",
    "ps": "list the models that are loaded",
    "show": "show what a model is",
    "stop": "unload a model",
    "cp": "give a model a second name",
    "rm": "remove models",
    "toy-model": "make a tiny model of random weights, for demos and tests",
    "doctor": "say what works here and what to do about the rest",
}
# A module named list would hide Python's own in this package.
_MODULES = {"list": "ls"}


class Command(Protocol):
    """What a command's module offers."""

    def arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""
        ...

    def run(self, args: argparse.Namespace) -> int:
        """Do it; the exit code."""
        ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code (0 done, 1 failed, 2 used wrongly, 130 interrupted)."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = next((w for w in words if not w.startswith("-")), "")
    parser, command = _parser(name)
    args = parser.parse_args(words)
    if command is None:
        parser.print_help(sys.stderr)
        return 2
    _configure_logging(args)
    return _guarded(command, args)


def _guarded(command: Command, args: argparse.Namespace) -> int:
    try:
        return command.run(args)
    except VllamaError as error:
        if args.verbose:
            logging.getLogger("vllama").exception("failed")
        print(f"vllama: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("vllama: interrupted; what was finished is kept", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has left, as `| head` does: nothing more to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser(name: str) -> tuple[argparse.ArgumentParser, Command | None]:
    parser = argparse.ArgumentParser(
        prog="vllama",
        description="Tune an inference engine for this machine, then serve it as Ollama would.",
        epilog="`vllama COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"vllama {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command")
    chosen: Command | None = None
    for each, summary in COMMANDS.items():
        child = commands.add_parser(
            each, help=summary, description=f"{summary[0].upper()}{summary[1:]}."
        )
        if each == name:
            chosen = cast(Command, importlib.import_module(_module(each)))
            chosen.arguments(child)
            _common(child)
    return parser, chosen


def _module(command: str) -> str:
    return f"vllama.cli.{_MODULES.get(command, command.replace('-', '_'))}"


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quiet", action="store_true", help="no progress, only results and errors")
    parser.add_argument("--verbose", action="store_true", help="say more, with tracebacks")


def _configure_logging(args: argparse.Namespace) -> None:
    level = logging.DEBUG if args.verbose else logging.WARNING if args.quiet else logging.INFO
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("vllama").setLevel(level)
