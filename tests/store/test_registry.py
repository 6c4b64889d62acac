"""A pull from a registry comes whole, whatever happens on the way; a push arrives whole."""

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.store import registries
from tests.store.registries import Registry
from vllama import store
from vllama.errors import ModelNotFound, StorageError
from vllama.settings import Settings
from vllama.store import catalogue, changes, creation, transfers
from vllama.store.errors import Refused, TransferFailed
from vllama.store.registry import Limits

SMALL = Limits(part_bytes=200_000, parts=1000, streams=4, stall_s=5, tries=3, wait_s=0.001,
               longest_wait_s=0.01)  # fmt: skip


@pytest.fixture
def registry() -> Iterator[Registry]:
    with registries.running() as state:
        yield state


@pytest.fixture
def offered(registry: Registry, toy: Path) -> str:
    layers = [
        ("model", (toy / "toy-q8_0.gguf").read_bytes()),
        ("template", b"{{ .Prompt }}"),
        ("params", b'{"stop":["a"]}'),
        ("license", b"MIT"),
    ]
    return registry.put("library/tiny:latest", layers)


async def pulled(name: str, settings: Settings, limits: Limits = SMALL) -> list[dict[str, Any]]:
    return [s async for s in transfers.pull(name, settings, insecure=True, limits=limits)]


def leftovers(settings: Settings) -> list[str]:
    blobs = settings.home / "models" / "blobs"
    return [p.name for p in blobs.iterdir() if p.name.startswith(".")] if blobs.exists() else []


async def test_a_pull_tells_ollamas_statuses_and_leaves_a_model(
    offered: str, registry: Registry, settings: Settings
) -> None:
    told = await pulled(offered, settings)
    plain = list(dict.fromkeys(s["status"] for s in told))
    assert plain[0] == "pulling manifest"
    assert plain[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
    layers = [s for s in told if "digest" in s]
    for status in layers:
        assert status["status"] == f"pulling {status['digest'][7:19]}"
        assert 0 < status.get("completed", 1) <= status["total"]
    assert len({s["digest"] for s in layers if s.get("completed") == s["total"]}) == 5
    card = catalogue.card(offered, settings)
    assert (card.parameters, card.licenses) == ({"stop": ["a"]}, ("MIT",))
    assert card.name == offered
    assert leftovers(settings) == []


async def test_the_parts_of_a_blob_are_fetched_side_by_side(
    offered: str, registry: Registry, settings: Settings, toy: Path
) -> None:
    await pulled(offered, settings)
    size = (toy / "toy-q8_0.gguf").stat().st_size
    starts = {int(r.removeprefix("bytes=").split("-")[0]) for r in registry.ranges()}
    assert starts >= set(range(0, size, 200_000))


async def test_a_second_pull_fetches_nothing_again(
    offered: str, registry: Registry, settings: Settings
) -> None:
    await pulled(offered, settings)
    registry.asked.clear()
    assert (await pulled(offered, settings))[-1] == {"status": "success"}
    assert [path for _, path, _ in registry.asked if "/blobs/" in path] == []


async def test_cut_connections_are_taken_up_where_they_broke(
    offered: str, registry: Registry, settings: Settings
) -> None:
    registry.cut_after = [100_000, 5, 0, 50_000]
    await pulled(offered, settings)
    assert store.resolve(offered, settings).shape.quantization == "Q8_0"
    assert any(int(r.removeprefix("bytes=").split("-")[0]) % 200_000 for r in registry.ranges())


async def test_a_stopped_pull_looks_like_nothing_and_is_resumed(
    offered: str, registry: Registry, settings: Settings, toy: Path
) -> None:
    stall = threading.Event()
    registry.stalls = [stall]
    registry.cut_after = [100_000] * 50
    statuses = transfers.pull(offered, settings, insecure=True, limits=SMALL)
    async for status in statuses:
        if status.get("completed", 0) >= 400_000:
            break
    await statuses.aclose()
    stall.set()
    with pytest.raises(ModelNotFound):
        store.resolve(offered, settings)
    assert [c.name for c in catalogue.cards(settings)] == []
    assert not list((settings.home / "models" / "blobs").glob("sha256-*"))
    registry.cut_after.clear()
    registry.stalls.clear()
    registry.asked.clear()
    await pulled(offered, settings)
    size = (toy / "toy-q8_0.gguf").stat().st_size
    fetched = sum(
        int(b) - int(a) + 1
        for a, b in (r.removeprefix("bytes=").split("-") for r in registry.ranges())
    )
    assert fetched < size
    assert leftovers(settings) == []


async def test_a_connection_that_brings_nothing_is_given_up_and_taken_up_again(
    offered: str, registry: Registry, settings: Settings
) -> None:
    registry.stalls = [threading.Event()]
    registry.cut_after = [1000]
    limits = Limits(part_bytes=1 << 30, stall_s=0.2, tries=3, wait_s=0.001)
    assert (await pulled(offered, settings, limits))[-1]["status"] == "success"


async def test_a_server_without_ranges_is_read_from_the_start(
    offered: str, registry: Registry, settings: Settings
) -> None:
    registry.has_ranges = False
    await pulled(offered, settings)
    assert store.resolve(offered, settings).shape.quantization == "Q8_0"


async def test_a_wrong_digest_is_found_and_nothing_is_kept(
    offered: str, registry: Registry, settings: Settings
) -> None:
    digest = max(registry.blobs, key=lambda d: len(registry.blobs[d]))
    raw = registry.blobs[digest]
    registry.blobs[digest] = raw[:-1] + bytes([raw[-1] ^ 1])
    message = f"digest mismatch, file must be downloaded again: want {digest}, got sha256:"
    with pytest.raises(TransferFailed, match=message):
        await pulled(offered, settings)
    with pytest.raises(ModelNotFound):
        store.resolve(offered, settings)
    assert leftovers(settings) == []


@pytest.mark.parametrize("told", ["0", "Fri, 27 Nov 2020 10:00:00 GMT", "27 Nov 2020 10:00:00"])
async def test_a_busy_registry_is_asked_again(
    told: str, offered: str, registry: Registry, settings: Settings
) -> None:
    registry.codes, registry.retry_after = [429, 503], told
    # By itself it would wait a minute; the registry says how long.
    limits = replace(SMALL, wait_s=60, longest_wait_s=60)
    assert (await pulled(offered, settings, limits))[-1]["status"] == "success"


async def test_a_registry_that_wants_a_token_gets_one(
    offered: str, registry: Registry, settings: Settings
) -> None:
    registry.token = "secret"
    assert (await pulled(offered, settings))[-1]["status"] == "success"


@pytest.mark.parametrize(
    ("codes", "message", "status"),
    [
        ([404], "pull model manifest: file does not exist", 404),
        ([403], "pull model manifest: 403: not now", 403),
        ([401], "pull model manifest: 401: not now", 401),
        ([500] * 3, "pull model manifest: 500: not now", 500),
        ([429] * 3, "pull model manifest: 429: not now", 500),
    ],
)
async def test_a_refusal_is_told_in_ollamas_words(
    codes: list[int], message: str, status: int, offered: str, registry: Registry,
    settings: Settings,
) -> None:  # fmt: skip
    registry.codes = codes
    with pytest.raises(TransferFailed) as caught:
        await pulled(offered, settings)
    assert (caught.value.message, caught.value.status) == (message, status)


@pytest.mark.parametrize(("code", "status"), [(401, 401), (403, 403), (404, 404), (400, 500)])
async def test_a_refusal_amid_the_blobs_is_told_and_leaves_no_model(
    code: int, status: int, offered: str, registry: Registry, settings: Settings
) -> None:
    registry.blob_codes = [code]
    with pytest.raises(TransferFailed) as caught:
        await pulled(offered, settings)
    assert caught.value.status == status
    assert catalogue.cards(settings) == []
    await pulled(offered, settings)
    assert [c.name for c in catalogue.cards(settings)] == [offered]


async def test_a_registry_that_is_busy_amid_the_blobs_is_waited_for_as_long_as_it_says(
    offered: str, registry: Registry, settings: Settings
) -> None:
    registry.blob_codes = [429, 503, 429]
    limits = replace(SMALL, wait_s=60, longest_wait_s=60)
    assert (await pulled(offered, settings, limits))[-1] == {"status": "success"}


async def test_an_unreachable_registry_is_told_in_gos_words(settings: Settings) -> None:
    statuses = transfers.pull("127.0.0.1:9/library/nope", settings, insecure=True)
    assert await anext(statuses) == {"status": "pulling manifest"}
    with pytest.raises(TransferFailed) as caught:
        await anext(statuses)
    assert caught.value.message == (
        'pull model manifest: Get "http://127.0.0.1:9/v2/library/nope/manifests/latest": '
        "dial tcp 127.0.0.1:9: connect: connection refused"
    )


async def test_a_registry_without_tls_is_told_apart(offered: str, settings: Settings) -> None:
    with pytest.raises(TransferFailed, match="HTTP response to HTTPS client") as caught:
        [s async for s in transfers.pull(offered, settings)]
    assert "--insecure" in caught.value.remedy


async def test_a_manifest_with_tricks_in_its_digests_is_refused(
    registry: Registry, settings: Settings, tmp_path: Path
) -> None:
    name = registry.put("library/evil:latest", [("license", b"x")])
    key = "library/evil/manifests/latest"
    digest = next(d for d in registry.blobs if registry.blobs[d] == b"x")
    evil = registry.manifests[key].replace(digest.encode(), b"sha256:../../../../escaped")
    registry.manifests[key] = evil
    with pytest.raises(Exception, match="invalid digest format"):
        await pulled(name, settings)


async def test_too_little_room_is_said_before_the_first_byte(
    offered: str, registry: Registry, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    tiny = shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: tiny)
    with pytest.raises(StorageError, match="not enough space"):
        await pulled(offered, settings)
    assert [path for _, path, _ in registry.asked if "/blobs/" in path] == []


async def test_a_disk_that_fills_up_on_the_way_leaves_no_model(
    offered: str, registry: Registry, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        await pulled(offered, settings)
    with pytest.raises(ModelNotFound):
        store.resolve(offered, settings)


async def test_a_disk_that_fills_up_while_bytes_come_leaves_what_is_taken_up_later(
    offered: str, registry: Registry, settings: Settings, monkeypatch: pytest.MonkeyPatch,
    toy: Path,
) -> None:  # fmt: skip
    real, room = Path.open, [400_000]

    class Small:
        """A file on a disk with little room left."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> "Small":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> int:
            room[0] -= len(data)
            if room[0] < 0:
                raise OSError(28, "No space left on device")
            return int(self.file.write(data))

    def opened(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        file = real(path, mode, *args, **options)
        return Small(file) if mode == "r+b" else file

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", opened)
        with pytest.raises(StorageError, match="No space left on device"):
            await pulled(offered, settings)
    assert catalogue.cards(settings) == []
    assert not list((settings.home / "models" / "blobs").glob("sha256-*"))
    registry.asked.clear()
    await pulled(offered, settings)
    spans = (r.removeprefix("bytes=").split("-") for r in registry.ranges())
    assert sum(int(b) - int(a) + 1 for a, b in spans) < (toy / "toy-q8_0.gguf").stat().st_size


async def test_two_pulls_of_one_model_share_the_work(
    offered: str, registry: Registry, settings: Settings
) -> None:
    first, second = await asyncio.gather(pulled(offered, settings), pulled(offered, settings))
    assert first[-1] == second[-1] == {"status": "success"}
    fetched = [asked for asked in registry.asked if asked[2]]
    assert len(fetched) == len(set(fetched))


async def test_a_new_version_replaces_the_old_and_its_blobs(
    offered: str, registry: Registry, settings: Settings, toy: Path
) -> None:
    await pulled(offered, settings)
    registry.put("library/tiny:latest", [("model", (toy / "toy-f16.gguf").read_bytes())])
    told = await pulled(offered, settings)
    assert [s["status"] for s in told][-2:] == ["removing unused layers", "success"]
    assert store.resolve(offered, settings).shape.quantization == "F16"
    assert len(list((settings.home / "models" / "blobs").glob("sha256-*"))) == 2


async def test_a_base_that_is_not_here_is_pulled(
    offered: str, registry: Registry, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllama.store.creation.INSECURE", True)
    request = {"model": "mine", "from": offered, "system": "s"}
    told = [s["status"] async for s in creation.create(request, settings)]
    assert told[0] == "pulling manifest"
    assert told.count("success") == 1
    assert catalogue.card("mine", settings).parent_model == offered


async def test_a_push_arrives_whole_and_can_be_pulled(
    offered: str, registry: Registry, settings: Settings
) -> None:
    await pulled(offered, settings)
    target = f"{registry.host}/me/pushed:v1"
    changes.copy(offered, target, settings)
    registry.blobs.popitem()
    told = [s async for s in transfers.push(target, settings, insecure=True, limits=SMALL)]
    plain = list(dict.fromkeys(s["status"] for s in told))
    assert plain[0] == "retrieving manifest"
    assert plain[-2:] == ["pushing manifest", "success"]
    assert all(s["status"] == f"pushing {s['digest'][7:19]}" for s in told if "digest" in s)
    digest = catalogue.card(target, settings).digest
    changes.delete(target, settings)
    changes.delete(offered, settings)
    await pulled(target, settings)
    assert catalogue.card(target, settings).digest == digest


async def test_pushing_what_is_not_here_fails_as_ollama_does(
    registry: Registry, settings: Settings
) -> None:
    statuses = transfers.push(f"{registry.host}/me/nope", settings, insecure=True)
    assert await anext(statuses) == {"status": "retrieving manifest"}
    assert await anext(statuses) == {"status": "couldn't retrieve manifest"}
    with pytest.raises(TransferFailed, match=r"^open .*: no such file or directory$"):
        await anext(statuses)


@pytest.mark.parametrize("name", ["", "bad//name", "../x", "a b"])
async def test_what_is_no_name_is_refused(name: str, settings: Settings) -> None:
    with pytest.raises(Refused, match=r"^invalid model name$"):
        await pulled(name, settings)
