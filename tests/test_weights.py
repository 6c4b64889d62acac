"""A model's shape comes from headers alone, and a broken file is named with its remedy."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from tests import headers
from tests.headers import LLAMA_8B
from vllama import weights
from vllama.errors import ModelBroken
from vllama.model import Shape

ONE_TENSOR: headers.Tensors = {"model.norm.weight": ("BF16", (4096,))}


def shape_of(folder: Path, config: dict[str, Any], tensors: headers.Tensors | None = None) -> Shape:
    headers.write(folder, config, tensors or headers.dense(config, layers=1))
    return weights.read(folder, "some/model").shape


def test_an_8b_is_known_from_its_headers(tmp_path: Path) -> None:
    headers.write(tmp_path, LLAMA_8B, headers.dense(LLAMA_8B), shards=4)
    shape = weights.read(tmp_path, "llama").shape
    assert shape.parameters == shape.active_parameters == 8_030_261_248
    assert shape.weight_bytes == 2 * shape.parameters
    assert shape.kv_bytes_per_token == 2 * 32 * 8 * 128 * 2
    assert (shape.head_size, shape.quantization, shape.context_length) == (128, "BF16", 131072)
    assert shape.sequence_bytes(1000) == 1000 * shape.kv_bytes_per_token


def test_heads_are_found_under_the_names_that_models_use(tmp_path: Path) -> None:
    config = {k: v for k, v in LLAMA_8B.items() if k != "num_key_value_heads"}
    tensors = headers.dense(LLAMA_8B, layers=1)
    for number, name in enumerate(("num_kv_heads", "n_head_kv", "multi_query_group_num")):
        shape = shape_of(tmp_path / str(number), {**config, name: 2}, tensors)
        assert shape.kv_heads == 2
    assert shape_of(tmp_path / "none", config, tensors).kv_heads == 32


def test_a_vision_model_is_its_text_part(tmp_path: Path) -> None:
    outer = {"architectures": ["SomeVision"], "text_config": LLAMA_8B}
    headers.write(tmp_path, outer, headers.dense(LLAMA_8B, layers=1))
    assert weights.read(tmp_path, "m").shape.layers == 32


def test_latent_attention_keeps_one_compressed_row_a_token(tmp_path: Path) -> None:
    latent = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "num_hidden_layers": 27}
    shape = shape_of(tmp_path, {**LLAMA_8B, **latent})
    assert shape.is_latent
    assert shape.kv_bytes_per_token == 27 * (512 + 64) * 2


def test_of_a_mixture_only_the_chosen_experts_are_active(tmp_path: Path) -> None:
    config = {**LLAMA_8B, "num_hidden_layers": 2, "n_routed_experts": 8, "num_experts_per_tok": 2}
    tensors = dict(headers.dense(config))
    tensors |= dict(headers.experts(0, 8, 4096, 512)) | dict(headers.experts(1, 8, 4096, 512))
    shape = shape_of(tmp_path, config, tensors)
    routed = 2 * 8 * 3 * 4096 * 512
    assert shape.parameters - shape.active_parameters == routed - routed // 4
    assert (shape.experts, shape.experts_per_token) == (8, 2)
    assert shape.expert_bytes == 2 * routed


@pytest.mark.parametrize(
    ("config", "sliding"),
    [
        ({"sliding_window": 1024, "sliding_window_pattern": 6, "num_hidden_layers": 12}, 10),
        ({"sliding_window": 4096, "model_type": "gemma2"}, 16),
        ({"sliding_window": 4096}, 32),
        ({"sliding_window": 4096, "use_sliding_window": False}, 0),
        ({"sliding_window": None}, 0),
        (
            {
                "sliding_window": 128,
                "layer_types": ["sliding_attention", "full_attention"] * 16,
            },
            16,
        ),
    ],
)
def test_sliding_layers_keep_only_their_window(
    tmp_path: Path, config: dict[str, Any], sliding: int
) -> None:
    shape = shape_of(tmp_path, {**LLAMA_8B, **config})
    assert shape.sliding_layers == sliding
    layer = shape.kv_bytes_per_token // shape.layers
    full = shape.layers - sliding
    window = config["sliding_window"] or 0
    assert shape.sequence_bytes(8192) == layer * (full * 8192 + sliding * window)
    assert shape.sequence_bytes(100) == 100 * shape.kv_bytes_per_token


def test_a_gated_delta_net_has_a_state_a_sequence(tmp_path: Path) -> None:
    hybrid = {
        "num_hidden_layers": 48,
        "full_attention_interval": 4,
        "linear_conv_kernel_dim": 4,
        "linear_num_key_heads": 16,
        "linear_num_value_heads": 32,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
    }
    shape = shape_of(tmp_path, {**LLAMA_8B, **hybrid})
    assert shape.state_layers == 36
    assert shape.kv_bytes_per_token == 2 * 12 * 8 * 128 * 2
    convolution, state = (2 * 16 * 128 + 32 * 128) * 3 * 2, 32 * 128 * 128 * 4
    assert shape.state_bytes == 36 * (convolution + state)
    assert shape.sequence_bytes(10) == 10 * shape.kv_bytes_per_token + shape.state_bytes


@pytest.mark.parametrize(
    ("config", "state"),
    [
        ({"hybrid_override_pattern": "M-M*" * 8}, 16),
        ({"layers_block_type": ["mamba", "attention"] * 16}, 16),
        ({"attn_layer_period": 8, "attn_layer_offset": 4}, 28),
    ],
)
def test_mamba_layers_are_found_as_each_family_writes_them(
    tmp_path: Path, config: dict[str, Any], state: int
) -> None:
    mamba = {"mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2}
    shape = shape_of(tmp_path, {**LLAMA_8B, **mamba, **config})
    assert shape.state_layers == state
    assert shape.state_bytes == state * (8192 * 3 * 2 + 8192 * 16 * 4)


def test_packed_weights_are_counted_as_the_parameters_they_hold(tmp_path: Path) -> None:
    config = {**LLAMA_8B, "quantization_config": {"quant_method": "awq", "bits": 4}}
    tensors = {
        "model.layers.0.mlp.up_proj.qweight": ("I32", (4096, 14336 // 8)),
        "model.layers.0.mlp.up_proj.qzeros": ("I32", (32, 14336 // 8)),
        "model.layers.0.mlp.up_proj.scales": ("F16", (32, 14336)),
    }
    shape = shape_of(tmp_path, config, tensors)
    assert shape.parameters == 4096 * 14336
    assert shape.weight_bytes == 4096 * 14336 // 2 + 32 * 14336 // 2 + 32 * 14336 * 2
    assert shape.quantization == "AWQ"


def test_eight_bit_weights_take_a_byte_each(tmp_path: Path) -> None:
    config = {**LLAMA_8B, "quantization_config": {"quant_method": "fp8"}}
    shape = shape_of(tmp_path, config, headers.dense(config, "F8_E4M3"))
    assert shape.parameters == 8_030_261_248
    outside = 2 * 128256 * 4096 + (2 * 32 + 1) * 4096
    assert shape.weight_bytes == shape.parameters + outside


def broken(path: Path) -> str:
    with pytest.raises(ModelBroken) as caught:
        weights.read(path, "m")
    assert caught.value.remedy
    return caught.value.message


def test_a_folder_without_a_model_says_what_it_lacks(tmp_path: Path) -> None:
    assert broken(tmp_path).endswith("holds neither config.json nor a .gguf file")


def test_a_config_without_weights_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_8B))
    assert "holds no .safetensors file" in broken(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\xff"])
def test_a_broken_config_is_named(tmp_path: Path, text: str) -> None:
    headers.write(tmp_path, LLAMA_8B, {})
    (tmp_path / "config.json").write_text(text)
    assert "config.json" in broken(tmp_path)


@pytest.mark.parametrize("lacking", ["hidden_size", "num_hidden_layers", "vocab_size"])
def test_a_config_that_lacks_a_number_says_which(tmp_path: Path, lacking: str) -> None:
    config = {k: v for k, v in LLAMA_8B.items() if k != lacking}
    headers.write(tmp_path, config, ONE_TENSOR)
    assert f"lacks '{lacking}'" in broken(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    headers.write(tmp_path, LLAMA_8B, headers.dense(LLAMA_8B, layers=2), shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    assert "model-00002-of-00003.safetensors is missing" in broken(tmp_path)


def test_a_shard_that_is_cut_short_says_how_much_is_missing(tmp_path: Path) -> None:
    headers.write(tmp_path, LLAMA_8B, headers.dense(LLAMA_8B, layers=1))
    path = tmp_path / "model-00001-of-00001.safetensors"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1000)
    assert broken(tmp_path).endswith("is cut short: 1000 bytes are missing")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01\x02",
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 4) + b"{]}{",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 9) + b'{"a": {}}',
        struct.pack("<Q", 8) + b'{"a": 1}',
    ],
)
def test_a_broken_safetensors_header_is_named(tmp_path: Path, content: bytes) -> None:
    headers.write(tmp_path, LLAMA_8B, ONE_TENSOR)
    (tmp_path / "model-00001-of-00001.safetensors").write_bytes(content)
    assert "model-00001-of-00001.safetensors" in broken(tmp_path)


def write_gguf(path: Path, arch: str, tensors: list[str], **numbers: int | list[int]) -> Path:
    writer = GGUFWriter(path, arch)
    for key, value in numbers.items():
        name = f"{arch}.{key.replace('__', '.')}"
        if isinstance(value, list):
            writer.add_array(name, value)
        else:
            writer.add_uint32(name, value)
    for tensor in tensors:
        writer.add_tensor(tensor, np.zeros((4, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_shape(path: Path, arch: str, *tensors: str, **numbers: int | list[int]) -> Shape:
    every: dict[str, int | list[int]] = {
        "block_count": 4,
        "embedding_length": 512,
        "attention__head_count": 8,
        "attention__head_count_kv": 2,
        "context_length": 4096,
        **numbers,
    }
    names = ["token_embd.weight", *tensors]
    return weights.read(write_gguf(path / "m.gguf", arch, names, **every), "m").shape


def test_gguf_tells_grouped_attention(tmp_path: Path) -> None:
    shape = gguf_shape(tmp_path, "llama")
    assert (shape.kv_heads, shape.head_size) == (2, 64)
    assert shape.kv_bytes_per_token == 4 * 2 * (64 + 64) * 2


def test_gguf_tells_a_mixture_of_experts(tmp_path: Path) -> None:
    shape = gguf_shape(
        tmp_path, "qwen3moe", "blk.0.ffn_up_exps.weight", expert_count=8, expert_used_count=2
    )
    assert (shape.parameters, shape.active_parameters) == (256, 128 + 32)
    assert shape.expert_bytes == 256


def test_gguf_tells_latent_attention(tmp_path: Path) -> None:
    shape = gguf_shape(tmp_path, "deepseek2", attention__kv_lora_rank=512, rope__dimension_count=64)
    assert shape.is_latent
    assert shape.kv_bytes_per_token == 4 * (512 + 64) * 2


def test_gguf_tells_a_hybrid_by_the_heads_of_each_layer(tmp_path: Path) -> None:
    state = {"ssm__inner_size": 1024, "ssm__state_size": 16, "ssm__conv_kernel": 4}
    heads = [0, 0, 0, 2] * 6
    shape = gguf_shape(tmp_path, "jamba", attention__head_count_kv=heads, block_count=24, **state)
    assert shape.state_layers == 18
    assert shape.kv_bytes_per_token == 6 * 2 * (64 + 64) * 2
    assert shape.state_bytes == 18 * (1024 * 3 + 1024 * 16) * 4


def test_gguf_tells_sliding_windows(tmp_path: Path) -> None:
    shape = gguf_shape(tmp_path, "gemma3", block_count=12, attention__sliding_window=512)
    assert (shape.sliding_layers, shape.sliding_window) == (10, 512)


def test_the_toy_has_one_shape_in_both_formats(toy: Path) -> None:
    folder = weights.read(toy, "toy").shape
    file = weights.read(next(toy.glob("*f16.gguf")), "toy").shape
    for name in ("layers", "kv_heads", "head_size", "kv_bytes_per_token", "context_length"):
        assert getattr(folder, name) == getattr(file, name)
    assert file.parameters == folder.parameters


@pytest.mark.parametrize("kept", [3, 20, 2000, -1])
def test_a_gguf_file_cut_short_is_named(toy: Path, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.gguf"
    shutil.copy(next(toy.glob("*f16.gguf")), path)
    with path.open("r+b") as file:
        file.truncate(kept if kept > 0 else path.stat().st_size + kept)
    assert "cut.gguf" in broken(path)


def test_a_file_that_is_no_gguf_is_named(tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(b"PK\x03\x04" * 100)
    assert "does not begin with GGUF" in broken(path)
