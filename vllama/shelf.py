"""The shelf of saved profiles: the tuner puts, the server takes."""

import difflib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from vllama.disk import write_whole
from vllama.errors import ProfileBroken, ProfileNotFound
from vllama.profile import Profile

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


class Shelf:
    """Profiles as files: `<root>/<model>/<name>.json`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, model: str, name: str) -> Path:
        """Where the profile `name` of `model` lies, whether or not it is there."""
        if not _PLAIN.fullmatch(name):
            raise ProfileBroken(
                f"'{name}' is no name for a profile",
                "Use letters, digits, '.', '_' and '-', starting with a letter or digit.",
            )
        return self.root / _slug(model) / f"{name}.json"

    def put(self, profile: Profile) -> Path:
        """Save, replacing one of the same name; a failure leaves the old one whole."""
        path = self.path(profile.model, profile.name)
        write_whole(path, json.dumps(profile.to_json(), indent=2) + "\n")
        return path

    def get(self, model: str, name: str) -> Profile:
        """The profile `name` of `model`.

        Raises:
            ProfileNotFound: naming those there are.
            ProfileBroken: the file cannot be read.
        """
        path = self.path(model, name)
        if not path.exists():
            names = self.names(model)
            near = difflib.get_close_matches(name, names) or names
            hint = f"There are: {', '.join(near)}." if near else f"Make one: vllama tune {model}"
            raise ProfileNotFound(f"no profile '{name}' for {model}", hint)
        return load(path)

    def names(self, model: str) -> list[str]:
        """Names of the saved profiles of `model`, sorted."""
        return sorted(p.stem for p in (self.root / _slug(model)).glob("*.json"))

    def remove(self, model: str, name: str) -> None:
        """Delete one; `ProfileNotFound` if there is none."""
        self.get(model, name)
        self.path(model, name).unlink()

    def __iter__(self) -> Iterator[tuple[Path, Profile | ProfileBroken]]:
        """Every file on the shelf, with the profile or what is wrong with it."""
        for path in sorted(self.root.glob("*/*.json")):
            try:
                yield path, load(path)
            except ProfileBroken as broken:
                yield path, broken


def load(path: Path) -> Profile:
    """Read one profile file.

    Raises:
        ProfileBroken: naming the file and what is wrong with it.
    """
    try:
        return Profile.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ProfileBroken(f"{path}: {error}", "Tune again or import a whole file.") from error
    except ProfileBroken as broken:
        raise ProfileBroken(f"{path}: {broken.message}", broken.remedy) from broken


def _slug(model: str) -> str:
    """A folder name for a model: readable, and unique through its escapes."""
    escaped = re.sub(r"[^A-Za-z0-9._-]", lambda m: f"%{ord(m.group()):02x}", model)
    return escaped if not escaped.startswith(".") else f"%2e{escaped[1:]}"
