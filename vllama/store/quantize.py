"""Making a GGUF file smaller, in the types that Ollama offers."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllama import gguf as header
from vllama.store import kquants
from vllama.store.errors import Refused

SUPPORTED = ("F32", "F16", "Q4_K_S", "Q4_K_M", "Q8_0")
_ALSO = {"BF16": "BF16", "Q4_K": "Q4_K_M"}
_SOURCES = frozenset({"F32", "F16", "BF16"})
# The tensors that Q4_K_M keeps finer in some layers, for they lose most.
_DELICATE = re.compile(r"blk\.(\d+)\.(attn_v|attn_qkv|ffn_down)\.weight")


def check(path: Path, wanted: str) -> str:
    """The type to quantise to, in capitals.

    Raises:
        Refused: Ollama knows no such type, or the file has too few bits to begin with.
    """
    kind = _ALSO.get(wanted.upper(), wanted.upper())
    if kind not in SUPPORTED and kind not in _ALSO.values():
        listed = ", ".join(SUPPORTED)
        raise Refused(f"unsupported quantization type {kind} - supported types are {listed}", 500)
    if current(path) not in _SOURCES:
        raise Refused("quantization is only supported for F16, BF16 and F32 models", 500)
    return kind


def current(path: Path) -> str:
    """The type that most of a file's weights have."""
    return header.FILE_TYPES.get(header.read(path).metadata.get("general.file_type", -1), "unknown")


def quantize(source: Path, target: Path, kind: str) -> Iterator[tuple[int, int]]:
    """Write `target`; bytes done and to do, after each tensor. Vectors keep their precision."""
    import gguf

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, str(_text(reader, "general.architecture")), use_temp_file=True)
    for name, fields in reader.fields.items():
        if name in ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture",
                    "general.file_type", "general.quantization_version"):  # fmt: skip
            continue
        _copy_field(writer, name, fields, gguf)
    writer.add_file_type(gguf.LlamaFileType[f"{'ALL' if kind == 'F32' else 'MOSTLY'}_{kind}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    layers = int(reader.fields[f"{_text(reader, 'general.architecture')}.block_count"].contents())
    is_tied = all(t.name != "output.weight" for t in reader.tensors)
    done, total = 0, sum(int(t.n_bytes) for t in reader.tensors)
    for tensor in reader.tensors:
        shape = tuple(int(side) for side in reversed(tensor.shape))
        wanted = tensor_type(tensor.name, shape, kind, layers, is_tied)
        data, data_type = _converted(tensor, wanted, gguf)
        writer.add_tensor(tensor.name, data, raw_dtype=data_type)
        done += int(tensor.n_bytes)
        yield done, total
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensor_type(name: str, shape: tuple[int, ...], kind: str, layers: int, is_tied: bool) -> str:
    """The type of one tensor; `shape` is outermost first. Vectors keep their precision."""
    if len(shape) < 2 or shape[-1] % 32:
        return "F32"
    if not kind.startswith("Q4_K"):
        return kind
    if shape[-1] % kquants.BLOCK:
        return "Q8_0"
    if name == "output.weight" or (is_tied and name == "token_embd.weight"):
        return "Q6_K"
    match = _DELICATE.fullmatch(name)
    if kind == "Q4_K_M" and match is not None and _is_delicate(int(match[1]), layers):
        return "Q6_K"
    return "Q4_K"


def _is_delicate(layer: int, layers: int) -> bool:
    """The first and last eighth, and every third between: as llama.cpp spreads its bits."""
    edge = layers // 8
    return layer < edge or layer >= 7 * layers // 8 or (layer - edge) % 3 == 2


def _converted(tensor: Any, wanted: str, gguf: Any) -> tuple[Any, Any]:
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    own = {"Q4_K": kquants.q4_k, "Q6_K": kquants.q6_k}.get(wanted)
    kind = gguf.GGMLQuantizationType[wanted]
    return (own(values) if own is not None else gguf.quants.quantize(values, kind)), kind


def _copy_field(writer: Any, name: str, field: Any, gguf: Any) -> None:
    kind = field.types[0]
    sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
    writer.add_key_value(name, field.contents(), kind, sub_type=sub)


def _text(reader: Any, name: str) -> Any:
    return reader.fields[name].contents()
