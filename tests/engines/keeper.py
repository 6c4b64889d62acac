"""A program for the tests: a vllama that starts an engine and waits to be killed.

`python -m tests.engines.keeper PROFILE`: the profile as JSON. Prints where the engine listens
and its processes as one line of JSON.
"""

import asyncio
import json
import sys

from vllama.engines import engine
from vllama.profile import Profile
from vllama.settings import Settings


async def main() -> None:
    profile = Profile.from_json(json.loads(sys.argv[1]))
    async with engine(profile.engine, Settings.from_environment()).start(profile) as endpoint:
        print(json.dumps({"url": endpoint.base_url, "pids": endpoint.life.pids}), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
