"""A SentencePiece vocabulary as GGUF metadata, from `tokenizer.model` or `tokenizer.json`.

llama.cpp joins the pair whose piece has the highest score; the order in which a tokenizer
joins its pairs is such a score.
"""

import json
from pathlib import Path
from typing import Any

from vllama.store import sentencepiece
from vllama.store.errors import Refused

_SPACE = "\u2581"


def add_file(writer: Any, folder: Path, config: dict[str, Any]) -> dict[str, int]:
    """Write the vocabulary of `tokenizer.model`; its special tokens by name.

    Raises:
        Refused: of another kind than byte pairs, or one that rewrites text.
    """
    found = sentencepiece.read(folder / "tokenizer.model")
    if found.model_type != sentencepiece.BPE:
        raise Refused("a SentencePiece model that is not made of byte pairs is not known here")
    if not found.is_plain:
        raise Refused("a SentencePiece model that rewrites text is not known here")
    tokens = [*found.pieces]
    for content, number, is_special in _added(folder):
        if number == len(tokens):
            tokens.append((content, 0.0, 3 if is_special else 4))
    _write(writer, tokens, found.adds_prefix, config)
    return found.specials


def add_document(writer: Any, document: dict[str, Any], config: dict[str, Any]) -> None:
    """Write the vocabulary of a `tokenizer.json` that falls back to bytes.

    Raises:
        Refused: it does more to text than marking its spaces.
    """
    model = document["model"]
    adds_prefix = _marks_spaces(document)
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        pair = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault("".join(pair), rank)
    added = {int(entry["id"]): entry for entry in document.get("added_tokens") or ()}
    by_number = {number: token for token, number in model["vocab"].items()}
    tokens = []
    for number in range(max([*by_number, *added]) + 1):
        entry = added.get(number)
        if entry is not None:
            is_unknown = entry["content"] == model.get("unk_token")
            kind = 2 if is_unknown else 3 if entry["special"] else 4
            tokens.append((entry["content"], 0.0, kind))
        else:
            token = by_number.get(number, f"[PAD{number}]")
            tokens.append((token, -float(ranks.get(token, len(ranks))), _kind(token, by_number)))
    _write(writer, tokens, adds_prefix, config)


def _kind(token: str, by_number: dict[int, str]) -> int:
    if token.startswith("[PAD") and token not in by_number.values():
        return 5
    return 6 if len(token) == 6 and token.startswith("<0x") and token.endswith(">") else 1


def _marks_spaces(document: dict[str, Any]) -> bool:
    """Whether a space is put in front; all else but marking spaces is refused."""
    normalizer = document.get("normalizer") or {}
    steps = normalizer.get("normalizers") or ([normalizer] if normalizer else [])
    splits = document.get("pre_tokenizer") or {}
    prepends = False
    for step in steps:
        if step.get("type") == "Prepend" and step.get("prepend") == _SPACE:
            prepends = True
        elif step.get("type") != "Replace" or step.get("content") != _SPACE:
            raise Refused(f"a tokenizer that rewrites text by {step.get('type')} is not known here")
    if splits.get("type") == "Metaspace" and not splits.get("split"):
        return prepends or splits.get("prepend_scheme", "always") != "never"
    # Gemma cuts at spaces after it has replaced them all: nothing is cut.
    if splits and not (splits.get("type") == "Split" and splits["pattern"] == {"String": " "}):
        raise Refused(f"a tokenizer that cuts text by {splits.get('type')} is not known here")
    return prepends


def _write(
    writer: Any, tokens: list[tuple[str, float, int]], adds_prefix: bool, config: dict[str, Any]
) -> None:
    size = int(config["vocab_size"])
    filled = tokens + [(f"[PAD{n}]", -1e4, 5) for n in range(len(tokens), size)]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token for token, _, _ in filled[:size]])
    writer.add_token_scores([score for _, score, _ in filled[:size]])
    writer.add_token_types([kind for _, _, kind in filled[:size]])
    writer.add_add_space_prefix(adds_prefix)


def _added(folder: Path) -> list[tuple[str, int, bool]]:
    """Tokens that were added to the vocabulary afterwards, in order."""
    path = folder / "added_tokens.json"
    if not path.is_file():
        return []
    listed = json.loads(path.read_text("utf-8")).items()
    return sorted(((str(t), int(n), False) for t, n in listed), key=lambda entry: entry[1])
