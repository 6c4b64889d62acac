"""The official Python client, all of its methods, on a real llama.cpp."""

import asyncio
import functools
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.server.house import House

pytestmark = pytest.mark.llamacpp
FEW = {"temperature": 0, "seed": 1, "num_predict": 5}


@pytest.fixture
def client(ollama_like: House) -> ollama.Client:
    return ollama.Client(host=ollama_like.url, trust_env=False)


async def away(work: Callable[[], Any]) -> Any:
    """The client blocks, and the server runs in this loop."""
    return await asyncio.to_thread(work)


async def test_generate_gives_text_and_figures(client: ollama.Client) -> None:
    answer = await away(lambda: client.generate("m", "hello", options=FEW))
    assert answer.done
    assert answer.eval_count == 5
    assert answer.response
    assert answer.context


async def test_generate_streams(client: ollama.Client) -> None:
    parts = await away(lambda: list(client.generate("m", "hello", options=FEW, stream=True)))
    assert parts[-1].done
    assert not any(part.done for part in parts[:-1])
    whole = await away(lambda: client.generate("m", "hello", options=FEW))
    assert "".join(part.response for part in parts) == whole.response


async def test_chat_whole_and_streamed_say_the_same(client: ollama.Client) -> None:
    messages = [{"role": "user", "content": "hello"}]
    whole = await away(lambda: client.chat("m", messages, options=FEW))
    parts = await away(lambda: list(client.chat("m", messages, options=FEW, stream=True)))
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert whole.message.role == "assistant"


async def test_chat_keeps_to_a_schema(client: ollama.Client) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"enum": ["a", "b"]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    answer = await away(
        lambda: client.chat("m", [{"role": "user", "content": "json"}], format=schema)
    )
    assert answer.message.content in ('{"n":"a"}', '{"n":"b"}')


async def test_the_async_client_chats(ollama_like: House) -> None:
    client = ollama.AsyncClient(host=ollama_like.url, trust_env=False)
    parts = [
        part
        async for part in await client.chat(
            "m", [{"role": "user", "content": "x"}], stream=True, options=FEW
        )
    ]
    assert parts[-1].done_reason in ("stop", "length")


async def test_embed_gives_unit_vectors_and_embeddings_the_raw_one(client: ollama.Client) -> None:
    two = await away(lambda: client.embed("e", ["hello", "world"]))
    assert len(two.embeddings) == 2
    assert sum(x * x for x in two.embeddings[0]) == pytest.approx(1, abs=1e-3)
    one = await away(lambda: client.embeddings("e", "hello"))
    scale = sum(x * x for x in one.embedding) ** 0.5
    assert one.embedding[0] / scale == pytest.approx(two.embeddings[0][0], abs=1e-4)


async def test_list_show_and_ps_know_the_models(client: ollama.Client) -> None:
    await away(lambda: client.generate("m"))
    names = {each.model for each in (await away(client.list)).models}
    assert {"m:latest", "e:latest"} <= names
    shown = await away(lambda: client.show("m"))
    assert shown.modelinfo["general.architecture"] == "qwen2"
    assert "completion" in shown.capabilities
    running = {each.model for each in (await away(client.ps)).models}
    assert "m:latest" in running


async def test_create_copy_and_delete_change_the_list(client: ollama.Client) -> None:
    await away(lambda: client.create("mine", from_="m", system="Be brief."))
    assert (await away(lambda: client.copy("mine", "mine:two"))).status == "success"
    assert (await away(lambda: client.show("mine:two"))).modelfile.count("SYSTEM Be brief.") == 1
    for name in ("mine", "mine:two"):
        assert (await away(functools.partial(client.delete, name))).status == "success"
    with pytest.raises(ollama.ResponseError) as failed:
        await away(lambda: client.delete("mine"))
    assert failed.value.status_code == 404


async def test_create_blob_uploads_a_file(client: ollama.Client, tmp_path: Path) -> None:
    file = tmp_path / "blob"
    file.write_bytes(b"some bytes")
    digest = await away(lambda: client.create_blob(file))
    assert digest == f"sha256:{hashlib.sha256(b'some bytes').hexdigest()}"


async def test_pull_and_push_tell_how_they_fail(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="connection refused"):
        await away(lambda: client.pull("127.0.0.1:9/library/nope", insecure=True))
    with pytest.raises(ollama.ResponseError):
        await away(lambda: list(client.push("127.0.0.1:9/library/nope", stream=True)))


async def test_an_unknown_model_is_an_error_with_its_status(client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match=re.escape("model 'nope' not found")) as failed:
        await away(lambda: client.chat("nope", [{"role": "user", "content": "x"}]))
    assert failed.value.status_code == 404
