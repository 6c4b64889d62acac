"""The arrows between the rooms point down: this test holds the table of who may import whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "vllama"
NOUNS = {
    "attention", "errors", "durations", "disk", "settings", "machine", "hardware", "gguf", "model",
    "weights", "profile", "shelf", "traffic", "uplink", "store", "toy",
}  # fmt: skip
MAY_IMPORT = {
    "nouns": NOUNS,
    "engines": NOUNS | {"engines"},
    "bench": NOUNS | {"engines", "bench"},
    "results": NOUNS | {"bench", "results"},
    "tuner": NOUNS | {"bench", "tuner"},
    "server": NOUNS | {"engines", "server"},
    "cli": NOUNS | {"engines", "bench", "results", "tuner", "server", "cli"},
}
# Rooms within the server, lowest floor first: each may import itself and those before it.
SERVER_FLOORS = [
    {"lifecycle"}, {"relay"}, {"translation"}, {"telemetry", "web"}, {"ollama"},
    {"openai", "anthropic"}, {"app"}, {"workers"},
]  # fmt: skip
HEAVY = {"pandas", "matplotlib", "optuna", "fastapi", "uvicorn", "httpx", "scipy", "numpy"}


def room_of(path: Path) -> str:
    part = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return "nouns" if part in NOUNS else part


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            assert node.level == 0, f"{path}: relative import"
        rooms |= {
            n.split(".")[1]
            for n in names
            if n.startswith("vllama.") and not n.split(".")[1].startswith("_")
        }
    return rooms


MODULES = sorted(p for p in ROOT.rglob("*.py") if p.parent != ROOT or not p.name.startswith("__"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_imports_only_what_lies_below_it(path: Path) -> None:
    forbidden = imported_rooms(path) - MAY_IMPORT[room_of(path)]
    assert not forbidden, f"{path.relative_to(ROOT)} may not import {sorted(forbidden)}"


@pytest.mark.parametrize("path", sorted((ROOT / "server").rglob("[!_]*.py")), ids=lambda p: p.name)
def test_a_room_of_the_server_imports_only_what_lies_below_it(path: Path) -> None:
    parts = path.relative_to(ROOT / "server").parts
    own = parts[0].removesuffix(".py")
    floor = next(n for n, rooms in enumerate(SERVER_FLOORS) if own in rooms)
    below = {own}.union(*SERVER_FLOORS[:floor])
    imported = {
        module.removeprefix("vllama.server.").split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and (module := node.module or "").startswith("vllama.server.")
    }
    assert imported <= below, f"{path.name} may not import {sorted(imported - below)}"


@pytest.mark.parametrize("path", sorted((ROOT / "cli").rglob("*.py")), ids=lambda p: p.name)
def test_the_command_line_imports_heavy_libraries_only_inside_functions(path: Path) -> None:
    top = {
        alias.name.split(".")[0]
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {
        node.module.split(".")[0]
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ImportFrom) and node.module
    }
    assert not top & HEAVY


def test_only_settings_reads_the_environment() -> None:
    # What runs inside vLLM's own process has only its environment to be told things by.
    ours = [p for p in MODULES if "vllm_inside" not in p.parts]
    readers = {
        str(p.relative_to(ROOT))
        for p in ours
        if ("os.environ" in p.read_text() or "os.getenv" in p.read_text())
    }
    assert readers == {"settings.py"}


def test_no_module_is_too_long_to_read() -> None:
    long = {
        str(p.relative_to(ROOT)): n for p in MODULES if (n := len(p.read_text().splitlines())) > 400
    }
    assert not long
