"""A cross-encoder for tests: the body of a real BERT, and a head of random weights that scores."""

import json
import shutil
from pathlib import Path

import numpy as np

from tests import minilm

SEED = 7


def make(folder: Path) -> Path:
    """Write a Hugging Face folder of a `BertForSequenceClassification` with one label."""
    from safetensors.numpy import load_file, save_file

    shutil.copytree(
        minilm.folder(), folder,
        ignore=shutil.ignore_patterns("modules.json", "1_Pooling", "*sentence*", "*.safetensors"),
    )  # fmt: skip
    tensors = {f"bert.{name}": value for name, value in load_file(
        minilm.folder() / "model.safetensors").items() if "position_ids" not in name}  # fmt: skip
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"},
               "label2id": {"LABEL_0": 0}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    random = np.random.default_rng(SEED)
    head = random.standard_normal((1, config["hidden_size"])).astype(np.float32)
    tensors |= {"classifier.weight": head / 4, "classifier.bias": np.zeros(1, np.float32)}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def scores(folder: Path, query: str, documents: list[str], *, types: bool) -> list[float]:
    """What `transformers` makes of each pair, before any sigmoid.

    Without `types` the document counts as the same sentence as the query.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    pairs = tokenizer([query] * len(documents), documents, padding=True, return_tensors="pt")
    if not types:
        pairs["token_type_ids"].zero_()
    with torch.no_grad():
        found: list[float] = model.eval()(**pairs).logits[:, 0].tolist()
    return found
