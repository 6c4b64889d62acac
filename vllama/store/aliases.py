"""Which hub repository is the original of an Ollama name; the user's own come first."""

import functools
import json
import logging
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from vllama.settings import Settings

_log = logging.getLogger(__name__)


def table(settings: Settings) -> Mapping[str, str]:
    """From names in lower case, with their tag, to repositories.

    A user adds to it in `<home>/aliases.json`, in the same form: `{"name:tag": "owner/name"}`.
    """
    return {**built_in(), **_own(settings.home / "aliases.json")}


@functools.cache
def built_in() -> Mapping[str, str]:
    """The table that comes with vllama."""
    text = resources.files(__package__).joinpath("aliases.json").read_text("utf-8")
    return {str(k): str(v) for k, v in json.loads(text).items()}


def _own(path: Path) -> dict[str, str]:
    try:
        document = json.loads(path.read_text("utf-8"))
        return {(k if ":" in k else f"{k}:latest").lower(): str(v) for k, v in document.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        _log.warning("%s is left out: %s", path, error)
        return {}
