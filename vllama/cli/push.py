"""`vllama push MODEL`: give a model to a registry or to the hub."""

import argparse

from vllama.cli import progress
from vllama.cli.client import Client
from vllama.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="host/owner/name, or hf.co/owner/name")
    parser.add_argument("--insecure", action="store_true", help="speak plain http with a registry")


def run(args: argparse.Namespace) -> int:
    """Ask the server to push."""
    body = {"model": args.model, "insecure": args.insecure, "stream": True}
    client = Client(Settings.from_environment())
    progress.show(client.stream("/api/push", body), quiet=args.quiet)
    return 0
