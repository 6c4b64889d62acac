"""`vllama rm MODEL...`: remove models."""

import argparse

from vllama.cli.client import Client, ServerRefused
from vllama.cli.stop import unload
from vllama.errors import ModelNotFound
from vllama.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("models", metavar="MODEL", nargs="+")


def run(args: argparse.Namespace) -> int:
    """Unload and remove each."""
    client = Client(Settings.from_environment())
    for model in args.models:
        try:
            unload(client, model)
        except (ModelNotFound, ServerRefused):
            pass  # what cannot be unloaded is not loaded; the delete says what is wrong
        client.delete("/api/delete", {"model": model})
        print(f"deleted '{model}'")
    return 0
