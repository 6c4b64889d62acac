"""A program for the tests: a vllama that has launched a family and waits to be killed."""

import asyncio
import os
import sys

from vllama.engines.process import launch
from vllama.errors import EngineFailed


async def main() -> None:
    command = [sys.executable, *sys.argv[1:]]

    def echo(line: str) -> None:
        print(line, flush=True)

    async with launch(
        command, name="family", environment=dict(os.environ),
        explain=lambda log: EngineFailed(str(log)), on_line=echo,
    ) as child:  # fmt: skip
        print("guard", child.pids[0], flush=True)
        await asyncio.wait_for(asyncio.Event().wait(), 120)


if __name__ == "__main__":
    asyncio.run(main())
