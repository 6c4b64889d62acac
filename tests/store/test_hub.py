"""The hub's own library pulls into its own cache; what is half there is never taken for a model."""

import threading
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.store import hubs
from tests.store.hubs import COMMIT, Hub
from vllama import store
from vllama.errors import ModelBroken, ModelNotFound, StorageError
from vllama.settings import Settings
from vllama.store import catalogue, changes, transfers
from vllama.store.errors import TransferFailed
from vllama.store.registry import Limits

SMALL = Limits(part_bytes=1_000_000, parts=1000, streams=4, stall_s=5, tries=3, wait_s=0.001)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hubs.running() as state:
        yield state


@pytest.fixture
def online(hub: Hub, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    # The toy is smaller than one of the library's own pieces; the fake speaks plain LFS only.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 20)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    return replace(settings, hub_offline=False, hub_endpoint=hub.url)


@pytest.fixture
def repository(hub: Hub, toy: Path) -> str:
    files = {p.name: p.read_bytes() for p in toy.iterdir() if p.suffix != ".gguf"}
    extra = {"pytorch_model.bin": b"x", "onnx/model.onnx": b"x", "README.md": b"x",
             "original/params.json": b"{}"}  # fmt: skip
    hub.repositories["owner/Toy"] = files | extra
    return "owner/Toy"


async def pulled(name: str, settings: Settings, **options: Any) -> list[dict[str, Any]]:
    return [s async for s in transfers.pull(name, settings, **options)]


async def test_a_pull_fetches_what_an_engine_needs_and_the_configuration_last(
    repository: str, hub: Hub, online: Settings
) -> None:
    told = await pulled(repository, online)
    assert told[0] == {"status": "pulling manifest"}
    assert told[-1] == {"status": "success"}
    assert told[-3]["completed"] == told[-3]["total"] > 8_000_000
    fetched = hub.fetched()
    assert fetched[-1] == "config.json"
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(fetched)
    assert not {"pytorch_model.bin", "model.onnx", "README.md", "params.json"} & set(fetched)
    model = store.resolve(repository, online)
    assert model.revision == COMMIT
    assert model.safetensors is not None
    assert model.safetensors.is_relative_to(online.hub_cache)
    assert not (online.home / "models").exists()
    assert catalogue.card(repository, online).name == "owner/Toy:latest"


async def test_a_second_pull_fetches_no_weights(
    repository: str, hub: Hub, online: Settings
) -> None:
    await pulled(repository, online)
    hub.asked.clear()
    await pulled(repository, online)
    assert "model.safetensors" not in hub.fetched()


async def test_a_revision_is_kept_apart(repository: str, online: Settings) -> None:
    await pulled(f"{repository}@{COMMIT}", online)
    assert store.resolve(f"{repository}@{COMMIT}", online).revision == COMMIT
    with pytest.raises(ModelNotFound):
        store.resolve(repository, online)
    with pytest.raises(TransferFailed, match="has no revision nope"):
        await pulled(f"{repository}@nope", online)


async def test_a_tag_picks_one_gguf_file_and_the_default_is_q4_k_m(
    hub: Hub, online: Settings, toy: Path
) -> None:
    raw = (toy / "toy-q8_0.gguf").read_bytes()
    names = ("r-Q8_0.gguf", "r-Q4_K_M.gguf", "r-Q4_K_S.gguf", "mmproj-F16.gguf")
    hub.repositories["u/r-GGUF"] = {name: raw + name.encode() for name in names}
    await pulled("hf.co/u/r-GGUF:Q8_0", online)
    assert hub.fetched() == ["r-Q8_0.gguf"]
    await pulled("hf.co/u/r-GGUF", online)
    assert hub.fetched() == ["r-Q8_0.gguf", "r-Q4_K_M.gguf"]
    found = store.resolve("hf.co/u/r-GGUF:q8_0", online).gguf
    assert found is not None
    assert found.name == "r-Q8_0.gguf"
    with pytest.raises(TransferFailed, match="has no GGUF file of Q2_K") as caught:
        await pulled("hf.co/u/r-GGUF:Q2_K", online)
    assert "r-Q4_K_M.gguf" in caught.value.remedy


async def test_an_alias_is_taken_from_the_hub_and_said(
    hub: Hub, online: Settings, repository: str
) -> None:
    online.home.mkdir(parents=True)
    (online.home / "aliases.json").write_text('{"Mine:3b": "owner/Toy"}')
    told = await pulled("mine:3b", online, source="hub")
    assert told[0] == {"status": "mine:3b is owner/Toy on the hub"}
    assert store.resolve("mine:3b", online).name == "mine:3b"
    assert catalogue.card("mine:3b", online).name == "mine:3b"


async def test_a_gated_repository_says_what_to_do(
    repository: str, hub: Hub, online: Settings
) -> None:
    hub.gated.add(repository)
    hub.token = "good"
    with pytest.raises(TransferFailed, match="owner/Toy is gated") as caught:
        await pulled(repository, online)
    assert caught.value.status == 403
    assert "Accept its conditions" in caught.value.remedy
    assert "HF_TOKEN" in caught.value.remedy
    await pulled(repository, replace(online, hub_token="good"))
    assert store.resolve(repository, online).safetensors is not None


async def test_an_unknown_repository_is_told_as_ollama_does(online: Settings) -> None:
    with pytest.raises(
        TransferFailed, match=r"^pull model manifest: file does not exist"
    ) as caught:
        await pulled("hf.co/no/such", online)
    assert caught.value.status == 404


async def test_a_hub_that_is_down_or_busy_is_named(online: Settings, hub: Hub) -> None:
    hub.codes = [429] * 99
    with pytest.raises(TransferFailed, match="429") as caught:
        await pulled("hf.co/owner/Toy", online)
    assert caught.value.status == 429
    assert "HF_TOKEN" in caught.value.remedy
    gone = replace(online, hub_endpoint="http://127.0.0.1:9")
    with pytest.raises(TransferFailed, match=r"127\.0\.0\.1:9"):
        await pulled("hf.co/owner/Toy", gone)


async def test_offline_nothing_is_asked(repository: str, hub: Hub, online: Settings) -> None:
    offline = replace(online, hub_offline=True)
    with pytest.raises(TransferFailed, match="HF_HUB_OFFLINE is set"):
        await pulled("hf.co/owner/Toy", offline)
    assert hub.asked == []


async def test_a_cut_connection_is_taken_up_again(
    repository: str, hub: Hub, online: Settings
) -> None:
    hub.cut_after = [3_000_000]
    await pulled(repository, online)
    assert store.resolve(repository, online).safetensors is not None
    assert any(asked.startswith("bytes=") for _, _, asked in hub.asked)


async def test_the_parts_of_a_large_file_are_fetched_side_by_side(
    repository: str, hub: Hub, online: Settings, toy: Path
) -> None:
    await pulled(repository, online, limits=SMALL)
    size = (toy / "model.safetensors").stat().st_size
    starts = {int(r[6:].partition("-")[0]) for _, p, r in hub.asked if r and "model.safe" in p}
    assert starts == set(range(0, size, 1_000_000))


async def test_a_connection_that_brings_nothing_is_given_up_and_taken_up_again(
    repository: str, hub: Hub, online: Settings
) -> None:
    hub.slow = threading.Event()
    statuses = transfers.pull(repository, online, limits=replace(SMALL, stall_s=0.2, tries=99))
    async for status in statuses:
        # Half of each part has come, and a connection for the rest was given up.
        if status.get("completed", 0) > 1_000_000 and len(hub.fetched()) > 20:
            hub.slow.set()
    assert store.resolve(repository, online).safetensors is not None


@pytest.mark.parametrize(("code", "status"), [(401, 401), (403, 403), (404, 404)])
async def test_a_refusal_amid_the_files_is_told_and_leaves_no_model(
    code: int, status: int, repository: str, hub: Hub, online: Settings
) -> None:
    hub.file_codes = {"model.safetensors": [code]}
    with pytest.raises(TransferFailed) as caught:
        await pulled(repository, online, limits=SMALL)
    assert caught.value.status == status
    assert ("token" in caught.value.remedy) is (code != 404)
    assert catalogue.cards(online) == []


async def test_a_busy_hub_is_waited_for_as_long_as_it_says(
    repository: str, hub: Hub, online: Settings
) -> None:
    # By itself it would wait a minute.
    limits = replace(SMALL, wait_s=60, longest_wait_s=60)
    hub.file_codes = {"tokenizer_config.json": [503], "model.safetensors": [429, 503]}
    await pulled(repository, online, limits=limits)
    assert store.resolve(repository, online).safetensors is not None


async def test_wrong_bytes_are_found_and_nothing_is_kept(
    repository: str, hub: Hub, online: Settings
) -> None:
    hub.changed.add("model.safetensors")
    with pytest.raises(TransferFailed, match="digest mismatch"):
        await pulled(repository, online)
    assert catalogue.cards(online) == []
    hub.changed.clear()
    await pulled(repository, online)
    assert store.resolve(repository, online).safetensors is not None


async def test_a_disk_that_fills_up_on_the_way_leaves_no_model(
    repository: str, hub: Hub, online: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(StorageError, match="No space left on device"):
            await pulled(repository, online)
    assert catalogue.cards(online) == []
    await pulled(repository, online)


async def test_a_disk_that_is_full_for_the_hubs_own_library_is_told_alike(
    repository: str, hub: Hub, online: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(StorageError, match=r"cannot write to .*No space left on device"):
        await pulled(repository, online)
    assert catalogue.cards(online) == []


async def test_a_new_version_that_is_half_here_leaves_the_old_one_in_its_place(
    repository: str, hub: Hub, online: Settings
) -> None:
    await pulled(repository, online)
    hub.commit = "d" * 40
    hub.repositories[repository]["model.safetensors"] += b"!"
    hub.file_codes = {"model.safetensors": [403]}
    with pytest.raises(TransferFailed):
        await pulled(repository, online)
    assert store.resolve(repository, online).revision == COMMIT
    hub.repositories[repository]["model.safetensors"] = hub.repositories[repository][
        "model.safetensors"
    ][:-1]
    await pulled(repository, online)
    assert store.resolve(repository, online).revision == "d" * 40


async def test_a_stopped_pull_is_no_model(repository: str, hub: Hub, online: Settings) -> None:
    hub.slow = threading.Event()
    async with aclosing(transfers.pull(repository, online)) as statuses:
        async for status in statuses:
            if status.get("completed", 0) > 1_000_000:
                hub.slow.set()
                break
    assert catalogue.cards(online) == []
    with pytest.raises((ModelBroken, ModelNotFound)):
        store.resolve(repository, online)


async def test_too_little_room_is_said_first(
    repository: str, hub: Hub, online: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    tiny = shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: tiny)
    with pytest.raises(StorageError, match="not enough space"):
        await pulled(repository, online)
    assert hub.fetched() == []


async def test_a_model_is_pushed_to_the_hub_whole(
    hub: Hub, online: Settings, repository: str, toy: Path
) -> None:
    hub.token = "good"
    mine = replace(online, hub_token="good")
    await pulled(repository, mine)
    changes.copy(repository, "hf.co/me/new", mine)
    told = [s["status"] async for s in transfers.push("hf.co/me/new", mine)]
    assert told == ["retrieving manifest", "pushing me/new", "pushing manifest", "success"]
    pushed = hub.repositories["me/new"]
    assert pushed["model.safetensors"] == (toy / "model.safetensors").read_bytes()
    assert pushed["config.json"] == (toy / "config.json").read_bytes()
    changes.copy(repository, "hf.co/me/other", mine)
    with pytest.raises(TransferFailed) as caught:
        [s async for s in transfers.push("hf.co/me/other", online)]
    assert caught.value.status == 401


async def test_what_was_pulled_can_be_removed(repository: str, online: Settings) -> None:
    await pulled(repository, online)
    changes.delete(f"{repository}:latest", online)
    assert catalogue.cards(online) == []
