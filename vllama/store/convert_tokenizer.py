"""A Hugging Face tokenizer as GGUF metadata: byte-level BPE, WordPiece and SentencePiece."""

import json
from pathlib import Path
from typing import Any

from vllama.store import chat_template, convert_pieces
from vllama.store.errors import Refused

# How a pre-tokeniser's pattern is recognised, and llama.cpp's name for it.
_SPLITS = {r"\p{N}{1,3}": "llama-bpe", r"\p{N}|": "qwen2"}
_CASELESS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"


def add(writer: Any, folder: Path, config: dict[str, Any]) -> None:
    """Write the vocabulary, the special tokens and the chat template.

    Raises:
        Refused: another kind of tokenizer.
    """
    settings = _settings(folder)
    if (folder / "tokenizer.json").is_file():
        document = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        _add_document(writer, document, config)
        _add_specials(writer, document, config, settings)
    elif (folder / "tokenizer.model").is_file():
        _add_numbers(writer, convert_pieces.add_file(writer, folder, config))
        writer.add_add_bos_token(bool(settings.get("add_bos_token", True)))
        writer.add_add_eos_token(bool(settings.get("add_eos_token", False)))
    else:
        raise Refused(f"{folder.name} has neither tokenizer.json nor tokenizer.model")
    template = chat_template.of_folder(folder)
    if template:
        writer.add_chat_template(template)


def _add_document(writer: Any, document: dict[str, Any], config: dict[str, Any]) -> None:
    kind = document["model"].get("type")
    if kind == "WordPiece":
        _add_word_pieces(writer, document, config)
    elif kind != "BPE":
        raise Refused(f"a tokenizer of kind {kind} is not known here")
    elif document["model"].get("byte_fallback"):
        convert_pieces.add_document(writer, document, config)
    else:
        _add_byte_pairs(writer, document, config)


def _add_numbers(writer: Any, specials: dict[str, int]) -> None:
    for name, number in specials.items():
        getattr(writer, f"add_{name}_token_id")(number)


def _add_byte_pairs(writer: Any, document: dict[str, Any], config: dict[str, Any]) -> None:
    tokens, types = _vocabulary(document, int(config["vocab_size"]))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_split(document))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = document["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])


def _add_word_pieces(writer: Any, document: dict[str, Any], config: dict[str, Any]) -> None:
    """llama.cpp wants a mark where a word begins, not where it goes on."""
    import gguf

    tokens, _ = _vocabulary(document, int(config["vocab_size"]))
    special = {t for t in tokens if t.startswith("[") and t.endswith("]")}
    plain = [t if t in special else t[2:] if t.startswith("##") else f"\u2581{t}" for t in tokens]
    kinds = gguf.TokenType
    types = [kinds.CONTROL if t in special else kinds.NORMAL for t in tokens]
    writer.add_tokenizer_model("bert")
    writer.add_token_list(plain)
    writer.add_token_types(types)
    writer.add_token_type_count(int(config.get("type_vocab_size") or 2))


def _vocabulary(document: dict[str, Any], size: int) -> tuple[list[str], list[Any]]:
    import gguf

    found = {number: token for token, number in document["model"]["vocab"].items()}
    added = {int(entry["id"]): entry for entry in document.get("added_tokens") or ()}
    tokens, types = [], []
    for number in range(size):
        entry = added.get(number)
        tokens.append(entry["content"] if entry else found.get(number, f"[PAD{number}]"))
        kind = gguf.TokenType.NORMAL if number in found else gguf.TokenType.UNUSED
        if entry:
            kind = gguf.TokenType.CONTROL if entry["special"] else gguf.TokenType.USER_DEFINED
        types.append(kind)
    return tokens, types


def _split(document: dict[str, Any]) -> str:
    """llama.cpp's name for how text is cut before pairs are joined."""
    parts = document.get("pre_tokenizer") or {}
    listed = parts.get("pretokenizers") or [parts]
    patterns = [p["pattern"].get("Regex", "") for p in listed if p.get("type") == "Split"]
    levels = [p for p in listed if p.get("type") == "ByteLevel"]
    if not patterns and levels and levels[0].get("use_regex", True):
        return "gpt-2"
    for mark, name in _SPLITS.items():
        if len(patterns) == 1 and mark in patterns[0] and patterns[0].startswith(_CASELESS):
            return name
    raise Refused(f"a tokenizer that cuts text by {patterns or parts} is not known here")


def _add_specials(
    writer: Any, document: dict[str, Any], config: dict[str, Any], settings: dict[str, Any]
) -> None:
    numbers = {entry["content"]: entry["id"] for entry in document.get("added_tokens") or ()}
    numbers = {**document["model"]["vocab"], **numbers}

    def number(name: str, key: str) -> int | None:
        token = settings.get(f"{name}_token")
        text = token.get("content") if isinstance(token, dict) else token
        found = numbers.get(text) if text is not None else config.get(key)
        return found[0] if isinstance(found, list) else found

    keys = {
        "bos": (writer.add_bos_token_id, "bos_token_id"),
        "eos": (writer.add_eos_token_id, "eos_token_id"),
        "pad": (writer.add_pad_token_id, "pad_token_id"),
        "unk": (writer.add_unk_token_id, "unk_token_id"),
        "sep": (writer.add_sep_token_id, "sep_token_id"),
        "mask": (writer.add_mask_token_id, "mask_token_id"),
    }
    for name, (write, key) in keys.items():
        found = number(name, key)
        if found is not None:
            write(int(found))
    if document["model"].get("type") == "WordPiece":
        # llama.cpp begins with BOS and ends with EOS where BERT has CLS and SEP.
        for word, write in (("cls", writer.add_bos_token_id), ("sep", writer.add_eos_token_id)):
            found = number(word, f"{word}_token_id")
            if found is not None and settings.get("bos_token") is None:
                write(int(found))
        # So it puts one SEP between a query and a document, and one at the end.
        writer.add_add_eos_token(True)
        writer.add_add_sep_token(False)
    else:
        writer.add_add_bos_token(_adds_bos(document, settings))


def _adds_bos(document: dict[str, Any], settings: dict[str, Any]) -> bool:
    """Whether the tokenizer puts a token in front by itself."""
    if settings.get("add_bos_token") is not None:
        return bool(settings["add_bos_token"])
    post = document.get("post_processor") or {}
    steps = post.get("processors") or [post]
    singles = [s.get("single") or [] for s in steps if s.get("type") == "TemplateProcessing"]
    return any(single and "SpecialToken" in single[0] for single in singles)


def _settings(folder: Path) -> dict[str, Any]:
    try:
        document = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
