"""`vllama cp SOURCE DESTINATION`: give a model a second name."""

import argparse

from vllama.cli.client import Client
from vllama.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("destination", metavar="DESTINATION")


def run(args: argparse.Namespace) -> int:
    """Copy it."""
    body = {"source": args.source, "destination": args.destination}
    Client(Settings.from_environment()).post("/api/copy", body)
    print(f"copied '{args.source}' to '{args.destination}'")
    return 0
