"""Making a GGUF file smaller, with what the `gguf` package can do by itself."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllama import gguf as header
from vllama.store.errors import Refused

SUPPORTED = ("F32", "F16", "Q4_K_S", "Q4_K_M", "Q8_0")
_POSSIBLE = ("F32", "F16", "BF16", "Q8_0")
_SOURCES = frozenset({"F32", "F16", "BF16"})


def check(path: Path, wanted: str) -> str:
    """The type to quantise to, in capitals.

    Raises:
        Refused: Ollama knows no such type, it cannot be made here, or the file has too few bits.
    """
    kind = wanted.upper()
    if kind not in (*SUPPORTED, "BF16", "Q4_K"):
        listed = ", ".join(SUPPORTED)
        raise Refused(f"unsupported quantization type {kind} - supported types are {listed}", 500)
    if current(path) not in _SOURCES:
        raise Refused("quantization is only supported for F16, BF16 and F32 models", 500)
    if kind not in _POSSIBLE:
        raise Refused(
            f"{kind} needs llama.cpp's own llama-quantize, and its Python wheel has none", 500,
            f"Use Q8_0, or run: llama-quantize {path} model.gguf {kind}, and create from that.",
        )  # fmt: skip
    return kind


def current(path: Path) -> str:
    """The type that most of a file's weights have."""
    return header.FILE_TYPES.get(header.read(path).metadata.get("general.file_type", -1), "unknown")


def quantize(source: Path, target: Path, kind: str) -> Iterator[tuple[int, int]]:
    """Write `target`; bytes done and to do, after each tensor. Vectors keep their precision."""
    import gguf

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, str(_text(reader, "general.architecture")))
    for name, fields in reader.fields.items():
        if name in ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture",
                    "general.file_type", "general.quantization_version"):  # fmt: skip
            continue
        _copy_field(writer, name, fields, gguf)
    writer.add_file_type(gguf.LlamaFileType[f"{'ALL' if kind == 'F32' else 'MOSTLY'}_{kind}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    done, total = 0, sum(int(t.n_bytes) for t in reader.tensors)
    for tensor in reader.tensors:
        data, data_type = _converted(tensor, kind, gguf)
        writer.add_tensor(tensor.name, data, raw_dtype=data_type)
        done += int(tensor.n_bytes)
        yield done, total
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _converted(tensor: Any, kind: str, gguf: Any) -> tuple[Any, Any]:
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    small = len(tensor.shape) < 2 or values.shape[-1] % 32
    wanted = gguf.GGMLQuantizationType["F32" if small else kind]
    return gguf.quants.quantize(values, wanted), wanted


def _copy_field(writer: Any, name: str, field: Any, gguf: Any) -> None:
    kind = field.types[0]
    sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
    writer.add_key_value(name, field.contents(), kind, sub_type=sub)


def _text(reader: Any, name: str) -> Any:
    return reader.fields[name].contents()
