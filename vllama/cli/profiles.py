"""`vllama profiles`: what the tuner has saved."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from vllama.cli.profile_formats import FORMATS
from vllama.errors import ProfileBroken, ProfileMismatch, ProfileNotFound, UsageError
from vllama.profile import Profile
from vllama.settings import Settings
from vllama.shelf import Shelf, load


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("action", nargs="?", default="list", choices=list(ACTIONS))
    parser.add_argument("what", nargs="?", help="a profile's name, or a file to import")
    parser.add_argument("--model", help="the model, where several have a profile of that name")
    parser.add_argument("--format", default="json", choices=list(FORMATS), help="of `export`")
    parser.add_argument("--json", action="store_true", help="of `list`: one JSON document")
    parser.add_argument(
        "--force", action="store_true", help="import one made for another machine or engine"
    )


def run(args: argparse.Namespace) -> int:
    """Do the action; data goes to stdout."""
    shelf = Shelf(Settings.from_environment().home / "profiles")
    return ACTIONS[args.action](shelf, args)


def _list(shelf: Shelf, args: argparse.Namespace) -> int:
    found = []
    for path, profile in shelf:
        if isinstance(profile, ProfileBroken):
            print(f"vllama: {profile}", file=sys.stderr)
        elif args.model in (None, profile.model):
            found.append((path, profile))
    if args.json:
        documents = [{**p.to_json(), "path": str(path)} for path, p in found]
        print(json.dumps({"format": 1, "profiles": documents}))
        return 0
    if not found and not args.quiet:
        print("There is no profile yet: vllama tune MODEL makes some.", file=sys.stderr)
    for path, profile in found:
        print(f"{profile.name:<12} {profile.engine:<9} {profile.machine:<24} {profile.model}")
        if args.verbose:
            print(f"    {path}", file=sys.stderr)
    return 0


def _show(shelf: Shelf, args: argparse.Namespace) -> int:
    print(json.dumps(_find(shelf, args).to_json(), indent=2))
    return 0


def _export(shelf: Shelf, args: argparse.Namespace) -> int:
    print(FORMATS[args.format](_find(shelf, args)))
    return 0


def _import(shelf: Shelf, args: argparse.Namespace) -> int:
    if not args.what:
        raise UsageError("which file?", "vllama profiles import FILE")
    profile = load(Path(args.what))
    differences = _differences(profile)
    if differences and not args.force:
        raise ProfileMismatch(
            f"the profile '{profile.name}' was made {' and '.join(differences)}",
            f"Tune here: vllama tune {profile.model}. Or take it as it is: --force.",
        )
    print(shelf.put(profile))
    for difference in differences:
        print(f"vllama: taken, though it was made {difference}", file=sys.stderr)
    return 0


def _differences(profile: Profile) -> list[str]:
    """What of this computer is not as it was where the profile was made."""
    from vllama.engines import engine
    from vllama.errors import EngineMissing
    from vllama.hardware import visible

    found = []
    here = visible(Settings.from_environment().environment).fingerprint
    if profile.machine and profile.machine != here:
        found.append(f"on another machine ({profile.machine}; this is {here})")
    if not profile.engine_version:
        return found
    try:
        version = engine(profile.engine, Settings.from_environment()).version()
    except EngineMissing:
        # Whether it is installed shows when it is launched; the profile is not wrong for that.
        return found
    if profile.is_outdated_by(version):
        found.append(f"with another {profile.engine} ({profile.engine_version}; here is {version})")
    return found


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


ACTIONS: Mapping[str, Callable[[Shelf, argparse.Namespace], int]] = {
    "list": _list,
    "show": _show,
    "export": _export,
    "import": _import,
    "rm": _remove,
}
