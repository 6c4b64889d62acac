"""`vllama show MODEL`: what a model is."""

import argparse
import json
from typing import Any

from vllama.cli import humane
from vllama.cli.client import Client
from vllama.errors import UsageError
from vllama.settings import Settings

_PARTS = ("license", "modelfile", "parameters", "system", "template")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL")
    for part in _PARTS:
        parser.add_argument(f"--{part}", action="store_true", help=f"print only the {part}")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Print tables, or the part that was asked for."""
    wanted = [part for part in _PARTS if getattr(args, part)]
    if len(wanted) > 1:
        named = ", ".join(f"'--{p}'" for p in _PARTS[:-1])
        raise UsageError(f"only one of {named}, or '--{_PARTS[-1]}' can be specified")
    body = {"model": args.model, "verbose": args.verbose}
    settings = Settings.from_environment()
    told = Client(settings).post("/api/show", body)
    if args.json:
        print(json.dumps(told, indent=2))
    elif wanted:
        print(told.get(wanted[0]) or "")
    else:
        engine = _section("Engine", [[line] for line in _engine(args.model, settings)])
        print("\n\n".join([*sections(told, args.verbose), *([engine] if engine else [])]))
        print()
    return 0


def _engine(name: str, settings: Settings) -> list[str]:
    """Which engine `auto` takes for it here, and why; nothing of a server elsewhere."""
    from vllama import hardware
    from vllama.engines import choose
    from vllama.errors import EngineMissing, VllamaError
    from vllama.store import names

    if settings.address.host not in ("127.0.0.1", "localhost", "0.0.0.0", "::1"):
        return []
    try:
        model = names.resolve(name, settings)
        return [choose(model, hardware.visible(settings.environment), settings).reason]
    except EngineMissing as missing:
        return [missing.message, missing.remedy]
    except VllamaError:
        return []  # a model that somebody else runs, or a home that the server does not share


def sections(told: dict[str, Any], verbose: bool) -> list[str]:
    """The tables of one model, each under its title."""
    info = told.get("model_info") or {}
    parameters = [line.split(None, 1) for line in (told.get("parameters") or "").splitlines()]
    found = [
        _section("Model", _model(told, info)),
        _section("Projector", _projector(told.get("projector_info") or {})),
        _section("Capabilities", [[c] for c in told.get("capabilities") or ()]),
        _section("Parameters", [[p[0], p[1] if len(p) > 1 else ""] for p in parameters]),
        _section("System", _lines(told.get("system"))),
        _section("License", _lines(told.get("license"))),
    ]
    if verbose:
        rows = [[k, json.dumps(v)[:100]] for k, v in info.items()]
        tensors = [[t["name"], t["type"], str(t["shape"])] for t in told.get("tensors") or ()]
        found += [_section("Metadata", rows), _section("Tensors", tensors)]
    return [section for section in found if section]


def _model(told: dict[str, Any], info: dict[str, Any]) -> list[list[str]]:
    details = told.get("details") or {}
    arch = str(info.get("general.architecture") or details.get("family") or "")
    rows = [
        ["architecture", arch],
        ["parameters", str(details.get("parameter_size") or "")],
        ["context length", _number(info.get(f"{arch}.context_length"))],
        ["embedding length", _number(info.get(f"{arch}.embedding_length"))],
        ["quantization", str(details.get("quantization_level") or "")],
        ["requires", str(told.get("requires") or "")],
    ]
    return [row for row in rows if row[1]]


def _projector(info: dict[str, Any]) -> list[list[str]]:
    arch = str(info.get("general.architecture") or "")
    rows = [
        ["architecture", arch],
        ["embedding length", _number(info.get(f"{arch}.vision.embedding_length"))],
        ["dimensions", _number(info.get(f"{arch}.vision.projection_dim"))],
    ]
    return [row for row in rows if row[1]]


def _section(title: str, rows: list[list[str]]) -> str:
    if not rows:
        return ""
    body = humane.table((), rows)
    return f"  {title}\n" + "\n".join(f"    {line}" for line in body.splitlines())


def _lines(text: Any) -> list[list[str]]:
    """The first two lines; the rest is what --license and --system are for."""
    lines = [line.strip() for line in str(text or "").splitlines() if line.strip()]
    return [[line] for line in [*lines[:2], *(["..."] if len(lines) > 2 else [])]]


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.0f}" if isinstance(value, float) else str(value)
