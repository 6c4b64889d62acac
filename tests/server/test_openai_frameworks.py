"""Frameworks above the clients: langchain-ollama and litellm, on a real llama.cpp."""

import asyncio
from typing import Any

import pytest

from tests.server.house import House

pytestmark = pytest.mark.llamacpp


async def test_langchain_chats_and_binds_tools(ollama_like: House) -> None:
    chat = pytest.importorskip("langchain_ollama").ChatOllama
    model = chat(
        model="t", base_url=ollama_like.url, temperature=0, num_predict=5, reasoning=False,
        client_kwargs={"trust_env": False},
    )  # fmt: skip
    said = await model.ainvoke("hello")
    assert said.content
    assert said.response_metadata["eval_count"] == 5
    parts = [part.content async for part in model.astream("hello")]
    assert "".join(parts) == said.content

    def get_time(tz: str) -> str:
        """The time somewhere."""
        return tz

    bound = model.bind_tools([get_time])
    assert (await bound.ainvoke("what time is it?")).response_metadata["done"]


async def test_langchain_gets_structured_output_and_vectors(ollama_like: House) -> None:
    package = pytest.importorskip("langchain_ollama")
    schema: dict[str, Any] = {
        "title": "Answer",
        "type": "object",
        "properties": {"n": {"type": "string", "enum": ["a", "b"]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    model = package.ChatOllama(
        model="m", base_url=ollama_like.url, temperature=0, num_predict=50,
        client_kwargs={"trust_env": False},
    ).with_structured_output(schema, method="json_schema")  # fmt: skip
    assert (await model.ainvoke("give json"))["n"] in ("a", "b")
    embedder = package.OllamaEmbeddings(
        model="e", base_url=ollama_like.url, client_kwargs={"trust_env": False}
    )
    vectors = await embedder.aembed_documents(["one", "two"])
    assert len(vectors) == 2


async def test_litellm_chats_as_with_an_ollama(ollama_like: House) -> None:
    litellm = pytest.importorskip("litellm")

    def ask() -> Any:
        return litellm.completion(
            model="ollama_chat/m",
            api_base=ollama_like.url,
            messages=[{"role": "user", "content": "hello"}],
            max_tokens=4,
            temperature=0,
        )

    answer = await asyncio.to_thread(ask)
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens == 4
