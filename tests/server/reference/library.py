"""Cases 67 to 85: embeddings, and what is told, made and moved in the library."""

import hashlib
import re
from typing import Any

import pytest

from tests.server.reference.cases import NX, E, M, World, case, length, lines

LONG = "word " * 6000
STATUS = {"status": "success"}


@case(67)
async def one_vector(w: World) -> None:
    answer = await w.ask("embed", model=E, input="hi")
    [vector] = answer["embeddings"]
    assert length(vector) == pytest.approx(1, abs=1e-3)
    assert answer["prompt_eval_count"] >= 1


@case(68)
async def two_vectors(w: World) -> None:
    texts = ["hi", "why is the sky blue?"]
    together = (await w.ask("embed", model=E, input=texts))["embeddings"]
    assert len(together) == 2
    for text, vector in zip(texts, together, strict=True):
        [alone] = (await w.ask("embed", model=E, input=text))["embeddings"]
        assert sum(a * b for a, b in zip(alone, vector, strict=True)) > 0.99


@case(69)
async def two_dimensions(w: World) -> None:
    [vector] = (await w.ask("embed", model=E, input="hi", dimensions=2))["embeddings"]
    assert len(vector) == 2
    assert length(vector) == pytest.approx(1, abs=1e-3)


@case(70)
async def nothing_to_embed(w: World) -> None:
    nothings: list[dict[str, Any]] = [{}, {"input": ""}, {"input": []}]
    for nothing in nothings:
        assert (await w.ask("embed", model=E, **nothing))["embeddings"] == []


@case(71)
async def numbers_to_embed(w: World) -> None:
    await w.refuses(400, "invalid input type", "/api/embed", model=E, input=[1, 2])


@case(72)
async def too_long_to_embed(w: World) -> None:
    error = "the input length exceeds the context length"
    await w.refuses(400, error, "/api/embed", model=E, input=LONG, truncate=False)


@case(73)
async def cut_before_it_is_embedded(w: World) -> None:
    assert len((await w.ask("embed", model=E, input=LONG))["embeddings"]) == 1


@case(74)
async def legacy_embeddings(w: World) -> None:
    answer = await w.ask("embeddings", model=E, prompt="hi")
    assert list(answer) == ["embedding"]
    assert all(isinstance(x, float) for x in answer["embedding"])
    assert await w.ask("embeddings", model=E, prompt="") == {"embedding": []}


@case(75)
async def show(w: World) -> None:
    shown = await w.ask("show", model=M)
    assert {
        "modelfile", "parameters", "template", "details", "model_info", "tensors",
        "capabilities", "modified_at",
    } <= shown.keys()  # fmt: skip
    assert {
        "parent_model", "format", "family", "families", "parameter_size", "quantization_level",
    } <= shown["details"].keys()  # fmt: skip
    assert "completion" in shown["capabilities"]
    assert shown["model_info"]["tokenizer.ggml.tokens"] is None


@case(76)
async def show_by_name(w: World) -> None:
    assert await w.ask("show", name=M) == await w.ask("show", model=M)


@case(77)
async def show_all(w: World) -> None:
    shown = await w.ask("show", model=M, verbose=True)
    assert len(shown["model_info"]["tokenizer.ggml.tokens"]) > 1000


@case(78)
async def tags(w: World) -> None:
    models = (await w.request("GET", "/api/tags")).json()["models"]
    times = [each["modified_at"] for each in models]
    assert len(models) >= 4
    assert times == sorted(times, reverse=True)
    for each in models:
        assert each["name"] == each["model"]
        assert re.fullmatch("[0-9a-f]{64}", each["digest"])
        assert {
            "parent_model", "format", "family", "families", "parameter_size",
            "quantization_level",
        } <= each["details"].keys()  # fmt: skip


@case(79)
async def copies(w: World) -> None:
    copied = await w.post("/api/copy", source=M, destination="m2")
    assert (copied.status_code, copied.content) == (200, b"")
    assert (await w.post("/api/show", model="m2")).status_code == 200
    gone = await w.request("DELETE", "/api/delete", json={"model": "m2"})
    assert (gone.status_code, gone.content) == (200, b"")
    again = await w.request("DELETE", "/api/delete", json={"model": "m2"})
    assert (again.status_code, again.json()) == (404, {"error": "model 'm2' not found"})


@case(80)
async def creation(w: World) -> None:
    parameters = {"temperature": 0.5, "stop": ["a", "b"]}
    request = {"model": "made", "from": M, "system": "be brief", "parameters": parameters}
    told = lines(await w.post("/api/create", **request))
    assert [each["status"] for each in told[-2:]] == ["writing manifest", "success"]
    shown = await w.ask("show", model="made")
    assert f'{"stop":<30} "a"\n{"stop":<30} "b"' in shown["parameters"]
    assert f"{'temperature':<30} 0.5" in shown["parameters"]
    assert shown["system"] == "be brief"
    assert shown["details"]["parent_model"].split(":")[0] == M
    assert (await w.request("DELETE", "/api/delete", json={"model": "made"})).is_success


@case(81)
async def creation_at_once(w: World) -> None:
    assert await w.ask("create", **{"model": "made", "from": M}) == STATUS
    assert (await w.request("DELETE", "/api/delete", json={"model": "made"})).is_success


@case(82)
async def creation_of_nothing(w: World) -> None:
    error = "neither 'from' or 'files' was specified"
    await w.refuses(400, error, "/api/create", model="made")


@case(83)
async def blob(w: World) -> None:
    data = f"reference case 83 of {w.house.url}".encode()
    path = f"/api/blobs/sha256:{hashlib.sha256(data).hexdigest()}"
    assert (await w.request("HEAD", path)).status_code == 404
    assert (await w.request("POST", path, content=data)).status_code == 201
    assert (await w.request("HEAD", path)).status_code == 200
    assert (await w.request("POST", path, content=data)).status_code == 200


@case(84)
async def blob_of_another_digest(w: World) -> None:
    wrong = "sha256:" + "2" * 64
    response = await w.request("POST", f"/api/blobs/{wrong}", content=b"x")
    assert response.status_code == 400
    assert response.json()["error"].startswith(f'digest mismatch, expected "{wrong}", got "')


@case(85)
async def pull_of_the_unknown(w: World) -> None:
    # A registry where nobody listens: no test reaches for the network.
    name = f"127.0.0.1:9/library/{NX.lower()}"
    told = lines(await w.post("/api/pull", model=name, insecure=True))
    assert told[0] == {"status": "pulling manifest"}
    assert list(told[-1]) == ["error"]
