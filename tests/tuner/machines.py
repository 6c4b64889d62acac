"""Models, machines and loads for the tuner's tests: made up, nothing is measured here."""

from dataclasses import replace
from pathlib import Path

from vllama.bench.workload import Workload
from vllama.machine import GIB, Cpu, Gpu, Machine
from vllama.model import Model, Shape
from vllama.profile import Profile, Scalar
from vllama.tuner import knobs_llamacpp, knobs_vllm
from vllama.tuner.space import Space, build

VLLM_TAKES = frozenset(knobs_vllm.CATALOGUE.makers)
LLAMACPP_TAKES = frozenset(knobs_llamacpp.CATALOGUE.makers)
CPU = Cpu("Some CPU", cores=4, physical_cores=4, features=frozenset({"avx2"}))

QWEN_8B = Shape(
    architecture="Qwen3ForCausalLM",
    layers=36,
    hidden_size=4096,
    heads=32,
    kv_heads=8,
    head_size=128,
    intermediate_size=12288,
    vocabulary=151936,
    parameters=8_190_735_360,
    active_parameters=8_190_735_360,
    weight_bytes=16_381_470_720,
    context_length=40960,
    quantization="BF16",
    kv_bytes_per_token=147456,
)
TOY = Shape(
    architecture="Qwen2ForCausalLM",
    layers=3,
    hidden_size=256,
    heads=4,
    kv_heads=2,
    head_size=64,
    intermediate_size=1024,
    vocabulary=4096,
    parameters=4_001_024,
    active_parameters=4_001_024,
    weight_bytes=8_002_048,
    context_length=8192,
    quantization="F16",
    kv_bytes_per_token=1536,
)


def model(shape: Shape = TOY) -> Model:
    return Model("some/model", Path("/nowhere"), shape, safetensors=Path("/nowhere"))


def gpu(index: int = 0, gib: float = 80, name: str = "NVIDIA H100 80GB HBM3") -> Gpu:
    size = int(gib * GIB)
    return Gpu(index, name, f"GPU-{index}", size, size, (9, 0), 3.35e12)


def machine(*gpus: Gpu, gib: float = 24) -> Machine:
    return Machine(gpus, CPU, int(gib * GIB), int(gib * GIB))


def chat(concurrency: int = 16, prompt: int = 64, output: int = 32) -> Workload:
    return Workload("chat", prompt, output, concurrency=concurrency)


def sharing(prefix: int) -> Workload:
    return replace(chat(prompt=prefix + 32), shared_prefix_tokens=prefix)


def vllm_space(
    on: Machine,
    *load: Workload,
    shape: Shape = TOY,
    version: str = "0.32.0",
    takes: frozenset[str] = VLLM_TAKES,
    allow_lossy: bool = False,
    **default: Scalar,
) -> Space:
    return build(
        model(shape),
        on,
        engine="vllm",
        version=version,
        accepts=takes,
        default=Profile("default", "vllm", "some/model", options=default),
        load=load or (chat(),),
        allow_lossy=allow_lossy,
    )


def llamacpp_space(
    on: Machine,
    *load: Workload,
    shape: Shape = TOY,
    allow_lossy: bool = False,
    **default: Scalar,
) -> Space:
    return build(
        model(shape),
        on,
        engine="llamacpp",
        version="b1",
        accepts=LLAMACPP_TAKES,
        default=Profile("default", "llamacpp", "some/model", options=default),
        load=load or (chat(),),
        allow_lossy=allow_lossy,
    )
