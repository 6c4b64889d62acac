"""`vllama list` and `vllama ls`: the models that are here."""

import argparse
import json
from datetime import UTC, datetime

from vllama.cli import humane
from vllama.cli.client import Client
from vllama.settings import Settings

_HEADER = ("NAME", "ID", "SIZE", "MODIFIED")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("prefix", nargs="?", default="", help="only models that begin so")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    models = Client(Settings.from_environment()).get("/api/tags").get("models") or []
    found = [m for m in models if m["name"].lower().startswith(args.prefix.lower())]
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    now = datetime.now(UTC)
    rows = [
        (m["name"], m["digest"][:12], humane.size(m["size"]), humane.moment(m["modified_at"], now))
        for m in found
    ]
    print(humane.table(_HEADER, rows))
    return 0
