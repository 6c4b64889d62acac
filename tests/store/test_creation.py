"""Models are made out of models and of uploaded files, all or nothing."""

import asyncio
import hashlib
import json
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.store.shelves import put_in_hub_cache, put_model
from vllama import gguf, store
from vllama.errors import ModelNotFound, StorageError
from vllama.settings import Settings
from vllama.store import catalogue, changes, creation, details
from vllama.store.blobs import Blobs, DigestMismatch
from vllama.store.errors import Refused
from vllama.store.layout import InvalidDigest
from vllama.store.manifest import entries
from vllama.toy import adapter as toy_adapter

GO = "{{ .System }} USER {{ .Prompt }} BOT "


async def statuses(request: dict[str, Any], settings: Settings) -> list[str]:
    return [s["status"] async for s in creation.create(request, settings)]


async def pieces(*data: bytes) -> AsyncIterator[bytes]:
    for each in data:
        yield each


@pytest.fixture
def tiny(toy: Path, settings: Settings) -> str:
    layers = [
        ("model", (toy / "toy-f16.gguf").read_bytes()),
        ("template", b"{{ .Prompt }}"),
        ("params", b'{"stop":["a"],"top_k":3}'),
    ]
    put_model(settings.home / "models", "tiny", layers, {"model_format": "gguf"})
    return "tiny"


def upload(path: Path, settings: Settings) -> str:
    digest = Blobs(settings).add_file(path)
    assert Blobs(settings).has(digest)
    return digest


def uploaded(folder: Path, settings: Settings) -> dict[str, str]:
    paths = [p for p in sorted(folder.glob("*")) if p.is_file() and p.suffix != ".gguf"]
    return {p.name: upload(p, settings) for p in paths}


async def test_a_model_is_derived_with_ollamas_statuses(tiny: str, settings: Settings) -> None:
    told = await statuses(
        {
            "model": "made",
            "from": "TINY",
            "system": "You are brief.",
            "parameters": {"temperature": 0.1, "num_predict": 5, "stop": ["\n", "END"]},
            "template": GO,
            "license": "MIT",
            "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}],
        },
        settings,
    )
    assert [s.rpartition(" ")[0] for s in told[:-2]] == [
        "using existing layer",
        *["creating new layer"] * 5,
    ]
    assert told[-2:] == ["writing manifest", "success"]
    card = catalogue.card("made", settings)
    assert (card.parent_model, card.system, card.template) == ("tiny:latest", "You are brief.", GO)
    assert card.parameters == {"stop": ["\n", "END"], "top_k": 3, "temperature": 0.1,
                               "num_predict": 5}  # fmt: skip
    assert card.model.gguf == store.resolve("tiny", settings).gguf


async def test_what_is_not_given_is_inherited(tiny: str, settings: Settings) -> None:
    await statuses({"model": "a", "from": "tiny", "system": "s", "license": ["L"]}, settings)
    await statuses({"model": "b", "from": "a", "parameters": {"seed": 1}}, settings)
    card = catalogue.card("b", settings)
    assert (card.system, card.licenses, card.template) == ("s", ("L",), "{{ .Prompt }}")
    assert card.parameters == {"stop": ["a"], "top_k": 3, "seed": 1}
    assert card.parent_model == "a:latest"


async def test_a_base_in_the_hubs_cache_stays_there(toy: Path, settings: Settings) -> None:
    put_in_hub_cache(settings.hub_cache, "owner/Toy", toy)
    await statuses({"model": "mine", "from": "owner/Toy", "system": "s"}, settings)
    model = store.resolve("mine", settings)
    assert model.name == "mine"
    assert model.safetensors is not None
    assert model.safetensors.is_relative_to(settings.hub_cache)
    card = catalogue.card("mine", settings)
    assert (card.system, card.format, card.parent_model) == ("s", "safetensors", "owner/Toy:latest")
    assert sum(p.stat().st_size for p in (settings.home / "models" / "blobs").iterdir()) < 2000


async def test_a_gguf_file_becomes_a_model(toy: Path, settings: Settings) -> None:
    digest = upload(toy / "toy-q8_0.gguf", settings)
    told = await statuses({"model": "m", "files": {"toy.gguf": digest}}, settings)
    assert told[0] == "parsing GGUF"
    card = catalogue.card("m", settings)
    assert (card.quantization_level, card.family, card.format) == ("Q8_0", "qwen2", "gguf")


async def test_a_safetensors_folder_becomes_a_model(toy: Path, settings: Settings) -> None:
    files = uploaded(toy, settings)
    told = await statuses({"model": "m", "files": files}, settings)
    assert told[0] == "converting model"
    model = store.resolve("m", settings)
    assert model.safetensors is not None
    assert model.shape.parameters == store.resolve(str(toy), settings).shape.parameters
    assert catalogue.card("m", settings).template_kind == "jinja"


async def test_an_adapter_is_kept_with_its_base(
    tiny: str, toy: Path, settings: Settings, tmp_path: Path
) -> None:
    folder = toy_adapter.make(tmp_path / "lora", toy)
    files = uploaded(folder, settings)
    await statuses({"model": "tuned", "from": "tiny", "adapters": files}, settings)
    found = catalogue.card("tuned", settings).adapter
    assert found is not None
    assert json.loads((found / "adapter_config.json").read_text())["r"] == 8
    gguf_file = upload(folder / "adapter.gguf", settings)
    await statuses({"model": "g", "from": "tiny", "adapters": {"a.gguf": gguf_file}}, settings)
    assert catalogue.card("g", settings).adapter == Blobs(settings).root.blob(gguf_file)


async def test_weights_are_quantised_to_what_dequantises_to_nearly_the_same(
    tiny: str, settings: Settings
) -> None:
    import gguf as library
    import numpy as np

    told = await statuses({"model": "small", "from": "tiny", "quantize": "q8_0"}, settings)
    assert "verifying conversion" in told
    small, large = store.resolve("small", settings), store.resolve("tiny", settings)
    assert small.shape.quantization == "Q8_0"
    assert small.shape.weight_bytes < 0.6 * large.shape.weight_bytes
    assert small.gguf is not None
    assert large.gguf is not None
    assert gguf.read(small.gguf, lists=True).metadata.keys() >= gguf.read(
        large.gguf, lists=True
    ).metadata.keys() - {"general.file_type"}
    pairs = zip(
        *(sorted(library.GGUFReader(p).tensors, key=lambda t: t.name)
          for p in (small.gguf, large.gguf)),
        strict=True,
    )  # fmt: skip
    for mine, theirs in pairs:
        one, two = (library.quants.dequantize(t.data, t.tensor_type) for t in (mine, theirs))
        assert np.abs(one - two).max() <= 0.01 * max(np.abs(two).max(), 1e-6)


@pytest.mark.parametrize("kind", ["F16", "Q4_K_M"])
async def test_a_safetensors_base_is_converted_when_it_is_quantised(
    kind: str, toy: Path, settings: Settings
) -> None:
    put_in_hub_cache(settings.hub_cache, "owner/Toy", toy)
    request = {"model": "small", "from": "owner/Toy", "quantize": kind, "system": "s"}
    told = await statuses(request, settings)
    assert told[0] == "converting model"
    card = catalogue.card("small", settings)
    assert (card.format, card.quantization_level, card.system) == ("gguf", kind, "s")
    assert card.parent_model == ""  # what was quantised stands for itself, as in Ollama
    assert card.template == catalogue.card("owner/Toy", settings).template
    files = uploaded(toy, settings)
    await statuses({"model": "f", "files": files, "quantize": kind}, settings)
    assert catalogue.card("f", settings).quantization_level == kind


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ({"from": "tiny"}, 400, "invalid model name"),
        ({"model": "a b/c", "from": "tiny"}, 400, "invalid model name"),
        ({"model": "../x", "from": "tiny"}, 400, "invalid model name"),
        ({"model": "x"}, 400, "neither 'from' or 'files' was specified"),
        ({"model": "x", "files": {}}, 400, "unknown type"),
        ({"model": "x", "files": {"a.txt": "sha256:" + "0" * 64}}, 400, "unknown type"),
        ({"model": "x", "files": {"/etc/passwd": "sha256:" + "0" * 64}}, 400,
         "file path must be relative"),
        ({"model": "x", "files": {"../m.gguf": "sha256:" + "0" * 64}}, 400,
         "file path must be relative"),
        ({"model": "x", "files": {"a\\..\\m.gguf": "sha256:" + "0" * 64}}, 400,
         "file path must be relative"),
        ({"model": "x", "files": {"C:/m.gguf": "sha256:" + "0" * 64}}, 400,
         "file path must be relative"),
        ({"model": "x", "files": {"m.gguf": "sha256:zz"}}, 500, "invalid digest format"),
        ({"model": "x", "files": {"m.gguf": "sha256:../../../../etc/passwd"}}, 500,
         "invalid digest format"),
        ({"model": "x", "from": "tiny", "template": "{{ .Foo"}, 400,
         "template error: template: :1: unclosed action"),
        ({"model": "x", "from": "tiny", "license": 5}, 500,
         "json: cannot unmarshal number into Go value of type []string"),
        ({"model": "x", "from": "tiny", "quantize": "q1_zz"}, 500,
         "unsupported quantization type Q1_ZZ - supported types are F32, F16, Q4_K_S, Q4_K_M, "
         "Q8_0"),
        ({"model": "x", "from": "tiny", "adapters": {"a.gguf": "sha256:" + "0" * 64,
                                                     "b.gguf": "sha256:" + "0" * 64}}, 400,
         "only one adapter is currently supported"),
    ],
)  # fmt: skip
async def test_what_is_refused_is_refused_in_ollamas_words(
    request_: dict[str, Any], status: int, message: str, tiny: str, settings: Settings
) -> None:
    with pytest.raises(Refused) as caught:
        await statuses(request_, settings)
    assert (caught.value.status, caught.value.message) == (status, message)
    assert [e.name.shown for e in entries(settings)] == ["tiny:latest"]


async def test_odd_parameters_are_accepted_silently(tiny: str, settings: Settings) -> None:
    odd = {"temperature": "hot", "frob": 1}
    assert (await statuses({"model": "x", "from": "tiny", "parameters": odd}, settings))[-1] == (
        "success"
    )


async def test_a_missing_blob_or_a_file_that_is_no_gguf_is_named(settings: Settings) -> None:
    missing = "sha256:" + "0" * 64
    with pytest.raises(Refused, match=r"^open .*/blobs/sha256-0{64}: no such file or directory"):
        await statuses({"model": "x", "files": {"m.gguf": missing}}, settings)
    digest = Blobs(settings).add(b"hello blob")
    with pytest.raises(Refused, match=r"^supplied file was not in GGUF format"):
        await statuses({"model": "x", "files": {"m.gguf": digest}}, settings)


async def test_quantising_what_is_small_already_is_refused(toy: Path, settings: Settings) -> None:
    digest = upload(toy / "toy-q8_0.gguf", settings)
    with pytest.raises(Refused, match="only supported for F16, BF16 and F32") as caught:
        await statuses({"model": "x", "files": {"m.gguf": digest}, "quantize": "F16"}, settings)
    assert caught.value.status == 500


async def test_blobs_come_whole_or_not_at_all(settings: Settings) -> None:
    blobs = Blobs(settings)
    good = "sha256:" + hashlib.sha256(b"hello blob").hexdigest()
    assert not blobs.has(good)
    assert await blobs.put(good, pieces(b"hello", b" blob"))
    assert blobs.has(good)
    assert not await blobs.put(good.replace(":", "-"), pieces())
    wrong = "sha256:" + "1" * 64
    with pytest.raises(DigestMismatch) as caught:
        await blobs.put(wrong, pieces(b"hello blob"))
    assert caught.value.message == f'digest mismatch, expected "{wrong}", got "{good}"'
    for bad in ("sha256:zz", "../x", "md5:" + "0" * 64, ""):
        with pytest.raises(InvalidDigest, match="invalid digest format"):
            blobs.has(bad)
    assert [p.name for p in (blobs.root.path / "blobs").iterdir()] == [good.replace(":", "-")]


async def test_an_upload_that_breaks_off_leaves_nothing(settings: Settings) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await Blobs(settings).put("sha256:" + "1" * 64, broken())
    assert list((settings.home / "models" / "blobs").iterdir()) == []


async def test_a_full_disk_leaves_no_model(
    tiny: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        await statuses({"model": "x", "from": "tiny", "system": "s"}, settings)
    with pytest.raises(ModelNotFound):
        store.resolve("x", settings)
    assert not list((settings.home / "models" / "blobs").glob(".upload-*"))


async def test_two_creates_of_one_name_leave_one_whole_model(tiny: str, settings: Settings) -> None:
    requests = [
        {"model": "x", "from": "tiny", "system": f"number {n}", "parameters": {"seed": n}}
        for n in range(8)
    ]
    await asyncio.gather(*(statuses(r, settings) for r in requests))
    card = catalogue.card("x", settings)
    assert card.system == f"number {card.parameters['seed']}"


def test_a_copy_shares_its_blobs_and_a_delete_spares_them(tiny: str, settings: Settings) -> None:
    blobs = settings.home / "models" / "blobs"
    before = sorted(blobs.iterdir())
    changes.copy("tiny", "me/copied:v1", settings)
    assert sorted(blobs.iterdir()) == before
    assert catalogue.card("me/copied:v1", settings).digest == (
        catalogue.card("tiny", settings).digest
    )
    changes.delete("tiny", settings)
    assert store.resolve("me/copied:v1", settings).gguf is not None
    changes.delete("ME/Copied:v1", settings)
    assert list(blobs.iterdir()) == []
    assert list(entries(settings)) == []


@pytest.mark.parametrize(
    ("source", "destination", "status", "message"),
    [
        ("", "", 400, 'source "" is invalid'),
        ("tiny", "a b", 400, 'destination "a b" is invalid'),
        ("tiny", "../../x", 400, 'destination "../../x" is invalid'),
        ("nope", "x", 404, 'model "nope" not found'),
    ],
)
def test_a_copy_is_refused_in_ollamas_words(
    source: str, destination: str, status: int, message: str, tiny: str, settings: Settings
) -> None:
    with pytest.raises(Refused) as caught:
        changes.copy(source, destination, settings)
    assert (caught.value.status, caught.value.message) == (status, message)


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [("a b", 400, 'name "a b" is invalid'), ("copied", 404, "model 'copied' not found"),
     ("../manifests", 400, 'name "../manifests" is invalid')],
)  # fmt: skip
def test_a_delete_is_refused_in_ollamas_words(
    name: str, status: int, message: str, tiny: str, settings: Settings
) -> None:
    with pytest.raises(Refused) as caught:
        changes.delete(name, settings)
    assert (caught.value.status, caught.value.message) == (status, message)


def test_ollamas_own_store_is_never_changed(toy: Path, settings: Settings) -> None:
    put_model(settings.ollama_models, "tiny", [("model", (toy / "toy-q8_0.gguf").read_bytes())])
    before = {p: p.stat().st_mtime_ns for p in settings.ollama_models.rglob("*")}
    changes.copy("tiny", "mine", settings)
    with pytest.raises(Refused, match="belongs to Ollama's store"):
        changes.delete("tiny", settings)
    changes.delete("mine", settings)
    assert {p: p.stat().st_mtime_ns for p in settings.ollama_models.rglob("*")} == before
    assert store.resolve("tiny", settings).gguf is not None


def test_a_copy_of_an_ollama_model_outlives_it(toy: Path, settings: Settings) -> None:
    put_model(settings.ollama_models, "tiny", [("model", (toy / "toy-q8_0.gguf").read_bytes())])
    changes.copy("tiny", "mine", settings)
    for path in [p for p in settings.ollama_models.rglob("*") if p.is_file()]:
        path.unlink()
    assert store.resolve("mine", settings).shape.quantization == "Q8_0"


def test_a_file_map_that_leads_out_of_its_folder_writes_nothing(
    toy: Path, settings: Settings, tmp_path: Path
) -> None:
    blobs = Blobs(settings)
    root = settings.home / "models"
    put_model(root, "zip", [("license", b"x")])
    path = next((root / "manifests").rglob("latest"))
    document = json.loads(path.read_text())
    digest = blobs.add((toy / "config.json").read_bytes())
    document["layers"] = [
        {"mediaType": "application/vnd.vllama.image.file", "digest": digest, "size":
         (toy / "config.json").stat().st_size, "name": "../../../../escaped.json"}
    ]  # fmt: skip
    path.write_text(json.dumps(document))
    with pytest.raises(Exception, match="would leave its folder"):
        store.resolve("zip", settings)
    assert not list(tmp_path.rglob("escaped.json"))


async def test_a_split_gguf_is_kept_together(toy: Path, settings: Settings, tmp_path: Path) -> None:
    raw = (toy / "toy-q8_0.gguf").read_bytes()
    second = tmp_path / "s-00002-of-00002.gguf"
    second.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    first = tmp_path / "s-00001-of-00002.gguf"
    first.write_bytes(raw)
    files = {p.name: upload(p, settings) for p in (first, second)}
    await statuses({"model": "s", "files": files}, settings)
    model = store.resolve("s", settings)
    assert model.gguf is not None
    assert model.gguf.name == first.name
    assert details.tensors(catalogue.card("s", settings))
