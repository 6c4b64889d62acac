"""Several engines for one model: who takes a request, and what happens when one goes."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.server.fakes import FakeEngine, Shop, until
from vllama.engines.engine import Endpoint
from vllama.errors import EngineFailed
from vllama.machine import Gpu, Machine
from vllama.profile import Profile
from vllama.server.lifecycle.catalogue import Catalogue
from vllama.server.lifecycle.launch import Launcher
from vllama.server.lifecycle.member import Unavailable
from vllama.server.lifecycle.plan import Plan, Start
from vllama.server.lifecycle.pool import Pool
from vllama.server.lifecycle.replicas import SLACK, Replica, pick
from vllama.settings import Settings
from vllama.uplink import UplinkPool


@pytest.fixture
async def two() -> AsyncIterator[tuple[Pool, FakeEngine, FakeEngine]]:
    """One model on two engines that others run."""
    engines = FakeEngine(), FakeEngine()
    others = tuple(Start(each, Profile("attached", "attached", "m")) for each in engines)
    pool = Pool(Shop(engines[0], plans={"m": Plan((), others=others)}))
    await pool.preload("m")
    await until(lambda: pool.loaded()[0].replicas == 2)
    yield pool, *engines
    await pool.close()


@asynccontextmanager
async def leases(pool: Pool, count: int, affinity: bytes = b"") -> AsyncIterator[Counter[str]]:
    async with AsyncExitStack() as stack:
        found: Counter[str] = Counter()
        for _ in range(count):
            lease = await stack.enter_async_context(pool.lease("m", affinity=affinity))
            found[lease.endpoint.base_url] += 1
        yield found


async def test_requests_go_to_the_one_with_the_fewest(
    two: tuple[Pool, FakeEngine, FakeEngine],
) -> None:
    async with leases(two[0], 10) as found:
        assert sorted(found.values()) == [5, 5]


async def test_a_known_prefix_goes_where_it_is_cached_until_that_one_is_much_busier(
    two: tuple[Pool, FakeEngine, FakeEngine],
) -> None:
    async with leases(two[0], SLACK + 1, b"You are a pirate.") as found:
        assert list(found.values()) == [SLACK + 1]
    async with leases(two[0], 20, b"You are a pirate.") as found:
        assert max(found.values()) - min(found.values()) <= SLACK + 1


async def test_one_that_dies_is_left_out_and_comes_back(
    two: tuple[Pool, FakeEngine, FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vllama.server.lifecycle.member.RETURN_S", 0.01)
    pool, first, _ = two
    first.failures = [EngineFailed("connection refused")] * 3
    first.lives[0].kill()
    await until(lambda: pool.loaded()[0].replicas == 1)
    async with leases(pool, 6) as found:
        assert len(found) == 1
    await until(lambda: pool.loaded()[0].replicas == 2)
    assert not first.failures


async def test_when_all_are_gone_the_request_fails_with_the_reason(
    two: tuple[Pool, FakeEngine, FakeEngine],
) -> None:
    pool, *engines = two
    for each in engines:
        each.failures = [EngineFailed("connection refused")] * 1000
        each.lives[0].kill()
    await until(lambda: not pool.loaded())
    with pytest.raises(Unavailable, match="refused"):
        await pool.preload("m")


async def test_replicas_of_our_own_get_a_device_each_and_restart_alone() -> None:
    engine = FakeEngine()
    seen: list[str] = []

    class Noting(FakeEngine):
        @asynccontextmanager
        async def start(self, profile: Profile) -> AsyncIterator[Endpoint]:
            seen.append(profile.environment["CUDA_VISIBLE_DEVICES"])
            async with engine.start(profile) as endpoint:
                yield endpoint

    starts = (Start(Noting(), Profile("best", "fake", "m")),)
    devices = tuple({"CUDA_VISIBLE_DEVICES": str(i)} for i in range(3))
    pool = Pool(Shop(engine, plans={"m": Plan(starts, replicas=devices)}))
    await pool.preload("m")
    await until(lambda: pool.loaded()[0].replicas == 3)
    assert sorted(seen) == ["0", "1", "2"]
    engine.lives[1].kill()
    await until(lambda: len(engine.lives) == 4)
    await until(lambda: pool.loaded()[0].replicas == 3)
    assert seen[3] in ("0", "1", "2")
    await pool.close()
    assert len(engine.stopped) == 4


def replicas(count: int) -> Iterator[Replica]:
    for i in range(count):
        url = f"http://127.0.0.1:{9000 + i}"
        death = asyncio.get_running_loop().create_future()
        endpoint = Endpoint(url, "m", "fake", None)  # type: ignore[arg-type]
        yield Replica(
            endpoint, UplinkPool(url), Profile("p", "fake", "m"), death, seed=url.encode()
        )


async def test_one_that_goes_takes_only_its_own_prefixes_along() -> None:
    four = list(replicas(4))
    prefixes = [os.urandom(8) for _ in range(400)]
    before = {p: pick(four, p) for p in prefixes}
    assert min(Counter(r.endpoint.base_url for r in before.values()).values()) > 50
    gone = four.pop()
    moved = [p for p in prefixes if pick(four, p) is not before[p]]
    assert all(before[p] is gone for p in moved)


def test_replicas_get_the_visible_cards_and_no_others(
    toy: Path, settings: Settings, machine: Machine
) -> None:
    four = tuple(Gpu(i, "H100", f"GPU-{i}", 80 << 30, 80 << 30) for i in range(4))
    slices = tuple(Gpu(0, "MIG", f"MIG-{i}", 20 << 30, 20 << 30, is_slice=True) for i in range(2))
    amd = tuple(replace(gpu, vendor="amd") for gpu in four)

    def words(gpus: tuple[Gpu, ...], **environment: str) -> list[dict[str, str]]:
        here = replace(machine, gpus=gpus).visible_to(environment)
        launcher = Launcher(Catalogue(), settings, here, wanted="llamacpp", replicas=2)
        return [dict(each) for each in launcher.plan(str(toy)).replicas]

    names = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
    assert words(four, CUDA_VISIBLE_DEVICES="2,3") == [{names[0]: "2"}, {names[0]: "3"}]
    assert words(slices) == [{names[0]: "MIG-0"}, {names[0]: "MIG-1"}]
    assert words(amd, HIP_VISIBLE_DEVICES="3,1") == [
        dict.fromkeys(names, "3"), dict.fromkeys(names, "1")
    ]  # fmt: skip
