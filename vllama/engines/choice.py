"""Which engine serves a model on a machine, and why."""

from dataclasses import dataclass

from vllama.engines.engine import Engine
from vllama.errors import UsageError
from vllama.machine import Machine
from vllama.model import Model
from vllama.settings import Settings


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine, and the sentence that says why it was taken."""

    engine: Engine
    reason: str


def engine(name: str, settings: Settings) -> Engine:
    """The engine called `name`, installed or not: `vllm`, `llamacpp` or `ollama`.

    Raises:
        UsageError: no engine has that name.
    """
    raise UsageError(f"no engine is called '{name}'", "There are: vllm, llamacpp, ollama.")


def choose(model: Model, machine: Machine, settings: Settings, wanted: str = "auto") -> Choice:
    """The engine to use for `model` here; `wanted` is `auto`, `vllm` or `llamacpp`.

    Raises:
        EngineMissing: none that can serve the model is installed; says what to install.
        UsageError: the wanted engine cannot serve this format.
    """
    return Choice(engine(wanted, settings), "")
