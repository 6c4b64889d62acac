"""A SentencePiece vocabulary gives llama.cpp the tokens that the reference gives."""

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import installed
from vllama.errors import ModelBroken
from vllama.machine import Machine
from vllama.settings import Settings
from vllama.store import convert, names, sentencepiece
from vllama.store.errors import Refused

SIZE = 600
TEXTS = [
    "Hello world", " leading", "trailing ", "two  spaces   three", "", " ", "\n\n\t x",
    "na\u00efve caf\u00e9 \u2014 \u201cquotes\u201d", "\u65e5\u672c\u8a9e \u4e2d\u6587",
    "\U0001f600\U0001f468\u200d\U0001f469", "a\u0301 e\u0300", "\u2581 \u2581under",
    "1234567890 3.14e-10", "def f(x):\n    return x  # ok\n", "<0x41> <s>x</s> [INST]",
    "\ufeff\u00a0\u200b",
    "the the thethe THE", "\x00\x01\x7f", "\u0627\u0644\u0633\u0644\u0627\u0645",
]  # fmt: skip
CORPUS = [
    "the quick brown fox jumps over the lazy dog and then the dog sleeps",
    "there is nothing that the other thing was not thinking of, in the end",
    "def function(argument):\n    return argument + 1",
    "one two three four five six seven eight nine ten the there them then",
] * 20


def weights(folder: Path, size: int) -> None:
    """A Llama of one layer around this tokenizer: only its tokens matter here."""
    from safetensors.numpy import save_file

    wide, half = 64, np.float16
    shapes = {
        "model.embed_tokens.weight": (size, wide), "model.norm.weight": (wide,),
        "model.layers.0.input_layernorm.weight": (wide,),
        "model.layers.0.post_attention_layernorm.weight": (wide,),
        "model.layers.0.mlp.gate_proj.weight": (wide, wide),
        "model.layers.0.mlp.up_proj.weight": (wide, wide),
        "model.layers.0.mlp.down_proj.weight": (wide, wide),
        **{f"model.layers.0.self_attn.{p}_proj.weight": (wide, wide) for p in "qkvo"},
    }  # fmt: skip
    save_file({n: np.ones(s, half) / 64 for n, s in shapes.items()}, folder / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": size,
        "hidden_size": wide, "intermediate_size": wide, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True, "rope_theta": 10000.0,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))


async def tokens(folder: Path, settings: Settings, machine: Machine) -> list[list[int]]:
    """What llama.cpp makes of the texts."""
    path = folder / "model.gguf"
    for _ in convert.write(folder, path):
        pass
    real = installed("llamacpp", settings)
    profile = real.default(names.resolve(str(path), settings), machine).with_options(threads=1)
    found = []
    async with (
        real.start(profile) as endpoint,
        httpx.AsyncClient(base_url=endpoint.base_url, timeout=60) as client,
    ):
        for text in TEXTS:
            body = {"content": text, "add_special": False, "parse_special": False}
            found.append((await client.post("/tokenize", json=body)).json()["tokens"])
    return found


def trained(folder: Path, **options: Any) -> Any:
    """A real SentencePiece model, trained here."""
    library = pytest.importorskip("sentencepiece")
    folder.mkdir()
    text = folder / "corpus.txt"
    text.write_text("\n".join(CORPUS))
    wanted = {
        "model_type": "bpe", "vocab_size": SIZE, "byte_fallback": True, "num_threads": 1,
        "normalization_rule_name": "identity", "remove_extra_whitespaces": False,
        "hard_vocab_limit": False, "minloglevel": 2, **options,
    }  # fmt: skip
    library.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), **wanted
    )
    return library.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@pytest.mark.llamacpp
@pytest.mark.parametrize("prefix", [True, False])
async def test_a_sentencepiece_file_gives_the_librarys_own_tokens(
    prefix: bool, tmp_path: Path, session_settings: Settings, machine: Machine
) -> None:
    reference = trained(tmp_path / "m", add_dummy_prefix=prefix)
    weights(tmp_path / "m", SIZE)
    mine = await tokens(tmp_path / "m", session_settings, machine)
    expected = [reference.encode(text) for text in TEXTS]
    assert dict(zip(TEXTS, mine, strict=True)) == dict(zip(TEXTS, expected, strict=True))


def document(prefix: str) -> Any:
    """As the hub holds such tokenizers: joined pairs, and bytes for what is unknown."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers

    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    steps: list[Any] = [normalizers.Replace(" ", "\u2581")]
    if prefix:
        steps.insert(0, normalizers.Prepend("\u2581"))
    made.normalizer = normalizers.Sequence(steps)
    made.decoder = decoders.Replace("\u2581", " ")
    special = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE, special_tokens=special, show_progress=False, max_token_length=16
    )
    made.train_from_iterator(CORPUS, trainer)
    state = json.loads(made.to_str())
    # Bytes are tokens of the vocabulary, not added ones that text could name.
    state["added_tokens"] = state["added_tokens"][:3]
    made = Tokenizer.from_str(json.dumps(state))
    made.add_tokens([AddedToken("[INST]", normalized=False)])
    return made


@pytest.mark.llamacpp
@pytest.mark.parametrize("prefix", ["llama", ""])
async def test_a_tokenizer_json_that_falls_back_to_bytes_gives_the_same_tokens(
    prefix: str, tmp_path: Path, session_settings: Settings, machine: Machine
) -> None:
    reference = document(prefix)
    reference.save(str(tmp_path / "tokenizer.json"))
    weights(tmp_path, reference.get_vocab_size())
    mine = await tokens(tmp_path, session_settings, machine)
    plain = [text for text in TEXTS if "<s>" not in text]
    expected = {text: reference.encode(text, add_special_tokens=False).ids for text in plain}
    found = dict(zip(TEXTS, mine, strict=True))
    assert {text: found[text] for text in plain} == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_type": "unigram", "vocab_size": 330}, "not made of byte pairs"),
        ({"normalization_rule_name": "nmt_nfkc"}, "rewrites text"),
        ({"remove_extra_whitespaces": True}, "rewrites text"),
    ],
)
def test_what_llama_cpp_would_cut_otherwise_is_refused(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    trained(tmp_path / "m", **options)
    weights(tmp_path / "m", SIZE)
    with pytest.raises(Refused, match=message):
        list(convert.write(tmp_path / "m", tmp_path / "x.gguf"))


@pytest.mark.parametrize("raw", [b"", b"\x00", b"hello world", b"\x0a\xff", b"<html>"])
def test_a_file_that_is_no_sentencepiece_model_is_named(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(raw)
    with pytest.raises(ModelBroken, match=r"tokenizer\.model is no SentencePiece model"):
        sentencepiece.read(tmp_path / "tokenizer.model")
