"""A model's own chat template gives the same prompt whoever renders it: llama.cpp or we.

vLLM renders with the library `transformers`; `test_same_prompts_vllm` asks a real one.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tokenizers import Tokenizer

from tests.conftest import isolated
from tests.server import prompts
from tests.server.house import House, Small, serving
from vllama.machine import Machine
from vllama.server.lifecycle.catalogue import Catalogue
from vllama.server.lifecycle.launch import Launcher
from vllama.settings import Settings
from vllama.store import catalogue

pytestmark = pytest.mark.llamacpp


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, toy: Path) -> Settings:
    settings = isolated(tmp_path_factory.mktemp("speakers"))
    models = settings.home / "models"
    models.mkdir(parents=True)
    for family in prompts.FAMILIES:
        prompts.speaker(toy, family, models / family, gguf=True)
        prompts.speaker(toy, family, models / f"{family}-folder", gguf=False)
    return settings


@pytest.fixture(scope="module")
def launcher(own: Settings, machine: Machine) -> Launcher:
    return Launcher(Catalogue(), own, machine, wanted="llamacpp")


@pytest.fixture(scope="module")
async def house(own: Settings, launcher: Launcher) -> AsyncIterator[House]:
    async with serving(Small(launcher), own) as each:
        yield each


async def post(base_url: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=base_url, timeout=60, trust_env=False) as client:
        answer = await client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


@pytest.mark.parametrize(("family", "case"), prompts.SPOKEN)
async def test_every_renderer_makes_the_same_prompt(
    family: str, case: str, house: House, launcher: Launcher, own: Settings
) -> None:
    name = f"{family}.gguf"
    messages, tools, think = prompts.CASES[case]
    chat: dict[str, Any] = {"model": name, "messages": messages, "tools": tools, "stream": False}
    chat |= {"options": {"num_predict": 1}} | ({} if think is None else {"think": think})
    card = catalogue.card(name, own)
    if think and "thinking" not in card.capabilities:
        refused = await house.post("/api/chat", chat)
        assert "does not support thinking" in refused.json()["error"]
        return
    shown = await post(house.url, "/api/chat", {**chat, "_debug_render_only": True})
    ours = shown["_debug_info"]["rendered_template"]
    async with house.pool.lease(launcher.key(name), None) as lease:
        body = prompts.asked(lease, card, case)
        assert ours == (await post(lease.endpoint.base_url, "/apply-template", body))["prompt"]
    folder = own.home / "models" / f"{family}-folder"
    assert ours == prompts.of_the_library(folder, body)
    counted = (await post(house.url, "/api/chat", chat))["prompt_eval_count"]
    assert counted == len(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(ours).ids)


@pytest.mark.parametrize("family", prompts.FAMILIES)
async def test_a_folder_and_its_gguf_file_make_the_same_prompt(family: str, house: House) -> None:
    case = "after" if (family, "after") in prompts.SPOKEN else "plain"
    messages, tools, _ = prompts.CASES[case]
    texts = set()
    for name in (f"{family}.gguf", f"{family}-folder"):
        chat = {"model": name, "messages": messages, "tools": tools, "stream": False}
        shown = await post(house.url, "/api/chat", {**chat, "_debug_render_only": True})
        texts.add(shown["_debug_info"]["rendered_template"])
    assert len(texts) == 1
