"""Which engine serves a model on a machine, and why."""

import contextlib
import importlib
from dataclasses import dataclass
from typing import Protocol, cast

from vllama.engines import install
from vllama.engines.engine import Engine
from vllama.errors import EngineMissing, UsageError
from vllama.machine import Machine
from vllama.model import Format, Model
from vllama.settings import Settings

_MODULES = {
    "vllm": "vllama.engines.vllm",
    "llamacpp": "vllama.engines.llamacpp",
    "ollama": "vllama.engines.ollama",
    "simulator": "vllama.engines.simulator",
}
# Weights as they were trained; anything else names how they were packed.
_PLAIN = frozenset({"F64", "F32", "F16", "BF16", "unknown"})
_NEEDS: dict[str, Format] = {"vllm": "safetensors", "llamacpp": "gguf"}


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine, and the sentence that says why it was taken."""

    engine: Engine
    reason: str


class _Module(Protocol):
    def from_settings(self, settings: Settings) -> Engine: ...


def engine(name: str, settings: Settings) -> Engine:
    """The engine called `name`, installed or not: `vllm`, `llamacpp`, `ollama` or `simulator`.

    Raises:
        UsageError: no engine has that name.
    """
    if name not in _MODULES:
        raise UsageError(f"no engine is called '{name}'", "There are: vllm, llamacpp, ollama.")
    # Imported only when used: an engine must not cost those who take another.
    module = cast(_Module, importlib.import_module(_MODULES[name]))
    return module.from_settings(settings)


def choose(model: Model, machine: Machine, settings: Settings, wanted: str = "auto") -> Choice:
    """The engine to use for `model` here; `wanted` is `auto` or an engine's name.

    Raises:
        EngineMissing: none that can serve the model is installed; says what to install.
        UsageError: the wanted engine cannot serve this format.
    """
    _check_mlx(model, machine)
    if wanted != "auto":
        chosen = engine(wanted, settings)
        _check_format(wanted, model)
        chosen.version()
        return Choice(chosen, f"{wanted}, as asked for")
    lacking: list[str] = []
    for name, reason in ranking(model.formats, machine, model.shape.quantization):
        candidate = engine(name, settings)
        try:
            candidate.version()
        except EngineMissing:
            lacking.append(name)
            continue
        instead = f" ({' and '.join(lacking)} would come first but is not installed)"
        return Choice(candidate, f"{name}: {reason}{instead if lacking else ''}")
    first = lacking[0]
    raise EngineMissing(
        f"no engine that can serve {model.name} is installed here",
        install.hint(first, machine.system),
    )


def able(model: Model, machine: Machine, settings: Settings) -> list[Choice]:
    """Every installed engine that can serve `model` here, in the order of `ranking`."""
    found = []
    for name, reason in ranking(model.formats, machine, model.shape.quantization):
        candidate = engine(name, settings)
        with contextlib.suppress(EngineMissing):
            candidate.version()
            found.append(Choice(candidate, f"{name}: {reason}"))
    return found


def ranking(
    formats: frozenset[Format], machine: Machine, quantization: str = ""
) -> list[tuple[str, str]]:
    """The engines that can serve these formats on `machine`, best first, each with its reason."""
    vllm_reason = _why_vllm_is_best(machine, quantization)
    ranked: list[tuple[str, str]] = []
    if "gguf" in formats:
        ranked.append(("llamacpp", _why_llamacpp(formats, machine)))
    if "safetensors" in formats:
        at = 0 if vllm_reason else len(ranked)
        ranked.insert(at, ("vllm", vllm_reason or _why_vllm_at_all(formats, machine)))
    return ranked


def _why_vllm_at_all(formats: frozenset[Format], machine: Machine) -> str:
    if "gguf" in formats:
        return "the model is here as safetensors too"
    if machine.system == "Darwin":
        return "the model is here only as safetensors, for which a Mac has vllm-metal"
    where = "" if machine.gpus else ", and no GPU is"
    return f"the model is here only as safetensors{where}"


def _why_vllm_is_best(machine: Machine, quantization: str) -> str:
    """Empty where llama.cpp is the better one when both can."""
    if machine.system != "Linux" or not machine.gpus:
        return ""
    # vLLM's build for AMD is the one with ROCm.
    maker = {"nvidia": "NVIDIA GPU", "amd": "AMD GPU with ROCm"}.get(machine.gpus[0].vendor)
    packed = f" ({quantization})" if quantization and quantization not in _PLAIN else ""
    return f"an {maker} and safetensors weights{packed}" if maker else ""


def _why_llamacpp(formats: frozenset[Format], machine: Machine) -> str:
    if machine.system == "Darwin":
        return "the model is here as GGUF, and llama.cpp uses Metal on a Mac"
    if not machine.gpus:
        return "the model is here as GGUF, and no GPU is"
    if "safetensors" not in formats:
        return "the model is here only as GGUF"
    return "the model is here as GGUF too"


def _check_mlx(model: Model, machine: Machine) -> None:
    """Weights that MLX has quantised run on a Mac only; a GGUF beside them will do."""
    if model.shape.quantization.startswith("MLX") and not model.gguf and machine.system != "Darwin":
        raise UsageError(
            f"{model.name} was quantised by MLX, for a Mac; neither vLLM nor llama.cpp reads that",
            "Take the original model or a GGUF of it, or make one of this: a Modelfile that says"
            f" FROM {model.name}, and vllama create NAME -f Modelfile --quantize Q8_0.",
        )


def _check_format(name: str, model: Model) -> None:
    needed = _NEEDS.get(name)
    if needed and needed not in model.formats:
        here = " and ".join(sorted(model.formats)) or "nothing"
        other = next((n for n, f in _NEEDS.items() if f in model.formats), "")
        remedy = f"Use --engine {other}, or " if other else ""
        sentence = f"{remedy}get the model's {needed} files."
        raise UsageError(
            f"{name} needs {needed} weights; {model.name} is here as {here}",
            sentence[0].upper() + sentence[1:],
        )
