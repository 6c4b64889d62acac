"""From uploaded blobs to the layers of a model: GGUF files, safetensors folders, adapters."""

import asyncio
import hashlib
import re
import struct
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from vllama import gguf
from vllama.settings import Settings
from vllama.store import catalogue, convert, materialise, names, quantize
from vllama.store.blobs import Blobs, check_space
from vllama.store.errors import Refused
from vllama.store.layout import find_blob, hex_of, ours
from vllama.store.manifest import FILE, SOURCE, Layer, blob, media_type

Status: TypeAlias = dict[str, Any]
_NO_DIGEST = "0000000000000000000"
# What is quicker than this shows no progress, as in Ollama.
_TICK_S = 0.5
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.I)


async def model(
    files: Mapping[str, str], settings: Settings, layers: list[Layer], config: dict[str, Any]
) -> AsyncGenerator[Status, None]:
    """Add the layers of the model that these files make up."""
    ggufs = [path for path in files if path.lower().endswith(".gguf")]
    if ggufs and all(_SHARD.search(path) for path in ggufs):
        yield {"status": "parsing GGUF"}
        layers += [_layer(FILE, path, files[path], settings) for path in sorted(ggufs)]
        config |= {"model_format": "gguf"}
    elif ggufs:
        for path in ggufs:
            yield {"status": "parsing GGUF"}
            layers.append(_gguf_layer(files[path], settings, config))
    elif any(path.endswith(".safetensors") for path in files):
        yield {"status": "converting model"}
        if not any(path.rpartition("/")[2] == "config.json" for path in files):
            raise Refused("config.json is missing among the files", 400)
        layers += [_layer(FILE, path, files[path], settings) for path in sorted(files)]
        config |= {"model_format": "safetensors"}
    else:
        raise Refused("unknown type")


async def adapter(
    files: Mapping[str, str], layers: list[Layer], settings: Settings
) -> AsyncGenerator[Status, None]:
    """Add a LoRA adapter: one GGUF file, or the files of a folder in peft's layout."""
    ggufs = [path for path in files if path.lower().endswith(".gguf")]
    if len(ggufs) > 1:
        raise Refused("only one adapter is currently supported")
    if not ggufs and not any(path.endswith(".safetensors") for path in files):
        raise Refused("unknown type")
    layers[:] = [layer for layer in layers if layer.kind != "adapter"]
    if ggufs:
        yield {"status": "parsing GGUF"}
        _header(_path(files[ggufs[0]], settings))
        layers.append(_layer(media_type("adapter"), "", files[ggufs[0]], settings))
        return
    yield {"status": "converting adapter"}
    if not any(path.rpartition("/")[2] == "adapter_config.json" for path in files):
        raise Refused("adapter_config.json is missing among the files", 400)
    layers += [_layer(media_type("adapter"), p, files[p], settings) for p in sorted(files)]


async def drafter(
    files: Mapping[str, str], wanted: str, layers: list[Layer], settings: Settings
) -> AsyncGenerator[Status, None]:
    """Add the small model that guesses ahead for the large one: one GGUF file."""
    ggufs = [path for path in files if path.lower().endswith(".gguf")]
    if len(ggufs) != 1:
        raise Refused("a draft model must be one GGUF file")
    yield {"status": "parsing GGUF"}
    _header(_path(files[ggufs[0]], settings))
    own = [_layer(media_type("model"), "", files[ggufs[0]], settings)]
    if wanted:
        async with aclosing(quantized(own, {}, wanted, settings)) as statuses:
            async for status in statuses:
                yield status
    layers[:] = [layer for layer in layers if layer.kind != "draft"]
    layers.append(replace(own[0], media=media_type("draft")))


async def quantized(
    layers: list[Layer], config: dict[str, Any], wanted: str, settings: Settings
) -> AsyncGenerator[Status, None]:
    """Replace the weights by smaller ones; a safetensors folder becomes a GGUF file first."""
    at = next((i for i, layer in enumerate(layers) if layer.kind == "model"), None)
    is_converted = at is None
    if at is None:
        async with aclosing(_converted(layers, config, wanted, settings)) as statuses:
            async for status in statuses:
                yield status
        at = next(i for i, layer in enumerate(layers) if layer.kind == "model")
        if config["file_type"] == wanted.upper():
            return
    source = blob(layers[at], settings)
    kind = quantize.check(source, wanted)
    text = f"quantizing {quantize.current(source)} model to {kind}"

    def work(path: Path) -> Iterator[tuple[int, int]]:
        return quantize.quantize(source, path, kind)

    async with aclosing(_written(work, text, layers[at].size, settings)) as steps:
        async for step in steps:
            if isinstance(step, Layer):
                old, layers[at] = layers[at], step
                Blobs(settings).prune([old.digest] if is_converted else [])
            else:
                yield step
    config["file_type"] = kind


async def _converted(
    layers: list[Layer], config: dict[str, Any], wanted: str, settings: Settings
) -> AsyncGenerator[Status]:
    """The folder's weights as one GGUF file, of the type that was asked for if that is plain."""
    folder = _folder(layers, settings)
    plain = wanted.upper() if wanted.upper() in ("F32", "F16", "BF16") else "F16"
    size = sum(p.stat().st_size for p in folder.glob("*.safetensors"))

    def work(path: Path) -> Iterator[tuple[int, int]]:
        return convert.write(folder, path, plain)

    yield {"status": "converting model"}
    async with aclosing(_written(work, "converting model", size, settings)) as steps:
        async for step in steps:
            if isinstance(step, Layer):
                kept = [x for x in layers if x.media not in (FILE, SOURCE)]
                layers[:] = [_gguf_layer(step.digest, settings, config), *kept]
            else:
                yield step


async def _written(
    work: Callable[[Path], Iterator[tuple[int, int]]], text: str, size: int, settings: Settings
) -> AsyncGenerator[Status | Layer]:
    """How `work` goes on a file of its own, and at the end that file as a layer."""
    # Beside the new file lies a passing one of the same size.
    check_space(ours(settings).path, 2 * size)
    with Blobs(settings).beside() as upload:
        upload.file.close()
        told_at, steps = time.monotonic(), work(upload.path)
        while (step := await asyncio.to_thread(next, steps, None)) is not None:
            if time.monotonic() - told_at > _TICK_S:
                told_at = time.monotonic()
                yield {"status": text, "digest": _NO_DIGEST, "total": step[1], "completed": step[0]}
        yield {"status": "verifying conversion"}
        digest = await asyncio.to_thread(upload.keep_written)
    yield Layer(media_type("model"), digest, ours(settings).blob(digest).stat().st_size)


def _folder(layers: list[Layer], settings: Settings) -> Path:
    """The safetensors folder that these layers hold or name."""
    files = [layer for layer in layers if layer.media == FILE]
    if any(layer.name.endswith(".safetensors") for layer in files):
        key = hashlib.sha256("".join(layer.digest + layer.name for layer in files).encode())
        return materialise.folder(key.hexdigest(), files, settings)
    source = next((layer for layer in layers if layer.media == SOURCE), None)
    if source is not None:
        model = names.resolve(materialise.reference(source, settings), settings)
        if model.safetensors is not None:
            return model.safetensors
    raise Refused("quantization is only supported for F16, BF16 and F32 models", 500)


def digest(data: bytes) -> str:
    """The name that these bytes have as a blob."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _gguf_layer(digest: str, settings: Settings, config: dict[str, Any]) -> Layer:
    path = _path(digest, settings)
    metadata = _header(path).metadata
    family = str(metadata.get("general.architecture", "unknown"))
    if family == "clip" or metadata.get("general.type") == "mmproj":
        return _layer(media_type("projector"), "", digest, settings)
    if metadata.get("general.type") == "adapter":
        return _layer(media_type("adapter"), "", digest, settings)
    parameters = sum(t.elements for t in gguf.read(path).tensors)
    config |= {
        "model_format": "gguf",
        "model_family": family,
        "model_families": [family],
        "model_type": catalogue.parameter_size(parameters),
        "file_type": gguf.FILE_TYPES.get(metadata.get("general.file_type", -1), "unknown"),
    }
    return _layer(media_type("model"), "", digest, settings)


def _header(path: Path) -> gguf.Header:
    with path.open("rb") as file:
        magic = file.read(8)
    if len(magic) < 8 or magic[:4] != gguf.MAGIC or struct.unpack("<I", magic[4:])[0] > 1 << 16:
        raise Refused("supplied file was not in GGUF format")
    return gguf.read(path)


def _layer(media: str, name: str, digest: str, settings: Settings) -> Layer:
    path = _path(digest, settings)
    return Layer(media, f"sha256:{hex_of(digest)}", path.stat().st_size, name)


def _path(digest: str, settings: Settings) -> Path:
    path = find_blob(digest, settings)
    if path is None:
        missing = ours(settings).blob(digest)
        raise Refused(f"open {missing}: no such file or directory", 500)
    return path
