"""Weights that MLX has quantised are recognised, refused by engines, and converted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from vllama import weights
from vllama.engines.choice import choose
from vllama.errors import ModelBroken, UsageError
from vllama.machine import Cpu, Machine
from vllama.settings import Settings
from vllama.store import convert, names
from vllama.store.errors import Refused

LINUX = Machine((), Cpu("test", 4, 4), 16 << 30, 8 << 30)
GROUP = 64


def packed(values: Any, bits: int) -> tuple[Any, Any, Any]:
    """Affine groups as MLX lays them out: low bits first; with scales and biases."""
    groups = values.reshape(values.shape[0], -1, GROUP).astype(np.float32)
    low, high = groups.min(-1), groups.max(-1)
    scales = np.maximum((high - low) / ((1 << bits) - 1), 1e-8).astype(np.float32)
    numbers = np.rint((groups - low[..., None]) / scales[..., None]).astype(np.uint32)
    words = numbers.reshape(values.shape[0], -1, 32 // bits)
    shifts = np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits)
    return np.bitwise_or.reduce(words << shifts, -1), scales, low.astype(np.float32)


def mlx_folder(toy: Path, folder: Path, bits: int) -> Path:
    """The toy as MLX's converter would leave it: matrices packed, all else as it was."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((toy / name).read_bytes())
    made: dict[str, Any] = {}
    for name, value in plain(toy).items():
        if value.ndim == 2 and value.shape[1] % GROUP == 0:
            base = name.removesuffix("weight")
            parts = zip(("weight", "scales", "biases"), packed(value, bits), strict=True)
            made |= {base + part: array for part, array in parts}
        else:
            made[name] = value
    save_file(made, folder / "model.safetensors")
    config = json.loads((toy / "config.json").read_text())
    config["quantization"] = {"group_size": GROUP, "bits": bits}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def plain(toy: Path) -> dict[str, Any]:
    """The toy's tensors as floats."""
    from vllama.store import convert_tensors

    return {name: tensor for name, tensor, _, _ in convert_tensors.read(toy, {})}


@pytest.mark.parametrize("bits", [4, 8])
def test_what_mlx_has_packed_is_read_as_it_was(bits: int, toy: Path, tmp_path: Path) -> None:
    import gguf

    folder = mlx_folder(toy, tmp_path / "mlx", bits)
    original, shape = weights.read(toy, "toy").shape, weights.read(folder, "mlx").shape
    assert shape.quantization == f"MLX {bits}-bit"
    assert shape.parameters == original.parameters
    list(convert.write(folder, tmp_path / "mlx.gguf", "F32"))
    list(convert.write(toy, tmp_path / "toy.gguf", "F32"))
    mine, theirs = (
        {t.name: t.data for t in gguf.GGUFReader(tmp_path / f"{n}.gguf").tensors}
        for n in ("mlx", "toy")
    )
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        span = float(np.ptp(theirs[name]))
        assert np.abs(tensor - theirs[name]).max() <= span / ((1 << bits) - 1)


def test_a_way_of_packing_that_is_not_known_is_refused(toy: Path, tmp_path: Path) -> None:
    folder = mlx_folder(toy, tmp_path / "mlx", 4)
    config = json.loads((folder / "config.json").read_text())
    for odd in ({"bits": 3}, {"mode": "mxfp4"}):
        quantization = {**config["quantization"], **odd}
        text = json.dumps({**config, "quantization": quantization})
        (folder / "config.json").write_text(text)
        with pytest.raises(Refused, match="quantised by MLX in a way that is not known"):
            list(convert.write(folder, tmp_path / "x.gguf"))


@pytest.mark.parametrize("wanted", ["auto", "vllm"])
def test_no_engine_is_started_on_it_but_on_a_mac(
    wanted: str, toy: Path, tmp_path: Path, settings: Settings
) -> None:
    model = names.resolve(str(mlx_folder(toy, tmp_path / "mlx", 4)), settings)
    with pytest.raises(UsageError, match="quantised by MLX, for a Mac") as caught:
        choose(model, LINUX, settings, wanted)
    assert "--quantize" in caught.value.remedy


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pytorchs_old_format_is_refused_with_what_to_do(
    name: str, toy: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes((toy / "config.json").read_bytes())
    (tmp_path / name).write_bytes(b"PK")
    with pytest.raises(ModelBroken, match="may run code when it is read") as caught:
        weights.read(tmp_path, "old")
    assert name in caught.value.message
    assert "safetensors" in caught.value.remedy
