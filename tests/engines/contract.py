"""What every engine that vllama starts must do; its test class derives from this one."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from vllama.engines import process
from vllama.engines.engine import Endpoint, Engine
from vllama.errors import EngineFailed
from vllama.profile import Profile
from vllama.settings import Settings

GONE_S = 5.0
NOTICED_S = 10.0


@dataclass(frozen=True, slots=True)
class Subject:
    """An engine under test, and a profile with which it starts here quickly."""

    engine: Engine
    profile: Profile
    settings: Settings


class EngineContract:
    """Derive, and give a fixture `subject`."""

    async def test_it_starts_answers_and_leaves_nothing_behind(self, subject: Subject) -> None:
        async with subject.engine.start(subject.profile) as endpoint:
            assert await answer(endpoint)
            assert endpoint.engine == subject.engine.name
            assert endpoint.version == subject.engine.version()
            assert endpoint.start_s > 0
            family = members(endpoint.life.pids)
            assert family
        await assert_gone(family, endpoint.base_url)

    async def test_its_death_is_noticed_and_the_rest_of_it_is_stopped(
        self, subject: Subject
    ) -> None:
        async with subject.engine.start(subject.profile) as endpoint:
            family = members(endpoint.life.pids)
            # The last one holds the weights: the worker where there is one.
            family[-1].kill()
            failure = await asyncio.wait_for(endpoint.life.ended(), NOTICED_S)
            assert isinstance(failure, EngineFailed)
            assert failure.message
        await assert_gone(family, endpoint.base_url)

    async def test_when_vllama_is_killed_nothing_of_it_stays(self, subject: Subject) -> None:
        keeper = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.engines.keeper", json.dumps(subject.profile.to_json()),
            stdout=asyncio.subprocess.PIPE, env=dict(subject.settings.environment),
        )  # fmt: skip
        assert keeper.stdout is not None
        told = json.loads(await keeper.stdout.readline())
        family = members(told["pids"])
        keeper.kill()
        await keeper.wait()
        await assert_gone(family, told["url"])

    async def test_an_option_it_does_not_have_is_refused_before_anything_starts(
        self, subject: Subject
    ) -> None:
        wrong = subject.profile.with_options(max_num_sequins=4)
        before = len(psutil.Process().children())
        with pytest.raises(EngineFailed) as caught:
            async with subject.engine.start(wrong):
                pass
        assert caught.value.kind == "bad_option"
        assert "max_num_sequins" in caught.value.message
        assert caught.value.remedy
        assert len(psutil.Process().children()) == before

    def test_its_default_uses_only_what_the_installed_version_accepts(
        self, subject: Subject
    ) -> None:
        assert subject.engine.version()
        assert set(subject.profile.options) <= subject.engine.accepts()


async def answer(endpoint: Endpoint) -> str:
    """A few tokens from it."""
    body = {"model": endpoint.model, "prompt": "Once upon", "max_tokens": 8, "ignore_eos": True,
            "temperature": 0}  # fmt: skip
    async with httpx.AsyncClient(base_url=endpoint.base_url, trust_env=False, timeout=60) as client:
        response = await client.post("/v1/completions", json=body)
    response.raise_for_status()
    return str(response.json()["choices"][0]["text"])


def members(pids: Sequence[int]) -> list[psutil.Process]:
    """The processes of these numbers that are there, as such that a reused number is not."""
    found = []
    for pid in pids:
        try:
            found.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
    return found


async def assert_gone(family: Sequence[psutil.Process], url: str) -> None:
    """See that all of the family ends within the limit, and that its port is free again."""
    _, alive = await asyncio.to_thread(psutil.wait_procs, family, GONE_S)
    # Where nobody reaps orphans, as in many containers, the dead stay listed.
    left = [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    for each in left:
        os.kill(each.pid, signal.SIGKILL)
    assert not left
    address = urlsplit(url)
    process.check_port(address.hostname or "", address.port or 0)
