"""A LoRA adapter of random weights for a toy: peft's folder, and the GGUF file beside it."""

import json
from pathlib import Path

import numpy as np

RANK, ALPHA = 8, 16
_PARTS = {"self_attn.q_proj": "attn_q", "self_attn.v_proj": "attn_v"}


def make(directory: Path, base: Path, *, seed: int = 1, scale: float = 0.5) -> Path:
    """Write an adapter for the toy in `base`, strong enough to change its words."""
    import gguf
    from safetensors.numpy import save_file

    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    random = np.random.default_rng(seed)
    directory.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(directory / "adapter.gguf", config["model_type"])
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(ALPHA))
    hidden = config["hidden_size"]
    narrow = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for part, short in _PARTS.items():
            rows = hidden if short == "attn_q" else narrow
            down = random.standard_normal((RANK, hidden)) / np.sqrt(hidden)
            up = random.standard_normal((rows, RANK)) * scale
            name = f"base_model.model.model.layers.{layer}.{part}"
            for letter, matrix in (("A", down), ("B", up)):
                weights = matrix.astype(np.float16)
                tensors[f"{name}.lora_{letter}.weight"] = weights
                writer.add_tensor(f"blk.{layer}.{short}.weight.lora_{letter.lower()}", weights)
    save_file(tensors, directory / "adapter_model.safetensors", {"format": "pt"})
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file,
                  writer.write_tensors_to_file, writer.close):  # fmt: skip
        write()
    adapter = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "target_modules": [part.rpartition(".")[2] for part in _PARTS],
        "bias": "none",
    }
    (directory / "adapter_config.json").write_text(json.dumps(adapter, indent=2))
    return directory
