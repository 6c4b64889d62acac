"""`vllama profiles`: what the tuner has saved."""

import argparse
import json
import sys
from pathlib import Path

from vllama.errors import ProfileBroken, ProfileNotFound, UsageError
from vllama.profile import Profile
from vllama.settings import Settings
from vllama.shelf import Shelf, load


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("action", nargs="?", default="list", choices=list(ACTIONS))
    parser.add_argument("what", nargs="?", help="a profile's name, or a file to import")
    parser.add_argument("--model", help="the model, where several have a profile of that name")
    parser.add_argument("--format", default="json", choices=list(EXPORTS), help="of `export`")


def run(args: argparse.Namespace) -> int:
    """Do the action; data goes to stdout."""
    shelf = Shelf(Settings.from_environment().home / "profiles")
    return ACTIONS[args.action](shelf, args)


def _list(shelf: Shelf, args: argparse.Namespace) -> int:
    for path, profile in shelf:
        if isinstance(profile, ProfileBroken):
            print(f"vllama: {profile}", file=sys.stderr)
        else:
            print(f"{profile.name:<12} {profile.engine:<9} {profile.machine:<24} {profile.model}")
            if args.verbose:
                print(f"    {path}", file=sys.stderr)
    return 0


def _show(shelf: Shelf, args: argparse.Namespace) -> int:
    print(json.dumps(_find(shelf, args).to_json(), indent=2))
    return 0


def _export(shelf: Shelf, args: argparse.Namespace) -> int:
    print(EXPORTS[args.format](_find(shelf, args)))
    return 0


def _import(shelf: Shelf, args: argparse.Namespace) -> int:
    if not args.what:
        raise UsageError("which file?", "vllama profiles import FILE")
    print(shelf.put(load(Path(args.what))))
    return 0


def _remove(shelf: Shelf, args: argparse.Namespace) -> int:
    profile = _find(shelf, args)
    shelf.remove(profile.model, profile.name)
    return 0


def _find(shelf: Shelf, args: argparse.Namespace) -> Profile:
    if not args.what:
        raise UsageError("which profile?", f"vllama profiles {args.action} NAME")
    found = [
        p
        for _, p in shelf
        if isinstance(p, Profile) and p.name == args.what and args.model in (None, p.model)
    ]
    if not found:
        raise ProfileNotFound(
            f"no profile '{args.what}'", "`vllama profiles` lists those there are."
        )
    if len(found) > 1:
        models = ", ".join(sorted(p.model for p in found))
        raise UsageError(f"several models have a profile '{args.what}'", f"Add --model: {models}")
    return found[0]


def _as_vllm(profile: Profile) -> str:
    """vLLM's `--config` file: YAML, of which JSON values are a part."""
    lines = [f"model: {json.dumps(profile.model)}"]
    lines += [f"{k.replace('_', '-')}: {json.dumps(v)}" for k, v in profile.options.items()]
    return "\n".join(lines)


def _as_environment(profile: Profile) -> str:
    return "\n".join(f"{k}={v}" for k, v in profile.environment.items())


def _as_json(profile: Profile) -> str:
    return json.dumps(profile.to_json(), indent=2)


ACTIONS = {"list": _list, "show": _show, "export": _export, "import": _import, "rm": _remove}
EXPORTS = {"json": _as_json, "vllm": _as_vllm, "env": _as_environment}
