"""Which engine `auto` takes, and what is said when none can be taken."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from vllama.engines import choice, install
from vllama.engines.choice import able, choose, engine, ranking
from vllama.errors import EngineMissing, UsageError
from vllama.machine import Cpu, Gpu, Machine
from vllama.model import Model, Shape
from vllama.settings import Settings

GIB = 1024**3
CPU = Machine((), Cpu("test", 4, 4), 16 * GIB, 8 * GIB)
NVIDIA = replace(CPU, gpus=(Gpu(0, "H100", "u", 80 * GIB, 79 * GIB),))
AMD = replace(CPU, gpus=(Gpu(0, "MI300X", "u", 192 * GIB, 190 * GIB, vendor="amd"),))
MAC = replace(CPU, system="Darwin")
WINDOWS = replace(NVIDIA, system="Windows")
SHAPE = Shape("Qwen2", 2, 8, 2, 1, 4, 16, 100, 1000, 1000, 2000, 2048, "F16", 32)
BOTH = Model("both", Path("both"), SHAPE, safetensors=Path("both"), gguf=Path("both/x.gguf"))
SAFETENSORS = replace(BOTH, name="safe", gguf=None)
GGUF = replace(BOTH, name="gguf", safetensors=None)


def packed(method: str) -> Model:
    """The same in safetensors whose weights are packed in some way."""
    return replace(SAFETENSORS, shape=replace(SHAPE, quantization=method))


@dataclass
class Installed:
    """An engine that may not be there."""

    name: str
    is_there: bool

    def version(self) -> str:
        if not self.is_there:
            raise EngineMissing(f"{self.name} is not installed", install.hint(self.name))
        return "1"


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The engines that are installed, for the test to change."""
    names = {"vllm", "llamacpp"}
    monkeypatch.setattr(choice, "engine", lambda name, _: Installed(name, name in names))
    return names


@pytest.mark.parametrize(
    ("model", "machine", "expected", "why"),
    [
        (BOTH, NVIDIA, "vllm", "an NVIDIA GPU"),
        (SAFETENSORS, NVIDIA, "vllm", "an NVIDIA GPU"),
        (GGUF, NVIDIA, "llamacpp", "only as GGUF"),
        (packed("AWQ"), NVIDIA, "vllm", "an NVIDIA GPU and safetensors weights (AWQ)"),
        (packed("GPTQ"), NVIDIA, "vllm", "safetensors weights (GPTQ)"),
        (packed("FP8"), AMD, "vllm", "safetensors weights (FP8)"),
        (packed("BF16"), NVIDIA, "vllm", "and safetensors weights"),
        (BOTH, AMD, "vllm", "an AMD GPU with ROCm"),
        (BOTH, CPU, "llamacpp", "no GPU"),
        (SAFETENSORS, CPU, "vllm", "only as safetensors"),
        (BOTH, MAC, "llamacpp", "Metal"),
        (SAFETENSORS, MAC, "vllm", "vllm-metal"),
        (BOTH, WINDOWS, "llamacpp", "GGUF"),
    ],
)
def test_auto_takes_the_best_engine_for_platform_and_format_and_says_why(
    there: set[str], settings: Settings, model: Model, machine: Machine, expected: str, why: str
) -> None:
    chosen = choose(model, machine, settings)
    assert chosen.engine.name == expected
    assert chosen.reason.startswith(f"{expected}: ")
    assert why in chosen.reason


def test_auto_takes_the_second_best_when_the_best_is_not_installed_and_says_so(
    there: set[str], settings: Settings
) -> None:
    there.remove("vllm")
    chosen = choose(BOTH, NVIDIA, settings)
    assert chosen.engine.name == "llamacpp"
    assert "vllm would come first but is not installed" in chosen.reason


def test_without_any_engine_it_says_what_to_install_on_this_platform(
    there: set[str], settings: Settings
) -> None:
    there.clear()
    for model, machine, remedy in (
        (SAFETENSORS, NVIDIA, "vllama[vllm]"),
        (GGUF, CPU, "vllama[llamacpp]"),
        (GGUF, MAC, "brew install llama.cpp"),
        (GGUF, WINDOWS, "winget install llama.cpp"),
        (SAFETENSORS, MAC, "vllm-metal"),
    ):
        with pytest.raises(EngineMissing, match="no engine that can serve") as missing:
            choose(model, machine, settings)
        assert remedy in missing.value.remedy


def test_an_engine_that_was_asked_for_is_taken_as_it_is(
    there: set[str], settings: Settings
) -> None:
    assert choose(BOTH, NVIDIA, settings, "llamacpp").engine.name == "llamacpp"
    there.remove("vllm")
    with pytest.raises(EngineMissing):
        choose(BOTH, CPU, settings, "vllm")


def test_an_engine_that_cannot_read_the_format_is_refused_with_the_way_out(
    there: set[str], settings: Settings
) -> None:
    with pytest.raises(UsageError, match="vllm needs safetensors weights; gguf is here") as refused:
        choose(GGUF, NVIDIA, settings, "vllm")
    assert refused.value.remedy == "Use --engine llamacpp, or get the model's safetensors files."
    with pytest.raises(UsageError, match="llamacpp needs gguf"):
        choose(SAFETENSORS, NVIDIA, settings, "llamacpp")


def test_the_simulator_is_never_chosen_but_can_be_asked_for(settings: Settings) -> None:
    for machine in (NVIDIA, AMD, CPU, MAC):
        assert "simulator" not in dict(ranking(BOTH.formats, machine))
    assert choose(BOTH, CPU, settings, "simulator").engine.name == "simulator"


def test_an_engine_nobody_knows_is_wrong_usage(settings: Settings) -> None:
    with pytest.raises(UsageError, match="no engine is called 'torch'"):
        engine("torch", settings)


@pytest.mark.parametrize("name", ["vllm", "llamacpp", "ollama", "simulator"])
def test_each_name_leads_to_the_engine_of_that_name(settings: Settings, name: str) -> None:
    assert engine(name, settings).name == name


@pytest.mark.parametrize("system", ["Linux", "Darwin", "Windows", "FreeBSD"])
def test_there_is_a_hint_for_every_engine_on_every_system(system: str) -> None:
    for name in ("vllm", "llamacpp", "ollama"):
        assert install.hint(name, system)


def test_all_that_can_serve_are_listed_with_the_usual_one_first(
    there: set[str], settings: Settings
) -> None:
    assert [c.engine.name for c in able(BOTH, NVIDIA, settings)] == ["vllm", "llamacpp"]
    assert [c.engine.name for c in able(BOTH, CPU, settings)] == ["llamacpp", "vllm"]
    assert [c.engine.name for c in able(GGUF, NVIDIA, settings)] == ["llamacpp"]
    there.discard("vllm")
    assert [c.engine.name for c in able(BOTH, NVIDIA, settings)] == ["llamacpp"]
