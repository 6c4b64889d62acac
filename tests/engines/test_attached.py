"""Attaching to what somebody else runs: real llama.cpp, and servers of both APIs."""

from collections.abc import AsyncIterator

import httpx
import pytest

from vllama.engines.attached import Attached
from vllama.engines.engine import Endpoint
from vllama.engines.process import free_port
from vllama.engines.simulator import Simulator
from vllama.errors import EngineFailed, UsageError
from vllama.profile import Profile
from vllama.settings import Settings


@pytest.fixture
async def simulated(settings: Settings) -> AsyncIterator[Endpoint]:
    """A server that speaks both APIs with the same names in both, as an Ollama does."""
    async with Simulator(settings).start(Profile("t", "simulator", "toy:latest")) as endpoint:
        yield endpoint


async def attach(url: str, model: str = "") -> Endpoint:
    engine = Attached(url, model)
    async with engine.start(engine.profile()) as endpoint:
        return endpoint


async def test_llamacpp_is_found_to_speak_openai_with_its_model(
    llamacpp_endpoint: Endpoint,
) -> None:
    """Though it answers /api/tags as an Ollama does."""
    found = await attach(llamacpp_endpoint.base_url)
    assert (found.api, found.model) == ("openai", llamacpp_endpoint.model)
    assert found.facts["engine"] == "llamacpp"


async def test_what_speaks_ollamas_api_is_asked_in_it(simulated: Endpoint) -> None:
    found = await attach(simulated.base_url)
    assert (found.api, found.model, found.version) == ("ollama", "toy:latest", "0.12.6")


async def test_what_only_poses_as_ollama_is_asked_by_the_name_it_has_in_openais_api(
    settings: Settings,
) -> None:
    """vLLM behind something that adds Ollama's API calls its model `m`, not `m:latest`."""
    async with Simulator(settings).start(Profile("t", "simulator", "m")) as posing:
        found = await attach(posing.base_url)
    assert (found.api, found.model, found.facts["engine"]) == ("openai", "m", "vllm")


async def test_the_api_can_be_demanded(simulated: Endpoint, llamacpp_endpoint: Endpoint) -> None:
    engine = Attached(simulated.base_url, api="openai")
    async with engine.start(engine.profile()) as endpoint:
        assert (endpoint.api, endpoint.model) == ("openai", "toy:latest")
    engine = Attached(llamacpp_endpoint.base_url, api="ollama")
    with pytest.raises(EngineFailed, match="does not speak the Ollama API"):
        async with engine.start(engine.profile()):
            pass


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_a_url_may_be_written_as_clients_write_it(simulated: Endpoint, suffix: str) -> None:
    assert (await attach(simulated.base_url + suffix)).base_url == simulated.base_url


async def test_a_name_without_its_tag_is_completed(simulated: Endpoint) -> None:
    assert (await attach(simulated.base_url, "toy")).model == "toy:latest"


async def test_a_model_it_does_not_have_is_told_with_those_it_has(simulated: Endpoint) -> None:
    with pytest.raises(EngineFailed, match="has no model 'other'") as failed:
        await attach(simulated.base_url, "other")
    assert failed.value.remedy == "It has: toy:latest."


async def test_leaving_leaves_it_running(simulated: Endpoint) -> None:
    found = await attach(simulated.base_url)
    assert found.life.pids == ()
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"{simulated.base_url}/health")).status_code == 200


async def test_nobody_there_is_said_at_once() -> None:
    with pytest.raises(EngineFailed, match="nobody listens"):
        await attach(f"http://127.0.0.1:{free_port()}")


def test_what_is_no_url_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="'localhost:8000' is no URL"):
        Attached("localhost:8000")
