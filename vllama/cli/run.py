"""`vllama run MODEL [PROMPT]`: ask a model one thing, or talk with it."""

import argparse
import json
import sys
from typing import Any

from vllama.cli import progress, repl
from vllama.cli.client import Client, ServerRefused
from vllama.cli.talk import Talk
from vllama.settings import Settings

_THINK = {"": True, "true": True, "false": False}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("prompt", nargs="*", metavar="PROMPT", help="without it, a conversation")
    parser.add_argument("--keepalive", metavar="5m", help="how long the model stays loaded")
    parser.add_argument("--format", help="json, or a JSON schema")
    parser.add_argument("--think", nargs="?", const="true", choices=[*_THINK, "low", "medium",
                        "high", "max"], help="let it think first, or not")  # fmt: skip
    parser.add_argument("--hidethinking", action="store_true", help="do not print its thoughts")
    parser.add_argument("--nowordwrap", action="store_true", help="leave long lines as they are")
    parser.add_argument("--insecure", action="store_true", help="pull over plain http")
    parser.add_argument("--truncate", action=argparse.BooleanOptionalAction, default=True,
                        help="cut what is too long to embed")  # fmt: skip
    parser.add_argument("--dimensions", type=int, default=0, help="of an embedding")


def run(args: argparse.Namespace) -> int:
    """Pull the model if need be, then answer, embed, or converse."""
    client = Client(Settings.from_environment())
    told = _model(client, args)
    prompt = " ".join(args.prompt)
    if not sys.stdin.isatty():
        piped = sys.stdin.read()
        prompt = f"{piped}\n\n{prompt}".strip() if piped.strip() else prompt
    if "embedding" in (told.get("capabilities") or ()):
        return _embed(client, args, prompt)
    talk = _talk(client, args, told)
    if prompt:
        talk.ask(prompt)
        print()
        return 0
    talk.load()
    return repl.converse(talk)


def _model(client: Client, args: argparse.Namespace) -> dict[str, Any]:
    """What the server says of the model, after a pull if it did not know it."""
    try:
        return client.post("/api/show", {"model": args.model})
    except ServerRefused as error:
        if error.status != 404:
            raise
    body = {"model": args.model, "insecure": args.insecure, "stream": True}
    progress.show(client.stream("/api/pull", body), quiet=args.quiet)
    return client.post("/api/show", {"model": args.model})


def _talk(client: Client, args: argparse.Namespace, told: dict[str, Any]) -> Talk:
    talk = Talk(client, args.model, is_verbose=args.verbose, hides_thinking=args.hidethinking)
    talk.messages = list(told.get("messages") or ())
    talk.keep_alive = args.keepalive
    if args.think is not None:
        talk.think = _THINK.get(args.think, args.think)
    if args.format:
        talk.format = args.format if args.format == "json" else json.loads(args.format)
    return talk


def _embed(client: Client, args: argparse.Namespace, prompt: str) -> int:
    body: dict[str, Any] = {"model": args.model, "input": prompt, "truncate": args.truncate}
    if args.dimensions:
        body["dimensions"] = args.dimensions
    answer = client.post("/api/embed", body)
    print(json.dumps((answer.get("embeddings") or [[]])[0]))
    return 0
