"""`vllama profiles`: what was saved can be taken elsewhere, and back, with a warning."""

import ast
import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from vllama.cli import main
from vllama.cli.profile_formats import FORMATS, command
from vllama.errors import UsageError
from vllama.hardware import detect
from vllama.profile import Profile
from vllama.shelf import Shelf

VLLM = Profile(
    "best",
    "vllm",
    "some/model",
    options={
        "max_num_seqs": 64,
        "enable_prefix_caching": False,
        "enable_expert_parallel": True,
        "kv_cache_memory_bytes": "256M",
        "gpu_memory_utilization": 0.95,
        "speculative_config": '{"method": "ngram", "num_speculative_tokens": 3}',
    },
    environment={"VLLM_USE_AOT_COMPILE": "0", "GREETING": "100% $HOME of it's"},
    engine_version="0.32.0",
    machine="2x-nvidia-h100-80gb-hbm3-86gb",
)
LLAMA = Profile(
    "best",
    "llamacpp",
    "/models/a b.gguf",
    options={"n_parallel": 16, "n_ctx": 65536, "kv_unified": True, "flash_attn": "auto"},
    machine="cpu-2c-24gb-x86_64",
)
COMMAND = shlex.split(
    "vllm serve some/model --max-num-seqs 64 --no-enable-prefix-caching --enable-expert-parallel "
    "--kv-cache-memory-bytes 256M --gpu-memory-utilization 0.95 --speculative-config"
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VLLAMA_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def shelf(home: Path) -> Shelf:
    return Shelf(home / "profiles")


def out(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_a_vllm_profile_is_the_command_that_it_stands_for() -> None:
    words = command(VLLM)
    assert words[:-1] == COMMAND
    assert json.loads(words[-1])["num_speculative_tokens"] == 3


def test_a_shell_reads_the_exported_command_as_meant() -> None:
    words = shlex.split(FORMATS["command"](VLLM))
    assert words[:2] == ["VLLM_USE_AOT_COMPILE=0", "GREETING=100% $HOME of it's"]
    assert words[2:] == command(VLLM)
    assert shlex.split(FORMATS["command"](LLAMA))[:3] == [
        "llama-server", "--model", "/models/a b.gguf",
    ]  # fmt: skip


def test_vllms_config_file_holds_every_option() -> None:
    document = yaml.safe_load(FORMATS["vllm"](VLLM))
    assert document.pop("model") == "some/model"
    assert document.pop("speculative-config") == {"method": "ngram", "num_speculative_tokens": 3}
    assert {k.replace("-", "_"): v for k, v in document.items()} == {
        k: v for k, v in VLLM.options.items() if k != "speculative_config"
    }


def test_vllms_config_file_of_another_engine_is_refused() -> None:
    with pytest.raises(UsageError, match="profile of llamacpp"):
        FORMATS["vllm"](LLAMA)
    with pytest.raises(UsageError, match="launches nothing"):
        FORMATS["command"](replace(VLLM, engine="attached"))


def test_an_environment_file_is_read_by_a_shell() -> None:
    lines = dict(line.split("=", 1) for line in FORMATS["env"](VLLM).splitlines())
    assert shlex.split(lines["GREETING"]) == ["100% $HOME of it's"]
    (arguments,) = shlex.split(lines["VLLAMA_ENGINE_ARGS"])
    assert shlex.split(arguments) == command(VLLM)[3:]


def test_a_compose_file_serves_the_model_on_the_gpus() -> None:
    service = yaml.safe_load(FORMATS["compose"](VLLM))["services"]["model"]
    assert service["image"] == "vllm/vllm-openai:v0.32.0"
    assert service["command"][:3] == ["some/model", "--max-num-seqs", "64"]
    # Compose makes one dollar of two.
    told = {k: v.replace("$$", "$") for k, v in service["environment"].items()}
    assert told == dict(VLLM.environment)
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    local: dict[str, Any] = yaml.safe_load(FORMATS["compose"](LLAMA))["services"]["model"]
    assert "deploy" not in local
    assert "/models/a b.gguf:/models/a b.gguf:ro" in local["volumes"]


def test_a_unit_stops_all_processes_and_quotes_what_it_must() -> None:
    lines = FORMATS["systemd"](VLLM).splitlines()
    assert "KillMode=control-group" in lines
    assert 'Environment="GREETING=100%% $$HOME of it\'s"' in lines
    (start,) = [line for line in lines if line.startswith("ExecStart=")]
    assert start.startswith("ExecStart=/usr/bin/env vllm serve some/model --max-num-seqs 64 ")
    assert '--speculative-config "{\\"method\\": ' in start


@pytest.mark.parametrize("form", [f for f in FORMATS if f != "vllm"])
def test_every_format_has_every_option_of_every_engine(form: str) -> None:
    for profile in (VLLM, LLAMA):
        text = FORMATS[form](profile).replace("_", "-")
        assert profile.model.replace("_", "-") in text
        assert all(str(v).replace("_", "-") in text for v in profile.options.values()
                   if not isinstance(v, bool) and "{" not in str(v))  # fmt: skip


def test_what_is_exported_can_be_imported(
    shelf: Shelf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = replace(VLLM, machine=detect().fingerprint, engine_version="")
    shelf.put(here)
    assert main(["profiles", "export", "best"]) == 0
    path = tmp_path / "taken.json"
    path.write_text(out(capsys))
    assert main(["profiles", "rm", "best"]) == 0
    assert main(["profiles", "show", "best"]) == 1
    assert main(["profiles", "import", str(path)]) == 0
    assert Shelf(shelf.root).get("some/model", "best") == here


def test_a_profile_of_another_machine_is_taken_only_by_force(
    shelf: Shelf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "theirs.json"
    path.write_text(FORMATS["json"](VLLM))
    assert main(["profiles", "import", str(path)]) == 1
    error = capsys.readouterr().err
    assert VLLM.machine in error
    assert "vllama tune some/model" in error
    assert list(shelf) == []
    assert main(["profiles", "import", str(path), "--force"]) == 0
    assert "though it was made on another machine" in capsys.readouterr().err
    assert shelf.get("some/model", "best") == VLLM


def test_a_profile_of_another_engine_version_is_told(
    shelf: Shelf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "old.json"
    old = replace(LLAMA, machine="", engine="simulator", engine_version="0.0.1")
    path.write_text(FORMATS["json"](old))
    assert main(["profiles", "import", str(path)]) == 1
    assert "another simulator (0.0.1; here is" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 99}', "\x00"])
def test_a_file_that_is_no_profile_is_named(
    home: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = home / "broken.json"
    path.write_text(text)
    assert main(["profiles", "import", str(path)]) == 1
    assert "broken.json" in capsys.readouterr().err


def test_the_list_is_for_people_and_for_scripts(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profiles"]) == 0
    assert "vllama tune" in capsys.readouterr().err
    shelf.put(VLLM)
    shelf.put(LLAMA)
    assert main(["profiles"]) == 0
    assert len(out(capsys).splitlines()) == 2
    assert main(["profiles", "list", "--json"]) == 0
    document = json.loads(out(capsys))
    assert [p["engine"] for p in document["profiles"]] == ["llamacpp", "vllm"]
    assert Path(document["profiles"][0]["path"]).exists()


def test_a_name_that_several_models_have_asks_for_the_model(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    shelf.put(VLLM)
    shelf.put(LLAMA)
    assert main(["profiles", "show", "best"]) == 2
    assert "Add --model" in capsys.readouterr().err
    assert main(["profiles", "show", "best", "--model", "some/model"]) == 0
    assert ast.literal_eval(out(capsys).replace("false", "False").replace("true", "True"))
