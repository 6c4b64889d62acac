"""`vllama stop MODEL`: unload a model."""

import argparse

from vllama.cli.client import Client, ServerRefused
from vllama.errors import ModelNotFound, VllamaError
from vllama.settings import Settings


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL")


def run(args: argparse.Namespace) -> int:
    """Unload it."""
    try:
        unload(Client(Settings.from_environment()), args.model)
    except ModelNotFound as error:
        raise VllamaError(f'couldn\'t find model "{args.model}" to stop') from error
    return 0


def unload(client: Client, model: str) -> None:
    """Ask for a model to leave memory.

    Raises:
        ModelNotFound: the server does not know it.
    """
    try:
        client.post("/api/generate", {"model": model, "keep_alive": 0, "stream": False})
    except ServerRefused as error:
        if error.status == 404:
            raise ModelNotFound(model) from error
        raise
