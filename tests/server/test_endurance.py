"""Nothing grows: memory, descriptors and tasks after many streams, many of them cut off."""

import asyncio
import gc
from pathlib import Path

import psutil

from tests.server.fakes import FakeEngine, Shop, until
from tests.server.test_relay import CHUNKED, Client, chunk, relaying, saying

STREAMS = 1000  # `python -m benchmarks.proxy.endurance` does ten times as many
BATCH = 50


async def test_memory_descriptors_and_tasks_are_flat_over_a_thousand_streams() -> None:
    words = [chunk(b"word %d " % i) for i in range(20)]
    engine = FakeEngine(saying(CHUNKED, *words, b"0\r\n\r\n"))
    process = psutil.Process()

    async def one(address: tuple[str, int], number: int) -> None:
        client = await Client.to(address)
        client.ask()
        if number % 10 == 0:
            await client.head()
            client.leave()
        else:
            assert (await client.answer())[1].endswith(b"word 19 [end]")
            client.leave()

    async def batch(address: tuple[str, int]) -> None:
        await asyncio.gather(*(one(address, n) for n in range(BATCH)))

    async with relaying(Shop(engine), direct=True) as address:
        for _ in range(10):
            await batch(address)
        gc.collect()
        tasks, files = len(asyncio.all_tasks()), open_files()
        resident = process.memory_info().rss
        for _ in range(STREAMS // BATCH):
            await batch(address)
        gc.collect()
        grown = process.memory_info().rss - resident
        assert grown < 8 * 1024**2
        # The idle connections to the engine are kept, no more than were ever needed at once.
        await until(lambda: open_files() <= max(files, 2 * BATCH + 40))
        await until(lambda: len(asyncio.all_tasks()) <= max(tasks, BATCH + 20))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
