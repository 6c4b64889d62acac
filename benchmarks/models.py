"""How long it takes to read what an 8B model is: `python -m benchmarks.models`.

The files have the whole headers of a Llama 3.1 8B (291 tensors, 128,256 tokens, 280,147 merges)
and its size, but no weights: they are sparse, so the disk hardly notices. The first reading is of
files that this process has not read before; they are in the page cache.
"""

import json
import statistics
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vllama.settings import Settings
from vllama.store import catalogue, details

TIMES = 7
LAYERS, HIDDEN, INNER, KV, VOCABULARY, MERGES = 32, 4096, 14336, 1024, 128_256, 280_147
SHARDS = 4
GIB = 1 << 30
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}{% if tools %}{% endif %}"
LAYER = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV, HIDDEN),
    "self_attn.v_proj": (KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
    "input_layernorm": (HIDDEN,),
    "post_attention_layernorm": (HIDDEN,),
}
SHORT = dict(zip(LAYER, ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up",
                         "ffn_down", "attn_norm", "ffn_norm"), strict=True))  # fmt: skip


def main() -> None:
    """Print the processor's milliseconds of the median and the slowest reading."""
    with tempfile.TemporaryDirectory() as place:
        settings = Settings.from_environment({"VLLAMA_HOME": place, "HF_HUB_OFFLINE": "1"})
        models = settings.home / "models"
        for number in range(TIMES):
            write_folder(models / f"folder-{number}")
            write_gguf(models / f"file-{number}.gguf")
        catalogue.card(str(write_gguf(Path(place) / "first.gguf")), settings)  # imports
        for kind, name in (("safetensors", "folder-{}"), ("GGUF", "file-{}.gguf")):
            told = measure(lambda n, name=name: catalogue.card(name.format(n), settings))  # type: ignore[misc]
            shown = measure(lambda n, name=name: details.model_info(  # type: ignore[misc]
                catalogue.card(name.format(n), settings)))  # fmt: skip
            card = catalogue.card(name.format(0), settings)
            print(
                f"{kind:12} {card.model.shape.parameters / 1e9:.2f}B  first {told}  again {shown}"
            )


def measure(read: Callable[[int], object]) -> str:
    """Of the processor, for one reading each of all copies."""
    spent_ms = []
    for number in range(TIMES):
        began = time.process_time()
        read(number)
        spent_ms.append((time.process_time() - began) * 1000)
    return f"{statistics.median(spent_ms):6.1f} ms (at most {max(spent_ms):.1f})"


def tensors() -> dict[str, tuple[int, ...]]:
    """All tensors with their shapes, by their names on the hub."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        found |= {f"model.layers.{layer}.{name}.weight": s for name, s in LAYER.items()}
    return found | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}


def write_folder(folder: Path) -> Path:
    """A folder as the hub has it, in four shards of BF16."""
    folder.mkdir(parents=True)
    listed = list(tensors().items())
    each = -(-len(listed) // SHARDS)
    for shard in range(SHARDS):
        header, at = {}, 0
        for name, shape in listed[shard * each : (shard + 1) * each]:
            size = 2 * count(shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
            at += size
        raw = json.dumps(header).encode()
        path = folder / f"model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(raw)) + raw)
            file.truncate(8 + len(raw) + at)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_attention_heads": 32, "num_key_value_heads": 8,
        "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY, "max_position_embeddings": 131_072,
        "rms_norm_eps": 1e-5, "torch_dtype": "bfloat16", "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return folder


def write_gguf(path: Path) -> Path:
    """The same as one file of Q8_0, with the vocabulary in its header."""
    import gguf

    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(131_072)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(32)
    writer.add_head_count_kv(8)
    writer.add_vocab_size(VOCABULARY)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token{n}" for n in range(VOCABULARY)])
    writer.add_token_types([1] * VOCABULARY)
    writer.add_token_merges([f"tok en{n}" for n in range(MERGES)])
    writer.add_chat_template(TEMPLATE)
    kind = gguf.GGMLQuantizationType.Q8_0
    size = 0
    for name, shape in tensors().items():
        stored = count(shape) // 32 * 34
        writer.add_tensor_info(short(name), (*shape[:-1], shape[-1] // 32 * 34),
                               np.dtype(np.uint8), stored, raw_dtype=kind)  # fmt: skip
        size += -(-stored // 32) * 32
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size + GIB)
    return path


def short(name: str) -> str:
    """The name that GGUF has for a tensor."""
    parts = name.split(".")
    if parts[1] != "layers":
        return {"embed_tokens": "token_embd", "norm": "output_norm"}.get(
            parts[1], "output"
        ) + ".weight"
    return f"blk.{parts[2]}.{SHORT['.'.join(parts[3:-1])]}.weight"


def count(shape: tuple[int, ...]) -> int:
    """How many elements."""
    total = 1
    for size in shape:
        total *= size
    return total


if __name__ == "__main__":
    main()
