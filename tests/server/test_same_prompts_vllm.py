"""What a real vLLM makes of the families' chat templates: the very tokens of our own prompt."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer

from tests.conftest import installed
from tests.server import prompts
from tests.server.house import Always, Given, House, serving
from tests.toy.test_toy import TEXTS
from vllama.engines.engine import Endpoint
from vllama.machine import Machine
from vllama.settings import Settings
from vllama.store import catalogue, names

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, toy: Path) -> Path:
    place = tmp_path_factory.mktemp("speaker") / "speaker"
    return prompts.speaker(toy, prompts.FAMILIES[0], place, gguf=False)


@pytest.fixture(scope="module")
async def endpoint(
    folder: Path, session_settings: Settings, machine: Machine
) -> AsyncIterator[Endpoint]:
    real = installed("vllm", session_settings)
    model = names.resolve(str(folder), session_settings)
    profile = real.default(model, machine).with_options(
        max_model_len=2048, max_num_seqs=2, kv_cache_memory_bytes="64M", enforce_eager=True,
        trust_request_chat_template=True,
    )  # fmt: skip
    async with real.start(profile) as started:
        yield started


@pytest.fixture(scope="module")
async def house(
    folder: Path, endpoint: Endpoint, session_settings: Settings
) -> AsyncIterator[House]:
    choose = Always({str(folder): Given(endpoint)})
    async with serving(choose, session_settings, [str(folder)]) as each:
        yield each


# vLLM puts a call's arguments before its name, whatever the request's order: seen where a template
# writes out the whole call.
TURNED = {(family, case) for family in ("mistral", "phi") for case in ("after", "two")}
SPOKEN = [
    pytest.param(*each, marks=[pytest.mark.xfail(strict=True)] if each in TURNED else [])
    for each in prompts.SPOKEN
]


@pytest.mark.parametrize(("family", "case"), SPOKEN)
async def test_vllm_makes_the_tokens_of_our_own_prompt(
    family: str, case: str, house: House, endpoint: Endpoint, folder: Path,
    session_settings: Settings,
) -> None:  # fmt: skip
    template = (prompts.TEMPLATES / f"{family}.jinja").read_text()
    (folder / "chat_template.jinja").write_text(template)
    card = catalogue.card(str(folder), session_settings)
    async with house.pool.lease(str(folder), None) as lease:
        body = prompts.asked(lease, card, case)
    asked: dict[str, Any] = {k: body[k] for k in ("model", "messages", "tools",
                                                  "chat_template_kwargs") if k in body}  # fmt: skip
    async with httpx.AsyncClient(base_url=endpoint.base_url, trust_env=False, timeout=60) as client:
        answer = await client.post("/tokenize", json={**asked, "chat_template": template})
    assert answer.status_code == 200, answer.text
    ours = prompts.of_the_library(folder, body)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert answer.json()["tokens"] == tokenizer.encode(ours).ids


@pytest.mark.parametrize("text", TEXTS)
async def test_vllm_counts_the_same_tokens(text: str, endpoint: Endpoint, folder: Path) -> None:
    """As llama.cpp does: see tests/toy."""
    body = {"model": endpoint.model, "prompt": text, "add_special_tokens": False}
    async with httpx.AsyncClient(base_url=endpoint.base_url, trust_env=False, timeout=60) as client:
        answer = await client.post("/tokenize", json=body)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert answer.json()["tokens"] == tokenizer.encode(text, add_special_tokens=False).ids
