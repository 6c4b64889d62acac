"""`vllama ps`: the models that are loaded."""

import argparse
import json
from datetime import UTC, datetime
from typing import Any

from vllama.cli import humane
from vllama.cli.client import Client
from vllama.settings import Settings

_HEADER = ("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("prefix", nargs="?", default="", help="only models that begin so")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    models = Client(Settings.from_environment()).get("/api/ps").get("models") or []
    found = [m for m in models if m["name"].lower().startswith(args.prefix.lower())]
    if args.json:
        print(json.dumps(found, indent=2))
        return 0
    now = datetime.now(UTC)
    print(humane.table(_HEADER, [_row(m, now) for m in found]))
    return 0


def _row(model: dict[str, Any], now: datetime) -> tuple[str, ...]:
    return (
        model["name"],
        model["digest"][:12],
        humane.size(model["size"]),
        processor(model["size"], model.get("size_vram") or 0),
        str(model.get("context_length") or 0),
        _until(str(model.get("expires_at", "")), now),
    )


def processor(size: int, in_vram: int) -> str:
    """Where the model lies: `100% GPU`, `25%/75% CPU/GPU`."""
    if in_vram == 0:
        return "100% CPU"
    if in_vram == size:
        return "100% GPU"
    if in_vram > size or size == 0:
        return "Unknown"
    on_cpu = round((size - in_vram) / size * 100)
    return f"{on_cpu}%/{100 - on_cpu}% CPU/GPU"


def _until(text: str, now: datetime) -> str:
    when = humane.timestamp(text)
    is_past = when is not None and when.year > 1 and when < now
    return "Stopping..." if is_past else humane.moment(text, now)
