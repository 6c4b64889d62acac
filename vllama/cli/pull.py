"""`vllama pull MODEL`: fetch a model."""

import argparse
import asyncio
import sys
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

from vllama.cli import progress
from vllama.cli.client import Client, ServerGone
from vllama.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="llama3.2:3b, owner/name, hf.co/owner/name")
    parser.add_argument("--insecure", action="store_true", help="speak plain http with a registry")
    parser.add_argument(
        "--source",
        choices=["auto", "hub", "registry"],
        default="auto",
        help="where a bare name is looked for: Ollama's registry, or the hub by the alias table",
    )


def run(args: argparse.Namespace) -> int:
    """Ask the server to pull; without one, pull into the same store ourselves."""
    settings = Settings.from_environment()
    try:
        if args.source != "auto":
            raise ServerGone("")
        client = Client(settings)
        client.get("/api/version")
        body = {"model": args.model, "insecure": args.insecure, "stream": True}
        progress.show(client.stream("/api/pull", body), quiet=args.quiet)
    except ServerGone as gone:
        if settings.environment.get("OLLAMA_HOST") and args.source == "auto":
            raise
        if gone.message and not args.quiet:
            print("No server runs here: pulling without one.", file=sys.stderr)
        progress.show(_own(args.model, settings, args), quiet=args.quiet)
    return 0


def _own(name: str, settings: Settings, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The statuses of a pull in this process, which ends when nobody asks for more."""
    from vllama.store import transfers

    async def next_status() -> dict[str, Any] | None:
        return await anext(statuses, None)

    with asyncio.Runner() as runner:
        statuses = transfers.pull(name, settings, insecure=args.insecure, source=args.source)

        async def close() -> None:
            async with aclosing(statuses):
                pass

        try:
            while (status := runner.run(next_status())) is not None:
                yield status
        finally:
            runner.run(close())
