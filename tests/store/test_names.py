"""A name leads to a model on this disk, or the error says which names are near."""

import shutil
from pathlib import Path

import pytest

from tests.store.shelves import put_in_hub_cache, put_model
from vllama import store
from vllama.errors import ModelBroken, ModelNotFound, UsageError
from vllama.settings import Settings
from vllama.store import catalogue, changes, names
from vllama.store.reference import InvalidName, Name


@pytest.mark.parametrize(
    ("text", "full", "shown"),
    [
        ("llama3", "registry.ollama.ai/library/llama3:latest", "llama3:latest"),
        ("llama3:8b", "registry.ollama.ai/library/llama3:8b", "llama3:8b"),
        ("me/m", "registry.ollama.ai/me/m:latest", "me/m:latest"),
        ("h.io/me/m:t", "h.io/me/m:t", "h.io/me/m:t"),
        ("localhost:5000/me/m", "localhost:5000/me/m:latest", "localhost:5000/me/m:latest"),
        ("hf.co/u/R-GGUF:Q4_K_M", "hf.co/u/R-GGUF:Q4_K_M", "hf.co/u/R-GGUF:Q4_K_M"),
        ("https://h.io/me/m", "h.io/me/m:latest", "h.io/me/m:latest"),
        ("registry.ollama.ai/library/x:y", "registry.ollama.ai/library/x:y", "x:y"),
    ],
)
def test_missing_parts_of_a_name_are_filled_in(text: str, full: str, shown: str) -> None:
    name = Name.parse(text)
    assert (name.full, name.shown) == (full, shown)


@pytest.mark.parametrize(
    "text",
    ["", "bad//name", "a b", "../x", "a/../b", "/etc/passwd", "a:b:c", "m:", ":t", "m\0", "é",
     "-m", ".m", "a/b/c/d", "n.s/m", "m" * 81, "m:" + "t" * 81, "n" * 81 + "/m", "a\\b", "~x"],
)  # fmt: skip
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidName):
        Name.parse(text)


def test_a_part_may_have_80_characters_and_a_host_350() -> None:
    assert Name.parse("h" * 350 + "/" + "n" * 80 + "/" + "m" * 80 + ":" + "t" * 80).is_valid
    with pytest.raises(InvalidName):
        Name.parse("h" * 351 + "/n/m")


def test_case_and_latest_do_not_count(toy: Path, settings: Settings) -> None:
    put_model(settings.home / "models", "Tiny", [("model", (toy / "toy-f16.gguf").read_bytes())])
    assert store.resolve("tiny", settings).name == "Tiny"
    assert store.resolve("TINY:LATEST", settings).gguf == store.resolve("tiny", settings).gguf
    assert names.same("tiny", "TINY:latest")
    assert not names.same("tiny", "tiny:v1")


def test_a_folder_a_file_a_home_model_and_the_hubs_cache_are_found(
    toy: Path, settings: Settings
) -> None:
    shutil.copytree(toy, settings.home / "models" / "mine")
    put_in_hub_cache(settings.hub_cache, "owner/Toy", toy)
    assert store.resolve(str(toy), settings).name == str(toy)
    assert store.resolve(str(toy / "toy-q8_0.gguf"), settings).shape.quantization == "Q8_0"
    assert store.resolve("mine:latest", settings).name == "mine"
    assert store.resolve("owner/Toy", settings).revision == "a" * 40
    assert store.resolve(f"owner/Toy@{'a' * 40}", settings).safetensors is not None
    assert {m.name for m in store.known(settings)} == {"mine", "owner/Toy"}


def test_an_existing_ollama_store_is_read_where_it_is(toy: Path, settings: Settings) -> None:
    put_model(settings.ollama_models, "tiny:v1", [("model", (toy / "toy-f16.gguf").read_bytes())])
    model = store.resolve("tiny:v1", settings)
    assert model.gguf is not None
    assert model.gguf.is_relative_to(settings.ollama_models)
    assert [m.name for m in store.known(settings)] == ["tiny:v1"]
    assert not (settings.home / "models").exists()


def test_a_folder_that_merely_bears_the_name_is_no_model(
    toy: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    put_model(settings.home / "models", "tiny", [("model", (toy / "toy-f16.gguf").read_bytes())])
    assert store.resolve("tiny", settings).gguf is not None


def test_a_quantisation_in_the_tag_picks_the_file(toy: Path, settings: Settings) -> None:
    snapshot = put_in_hub_cache(settings.hub_cache, "u/r-GGUF", toy)
    (snapshot / "config.json").unlink()
    for quant in ("Q4_K_M", "Q8_0", "Q4_K_S"):
        shutil.copy(toy / "toy-q8_0.gguf", snapshot / f"r-{quant}.gguf")
    found = [store.resolve(f"hf.co/u/r-GGUF{tag}", settings).gguf for tag in ("", ":q8_0")]
    assert [p.name for p in found if p] == ["r-Q4_K_M.gguf", "r-Q8_0.gguf"]
    with pytest.raises(ModelNotFound):
        store.resolve("hf.co/u/r-GGUF:Q4_K", settings)


def test_an_unknown_model_names_those_near_it(toy: Path, settings: Settings) -> None:
    put_model(settings.home / "models", "tiny", [("model", (toy / "toy-f16.gguf").read_bytes())])
    with pytest.raises(ModelNotFound, match=r"model 'tinny' not found\n.*Did you mean tiny\?"):
        store.resolve("tinny", settings)
    with pytest.raises(ModelNotFound, match=r"Did you mean llama3\.2:3b"):
        store.resolve("lama3.2:3b", settings)


@pytest.mark.parametrize(
    "text", ["..", "a/../../b", "manifests", "blobs/x", "~nobody/x", "x" * 5000, "a/" * 99]
)
def test_tricks_with_paths_find_nothing(text: str, settings: Settings, tmp_path: Path) -> None:
    (settings.home / "models" / "manifests").mkdir(parents=True)
    with pytest.raises(ModelNotFound):
        store.resolve(text, settings)


@pytest.mark.parametrize("text", ["", "  ", "a\0b"])
def test_nothing_is_no_name(text: str, settings: Settings) -> None:
    with pytest.raises(UsageError, match="no model name"):
        store.resolve(text, settings)


def test_a_manifest_that_leads_out_of_the_store_is_refused(
    toy: Path, settings: Settings, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    put_model(outside, "tiny", [("model", (toy / "toy-f16.gguf").read_bytes())])
    link = settings.home / "models" / "manifests" / "registry.ollama.ai" / "library" / "tiny"
    link.parent.mkdir(parents=True)
    link.symlink_to(outside / "manifests" / "registry.ollama.ai" / "library" / "tiny")
    with pytest.raises(ModelBroken, match="leads out of the store"):
        store.resolve("tiny", settings)


def test_a_blob_that_links_out_of_the_store_is_told_by_its_bytes(
    toy: Path, settings: Settings, tmp_path: Path
) -> None:
    root = settings.home / "models"
    put_model(root, "tiny", [("model", (toy / "toy-f16.gguf").read_bytes())])
    blob = max((root / "blobs").iterdir(), key=lambda p: p.stat().st_size)
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    blob.unlink()
    blob.symlink_to(secret)
    with pytest.raises(ModelBroken, match="has 6 bytes"):
        store.resolve("tiny", settings)


def test_the_hubs_cache_and_an_ollama_store_are_used_in_place(
    toy: Path, settings: Settings
) -> None:
    """Resolving, showing, copying and deriving add not one block to either, and no copy to ours."""
    put_model(settings.ollama_models, "tiny", [("model", (toy / "toy-f16.gguf").read_bytes())])
    put_in_hub_cache(settings.hub_cache, "owner/Toy", toy)

    def state(folder: Path) -> set[tuple[str, int, int, int]]:
        found = ((p, p.lstat()) for p in folder.rglob("*"))
        return {(str(p), s.st_ino, s.st_mtime_ns, s.st_blocks) for p, s in found}

    before = state(settings.ollama_models), state(settings.hub_cache)
    for name in ("tiny", "owner/Toy"):
        store.resolve(name, settings)
        catalogue.card(name, settings)
        changes.copy(name, f"copy-of-{name.rpartition('/')[2].lower()}", settings)
    assert len(catalogue.cards(settings)) == 4
    assert (state(settings.ollama_models), state(settings.hub_cache)) == before
    theirs = {p.stat().st_ino for p in settings.ollama_models.rglob("*") if p.is_file()}
    mine = [p for p in (settings.home / "models").rglob("*") if p.is_file()]
    own = sum(p.stat().st_blocks * 512 for p in mine if p.stat().st_ino not in theirs)
    assert own < 64 * 1024 < (toy / "toy-f16.gguf").stat().st_size


def test_a_link_in_the_home_that_leads_out_is_not_followed(toy: Path, settings: Settings) -> None:
    (settings.home / "models").mkdir(parents=True)
    (settings.home / "models" / "evil").symlink_to(toy)
    with pytest.raises(ModelNotFound):
        store.resolve("evil", settings)


def test_a_missing_or_short_blob_is_named(toy: Path, settings: Settings) -> None:
    root = settings.home / "models"
    put_model(root, "tiny", [("model", (toy / "toy-f16.gguf").read_bytes())])
    blob = max((root / "blobs").iterdir(), key=lambda p: p.stat().st_size)
    blob.write_bytes(blob.read_bytes()[:-1])
    with pytest.raises(ModelBroken, match=f"{blob.name} has"):
        store.resolve("tiny", settings)
    blob.unlink()
    with pytest.raises(ModelBroken, match="is missing"):
        store.resolve("tiny", settings)
