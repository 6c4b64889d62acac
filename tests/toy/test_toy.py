"""A toy is the same model in both formats, with the same tokens on both engines."""

import json
import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest
from tokenizers import Tokenizer

from vllama import gguf, toy
from vllama.engines.engine import Endpoint
from vllama.errors import UsageError
from vllama.settings import Settings
from vllama.store import catalogue, templates
from vllama.toy.size import choose, parse_parameters

TEXTS = [
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog. 12345 67,89",
    "def f(x):\n    return x ** 2\n\n\n# tabs\tand  spaces   ",
    "Grüße, Ελλάδα, 日本語, emoji 🙂🚀",
    "don't can't I'll we've  --  <tag attr=\"x\">&amp;</tag>",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    " 2026\n\n\n 3.5\n \n",
    "",
]


@pytest.mark.parametrize(
    ("asked", "within"),
    [("4M", 0.1), ("20M", 0.15), ("135M", 0.1), ("500M", 0.1), ("0.5B", 0.1), ("4000000", 0.1)],
)
def test_the_size_comes_near_to_what_was_asked(asked: str, within: float) -> None:
    wanted = parse_parameters(asked)
    assert choose(wanted).parameters == pytest.approx(wanted, rel=within)


@pytest.mark.parametrize("text", ["", "many", "4X", "-1M", "1", "9B"])
def test_a_size_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        choose(parse_parameters(text))


def test_both_formats_hold_the_same_weights(toy: Path) -> None:
    import gguf as library
    from safetensors.numpy import load_file

    tensors = load_file(toy / "model.safetensors")
    reader = library.GGUFReader(toy / "toy-f16.gguf")
    by_name = {t.name: t for t in reader.tensors}
    assert len(by_name) == len(tensors)
    pairs = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.layers.0.self_attn.q_proj.weight": "blk.0.attn_q.weight",
        "model.layers.1.mlp.down_proj.weight": "blk.1.ffn_down.weight",
        "model.norm.weight": "output_norm.weight",
    }
    for theirs, ours in pairs.items():
        data = by_name[ours].data.reshape(tensors[theirs].shape)
        assert np.array_equal(np.asarray(data, np.float32), tensors[theirs].astype(np.float32))


def test_the_same_seed_gives_the_same_model(tmp_path: Path) -> None:
    first, second, other = (
        toy.make(tmp_path / name, parameters=2_000_000, seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    for name in ("model.safetensors", "tokenizer.json", "toy-q8_0.gguf"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    weights = "model.safetensors"
    assert (first / weights).read_bytes() != (other / weights).read_bytes()


def test_a_toy_is_replaced_and_a_foreign_folder_is_not(tmp_path: Path) -> None:
    made = toy.make(tmp_path / "toy", parameters=2_000_000)
    toy.make(made, parameters=2_000_000)
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="no toy model"):
        toy.make(foreign)
    assert (foreign / "thesis.txt").exists()


@pytest.mark.llamacpp
@pytest.mark.parametrize("text", TEXTS)
async def test_llamacpp_counts_the_same_tokens(
    text: str, toy: Path, llamacpp_endpoint: Endpoint
) -> None:
    expected = Tokenizer.from_file(str(toy / "tokenizer.json")).encode(text).ids
    async with httpx.AsyncClient(base_url=llamacpp_endpoint.base_url) as client:
        body = {"content": text, "add_special": True, "parse_special": True}
        reply = await client.post("/tokenize", json=body)
    assert reply.json()["tokens"] == expected


@pytest.mark.llamacpp
async def test_llamacpp_applies_the_template_as_the_hub_does(
    toy: Path, llamacpp_endpoint: Endpoint, settings: Settings
) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yo"},
        {"role": "user", "content": "Bye <b>"},
    ]
    ours = templates.render(catalogue.card(str(toy), settings), messages)
    async with httpx.AsyncClient(base_url=llamacpp_endpoint.base_url) as client:
        reply = await client.post("/apply-template", json={"messages": messages})
    assert reply.json()["prompt"] == ours


def test_the_embedder_says_so_in_both_formats(toy_embedder: Path) -> None:
    assert json.loads((toy_embedder / "modules.json").read_text())
    header = gguf.read(toy_embedder / "toy-f16.gguf")
    assert header.metadata["qwen2.pooling_type"] == 1


def test_a_header_is_read_without_the_vocabulary_in_a_fraction_of_the_time(
    toy: Path, tmp_path: Path
) -> None:
    import time

    copy = shutil.copy(toy / "toy-q8_0.gguf", tmp_path / "copy.gguf")

    def cost(lists: bool) -> float:
        before = time.process_time()
        gguf.read(Path(copy), lists=lists)
        return time.process_time() - before

    with_lists = min(cost(True) for _ in range(3))
    assert min(cost(False) for _ in range(3)) < with_lists / 3
