"""The client commands, against a real `vllama serve` on llama.cpp, print what Ollama's print."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.conftest import isolated
from tests.store import registries
from vllama import cli
from vllama.cli import humane, ps
from vllama.store.blobs import Blobs


@dataclass(frozen=True)
class Served:
    """Where the server listens, and the home it shares with the commands."""

    address: str
    home: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, toy: Path) -> Iterator[Served]:
    settings = isolated(tmp_path_factory.mktemp("served"))
    environment = {**settings.environment, "PYTHONUNBUFFERED": "1"}
    words = ["serve", "--engine", "llamacpp", "--port", "0", "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "vllama", *words],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            found = re.search(r"vllama is ready on http://(\S+)", line)
            if found:
                yield Served(found[1], settings.home)
                break
        else:
            pytest.fail("the server did not start")
    finally:
        process.terminate()
        process.wait(90)


@pytest.fixture
def vllama(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> "Run":
    for name in [n for n in os.environ if n.startswith(("OLLAMA_", "VLLAMA_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OLLAMA_HOST", served.address)
    monkeypatch.setenv("VLLAMA_HOME", str(served.home))
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    return Run(capsys)


class Run:
    """Run a command; what it wrote to stdout and to stderr."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: str, code: int = 0) -> tuple[str, str]:
        self.capsys.readouterr()
        got = cli.main(words)
        out, err = self.capsys.readouterr()
        assert got == code, err
        return out, err


@pytest.fixture
def made(vllama: Run, toy: Path, tmp_path: Path) -> str:
    """A model made by `create` from a GGUF file."""
    file = tmp_path / "Modelfile"
    file.write_text(
        f"FROM {toy / 'toy-q8_0.gguf'}\nSYSTEM You are brief.\nPARAMETER num_predict 5\n"
        "PARAMETER stop END\nLICENSE MIT\n"
    )
    _, told = vllama("create", "made", "-f", str(file))
    assert told.splitlines()[-2:] == ["writing manifest", "success"]
    return "made"


def test_list_and_ls_print_ollamas_columns(vllama: Run, made: str, served: Served) -> None:
    for command in ("list", "ls"):
        out, err = vllama(command)
        header, *rows = out.splitlines()
        assert header.split() == ["NAME", "ID", "SIZE", "MODIFIED"]
        row = next(r for r in rows if r.startswith("made:latest"))
        assert re.fullmatch(r"made:latest +[0-9a-f]{12} +4\.4 MB +.+ ago *", row)
        assert err == ""
    assert vllama("list", "nothing-like-it")[0].split() == header.split()
    assert json.loads(vllama("list", "--json")[0])[0]["name"] == "made:latest"


def test_show_prints_tables_and_parts(vllama: Run, made: str) -> None:
    out, _ = vllama("show", "made")
    lines = [line.strip() for line in out.splitlines()]
    assert [
        line for line in lines if line in ("Model", "Capabilities", "Parameters", "System",
                                           "License")
    ] == ["Model", "Capabilities", "Parameters", "System", "License"]  # fmt: skip
    assert "architecture        qwen2" in out
    assert re.search(r"Engine\n +llamacpp: the model is here (only )?as GGUF", out)
    assert "quantization        Q8_0" in out
    assert "context length      8192" in out
    assert "num_predict    5" in out
    assert "You are brief." in out
    assert vllama("show", "made", "--system")[0] == "You are brief.\n"
    assert vllama("show", "made", "--license")[0] == "MIT\n"
    assert "PARAMETER stop END" in vllama("show", "made", "--modelfile")[0]
    vllama("show", "made", "--license", "--system", code=2)


def test_a_model_answers_is_listed_as_loaded_and_is_stopped(vllama: Run, made: str) -> None:
    out, figures = vllama("run", "made", "hello", "there", "--verbose")
    assert len(out) > 1
    assert re.search(r"eval count: +5 token\(s\)", figures)
    assert re.search(r"eval rate: +[\d.]+ tokens/s", figures)
    header, row = vllama("ps")[0].splitlines()[:2]
    assert header.split() == ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]
    pattern = r"made:latest +[0-9a-f]{12} +\S+ [KMG]?B +100% [CG]PU +\d+ +\d+ minutes from now"
    assert re.match(pattern, row)
    vllama("stop", "made")
    _, err = vllama("stop", "nope", code=1)
    assert 'couldn\'t find model "nope" to stop' in err


def test_a_conversation_remembers_sets_and_saves(
    vllama: Run, made: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        "/set parameter seed 7",
        "/set parameter num_predict 3",
        "/set parameter frob 1",
        "/set system Be kind.",
        "hello",
        '"""two',
        'lines"""',
        "/show parameters",
        "/show system",
        "/save talked",
        "/list",
        "/nonsense",
        "/?",
        "/clear",
        "/bye",
    ]

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal("\n".join(lines) + "\n"))
    out, _ = vllama("run", "made")
    assert "Set parameter 'seed' to '7'" in out
    assert "Couldn't set parameter: unknown parameter 'frob'" in out
    assert "Be kind." in out
    assert "Created new model 'talked'" in out
    assert "talked:latest" in out
    assert "Unknown command '/nonsense'. Type /? for help" in out
    assert "/show           Show model information" in out
    assert "Cleared session context" in out
    shown = vllama("show", "talked", "--modelfile")[0]
    assert "MESSAGE user hello" in shown
    assert "two\nlines" in shown
    assert "PARAMETER seed 7" in shown
    assert "SYSTEM Be kind." in shown


def test_copy_and_remove_say_what_they_did(vllama: Run, made: str) -> None:
    assert vllama("cp", "made", "me/other:v1")[0] == "copied 'made' to 'me/other:v1'\n"
    assert "me/other:v1" in vllama("list")[0]
    out, _ = vllama("rm", "me/other:v1")
    assert out == "deleted 'me/other:v1'\n"
    _, err = vllama("rm", "me/other:v1", code=1)
    assert "model 'me/other:v1' not found" in err
    _, err = vllama("cp", "nope", "x", code=1)
    assert 'model "nope" not found' in err


def test_create_gives_the_server_a_folder_and_an_adapter(
    vllama: Run, toy: Path, tmp_path: Path, served: Served
) -> None:
    from vllama.toy import adapter

    lora = adapter.make(tmp_path / "lora", toy)
    (tmp_path / "Modelfile").write_text(f"FROM {toy}\nADAPTER ./lora\nTEMPLATE {{{{ .Prompt }}}}\n")
    _, told = vllama("create", "folder", "-f", str(tmp_path / "Modelfile"))
    assert told.splitlines()[-1] == "success"
    settings = isolated(served.home.parent)
    digest = Blobs(settings).has(Blobs(settings).add_file(lora / "adapter_model.safetensors"))
    assert digest
    found = json.loads(vllama("show", "folder", "--json")[0])
    assert found["details"]["format"] == "safetensors"
    assert "ADAPTER" in found["modelfile"]


def test_create_makes_a_folder_small_enough_for_llamacpp(
    vllama: Run, toy: Path, tmp_path: Path
) -> None:
    (tmp_path / "Modelfile").write_text(f"FROM {toy}\nPARAMETER num_predict 2\n")
    words = ("create", "small", "-q", "q4_K_M", "-f", str(tmp_path / "Modelfile"))
    assert "converting model" in vllama(*words)[1]
    assert "quantization        Q4_K_M" in vllama("show", "small")[0]
    assert "eval count:           2 token(s)" in vllama("run", "small", "hi", "--verbose")[1]


def test_an_adapter_changes_what_the_model_says(vllama: Run, toy: Path, tmp_path: Path) -> None:
    from vllama.toy import adapter

    lora = adapter.make(tmp_path / "lora", toy)
    plain = f"FROM {toy / 'toy-f16.gguf'}\nPARAMETER num_predict 24\nPARAMETER seed 1\n"
    said = {}
    for name, text in (("bare", plain), ("tuned", f"{plain}ADAPTER {lora / 'adapter.gguf'}\n")):
        (tmp_path / "Modelfile").write_text(text)
        vllama("create", name, "-f", str(tmp_path / "Modelfile"))
        said[name] = [vllama("run", name, "hello")[0] for _ in range(2)]
        assert said[name][0] == said[name][1]
    assert said["bare"][0] != said["tuned"][0]


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("FROM x\nBOGUS y", 2, "(line 2): command must be one of"),
        ("SYSTEM x", 2, "no FROM line"),
        ("FROM ./nothing.gguf", 1, "no model files at"),
        ("FROM made\nPARAMETER frob 1", 2, "(line 2): unknown parameter 'frob'"),
    ],
)
def test_a_wrong_modelfile_is_refused(
    text: str, code: int, message: str, vllama: Run, tmp_path: Path
) -> None:
    (tmp_path / "Modelfile").write_text(text)
    _, err = vllama("create", "x", "-f", str(tmp_path / "Modelfile"), code=code)
    assert message in err


def test_a_model_goes_to_a_registry_and_comes_back(vllama: Run, made: str) -> None:
    with registries.running() as registry:
        name = f"{registry.host}/me/made:v1"
        vllama("cp", "made", name)
        _, told = vllama("push", name, "--insecure")
        assert [told.splitlines()[0], *told.splitlines()[-2:]] == [
            "retrieving manifest", "pushing manifest", "success",
        ]  # fmt: skip
        digest = json.loads(vllama("list", name, "--json")[0])[0]["digest"]
        vllama("rm", name)
        _, told = vllama("pull", name, "--insecure")
        assert told.splitlines()[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
        assert json.loads(vllama("list", name, "--json")[0])[0]["digest"] == digest


def test_a_pull_needs_no_server(
    vllama: Run, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OLLAMA_HOST")
    monkeypatch.setenv("VLLAMA_HOME", str(tmp_path))
    with registries.running() as registry:
        name = registry.put("me/tiny:v1", [("model", (toy / "toy-q8_0.gguf").read_bytes())])
        vllama("pull", name, "--insecure", "--source", "registry")
        assert list(tmp_path.glob("models/manifests/*/me/tiny/v1"))
        _, err = vllama("pull", f"{name}-nope", "--insecure", "--source", "registry", code=1)
        assert "pull model manifest: file does not exist" in err


def test_an_unreachable_registry_is_told(vllama: Run) -> None:
    _, err = vllama("pull", "127.0.0.1:9/library/nope", "--insecure", code=1)
    assert "pulling manifest" in err
    assert "connection refused" in err


def test_without_a_server_it_says_how_to_start_one(
    vllama: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    for words in (["list"], ["ps"], ["show", "x"], ["rm", "x"], ["run", "x", "hi"], ["pull", "x"]):
        _, err = vllama(*words, code=1)
        assert "no server answers at http://127.0.0.1:9" in err
        assert "vllama serve" in err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (61, "About a minute"),
     (300, "5 minutes"), (3600, "About an hour"), (7200, "2 hours"), (86400 * 3, "3 days"),
     (86400 * 21, "3 weeks"), (86400 * 90, "3 months"), (86400 * 800, "2 years")],
)  # fmt: skip
def test_times_read_as_ollamas(seconds: float, text: str) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    assert humane.moment((now - timedelta(seconds=seconds)).isoformat(), now) == f"{text} ago"
    assert humane.moment((now + timedelta(seconds=seconds)).isoformat(), now) == f"{text} from now"


def test_odd_times_are_understood() -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    assert humane.moment("2319-03-01T00:00:00.123456789Z", now) == "Forever"
    assert humane.moment("0001-01-01T00:00:00Z", now) == "Never"
    assert humane.moment("nonsense", now) == "Never"


@pytest.mark.parametrize(
    ("size", "text"),
    [(45, "45 B"), (2_019_393_189, "2.0 GB"), (669_615_493, "669 MB"), (1_500, "1.5 KB")],
)
def test_sizes_read_as_ollamas(size: int, text: str) -> None:
    assert humane.size(size) == text


@pytest.mark.parametrize(
    ("size", "vram", "text"),
    [(100, 100, "100% GPU"), (100, 0, "100% CPU"), (100, 75, "25%/75% CPU/GPU"),
     (0, 5, "Unknown")],
)  # fmt: skip
def test_where_a_model_lies_reads_as_ollamas(size: int, vram: int, text: str) -> None:
    assert ps.processor(size, vram) == text
