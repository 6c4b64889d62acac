"""Errors of the native routes: the status and the text, case by case."""

import json
from typing import Any

import pytest

from tests.server.house import Always, House, serving
from vllama.settings import Settings

pytestmark = pytest.mark.llamacpp
BODY_ROUTES = [
    ("POST", f"/api/{name}")
    for name in (
        "generate", "chat", "embed", "embeddings", "show", "pull", "push", "create", "copy",
    )
] + [("DELETE", "/api/delete")]  # fmt: skip
THINK = '(must be "high", "medium", "low", "max", true, or false)'
USER = [{"role": "user", "content": "x"}]
MISSING = [
    ("generate", {}, 404, "model '' not found"),
    ("generate", {"model": "  "}, 404, "model '  ' not found"),
    ("chat", {}, 400, "model is required"),
    ("chat", {"model": " "}, 400, "model is required"),
    ("embed", {}, 404, "model '' not found"),
    ("embeddings", {}, 400, "model is required"),
    ("show", {}, 400, "model is required"),
    ("push", {}, 400, "model is required"),
    ("pull", {}, 400, "invalid model name"),
    ("create", {}, 400, "invalid model name"),
    ("copy", {}, 400, 'source "" is invalid'),
    ("generate", {"model": "NX"}, 404, "model 'NX' not found"),
    ("chat", {"model": "NX", "messages": USER}, 404, "model 'NX' not found"),
    ("show", {"model": "NX"}, 404, "model 'NX:latest' not found"),
    ("embed", {"model": "NX"}, 404, 'model "NX" not found, try pulling it first'),
    ("embeddings", {"model": "NX"}, 404, 'model "NX" not found, try pulling it first'),
    ("copy", {"source": "NX", "destination": "b"}, 404, 'model "NX" not found'),
    ("generate", {"model": "bad//name"}, 400, "invalid model name"),
    ("chat", {"model": "bad//name", "messages": USER}, 400, "invalid model name"),
]
CLOUD = "ollama cloud is disabled: remote model"
WRONG = [
    ("chat", {"model": "x:cloud", "messages": USER}, 403, f"{CLOUD} is unavailable"),
    ("generate", {"model": "x:120b-cloud", "prompt": "x"}, 403, f"{CLOUD} is unavailable"),
    ("show", {"model": "x:cloud"}, 403, f"{CLOUD} details are unavailable"),
    (
        "chat",
        {"model": "x:cloud:local", "messages": USER},
        400,
        'use either :local or :cloud, not both: "x:cloud:local"',
    ),
    ("chat", {"model": "NX:local", "messages": USER}, 404, "model 'NX:local' not found"),
    ("generate", {"model": "m", "keep_alive": "abc"}, 400, 'time: invalid duration "abc"'),
    ("generate", {"model": "m", "keep_alive": "5"}, 400, 'time: missing unit in duration "5"'),
    ("generate", {"model": "m", "keep_alive": ""}, 400, 'time: invalid duration ""'),
    ("generate", {"model": "m", "keep_alive": True}, 400, "Unsupported type: 'bool'"),
    ("generate", {"model": "NX", "keep_alive": "abc"}, 400, 'time: invalid duration "abc"'),
    ("chat", {"model": "m", "think": "ultra"}, 400, f'invalid think value: "ultra" {THINK}'),
    (
        "chat",
        {"model": "m", "think": 5},
        400,
        'think must be a boolean or string ("high", "medium", "low", "max", true, or false)',
    ),
    ("chat", {"model": "m", "top_logprobs": 21}, 400, "top_logprobs must be between 0 and 20"),
    (
        "chat",
        {"model": "m", "messages": [{"role": "user", "content": [{"type": "text"}]}]},
        400,
        "json: cannot unmarshal array into Go struct field Alias.content of type string",
    ),
    (
        "chat",
        {"model": "m", "messages": [{"role": "user", "content": "", "images": ["!!notb64"]}]},
        400,
        "illegal base64 data at input byte 0",
    ),
    (
        "generate",
        {"model": "m", "prompt": "x", "raw": True, "system": "s"},
        400,
        "raw mode does not support template, system, or context",
    ),
    (
        "generate",
        {"model": "m", "prompt": "x", "options": {"temperature": "hot"}},
        500,
        'option "temperature" must be of type float32',
    ),
    (
        "generate",
        {"model": "m", "prompt": "x", "options": {"stop": "x"}},
        500,
        'option "stop" must be of type array',
    ),
    (
        "generate",
        {"model": "m", "prompt": "x", "options": {"stop": [1]}},
        500,
        'option "stop" must be of an array of strings',
    ),
    (
        "generate",
        {"model": "m", "prompt": "x", "options": {"use_mmap": 1}},
        500,
        'option "use_mmap" must be of type boolean',
    ),
    (
        "generate",
        {"model": "m", "prompt": "x", "format": "xml"},
        500,
        'invalid format: "\\"xml\\""; expected "json" or a valid JSON Schema object',
    ),
    (
        "generate",
        {"model": "m", "prompt": "x", "suffix": "y"},
        400,
        "registry.ollama.ai/library/m:latest does not support insert",
    ),
    ("chat", {"model": "m", "messages": USER, "think": True}, 400, '"m" does not support thinking'),
    (
        "chat",
        {"model": "m", "messages": USER, "tools": [{"type": "function"}]},
        400,
        "registry.ollama.ai/library/m:latest does not support tools",
    ),
    ("generate", {"model": "e"}, 400, '"e" does not support generate'),
    ("chat", {"model": "e"}, 400, '"e" does not support chat'),
    ("embed", {"model": "e", "input": [1, 2]}, 400, "invalid input type"),
    ("embed", {"model": "NX", "input": {}}, 400, "invalid input type"),
    (
        "embed",
        {"model": "e", "input": "word " * 6000, "truncate": False},
        400,
        "the input length exceeds the context length",
    ),
    (
        "generate",
        {"model": "m", "prompt": "word " * 300, "shift": False, "options": {"num_ctx": 64}},
        400,
        "the prompt is longer than the context length currently available to the model; shorten"
        " the prompt, adjust the context length in settings, or use a model with a longer context"
        " length",
    ),
    ("create", {"model": "x"}, 400, "neither 'from' or 'files' was specified"),
]


@pytest.mark.parametrize(("method", "path"), BODY_ROUTES)
@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "missing request body"),
        (b" \n", "missing request body"),
        (b"{bad", "invalid character 'b' looking for beginning of object key string"),
        (b'{"model":', "unexpected EOF"),
    ],
)
async def test_a_body_that_is_no_json_is_told_in_gos_words(
    ollama_like: House, method: str, path: str, body: bytes, error: str
) -> None:
    async with ollama_like.client() as client:
        response = await client.request(method, path, content=body)
    assert (response.status_code, response.json()) == (400, {"error": error})
    assert response.headers["content-type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize(
    ("route", "body", "status", "error"), MISSING + WRONG, ids=lambda v: str(v)[:40]
)
async def test_what_is_wrong_has_its_status_and_text(
    ollama_like: House, route: str, body: dict[str, Any], status: int, error: str
) -> None:
    response = await ollama_like.post(f"/api/{route}", body)
    assert (response.status_code, response.json()) == (status, {"error": error})


async def test_a_name_may_say_that_it_is_local(ollama_like: House) -> None:
    response = await ollama_like.post("/api/generate", {"model": "m:local"})
    assert (response.json()["done_reason"], response.json()["model"]) == ("load", "m:local")


async def test_cloud_routes_answer_as_with_the_cloud_off(ollama_like: House) -> None:
    for path, status, error in (
        ("/api/me", 503, "account unavailable"),
        ("/api/signout", 401, "you are not currently signed in"),
        (
            "/api/experimental/web_search",
            403,
            "ollama cloud is disabled: web search is unavailable",
        ),
    ):
        response = await ollama_like.post(path, {"query": "x"})
        assert (response.status_code, response.json()) == (status, {"error": error})
    status_page = (await ollama_like.get("/api/status")).json()
    assert status_page == {"cloud": {"disabled": True, "source": "env"}}
    audio = await ollama_like.post("/v1/audio/transcriptions", {})
    assert audio.status_code == 400
    assert audio.json()["error"]["message"].startswith("failed to parse multipart form")


async def test_delete_names_what_it_does_not_find(ollama_like: House) -> None:
    async with ollama_like.client() as client:
        for body, status, error in (
            ({}, 400, "model is required"),
            ({"model": "NX"}, 404, "model 'NX' not found"),
            ({"model": "a b"}, 400, 'name "a b" is invalid'),
        ):
            response = await client.request("DELETE", "/api/delete", content=json.dumps(body))
            assert (response.status_code, response.json()) == (status, {"error": error})


async def test_blobs_check_their_digests(ollama_like: House) -> None:
    async with ollama_like.client() as client:
        bad = await client.post("/api/blobs/sha256:zz", content=b"x")
        assert (bad.status_code, bad.json()) == (400, {"error": "invalid digest format"})
        wrong = "sha256:" + "1" * 64
        mismatch = await client.post(f"/api/blobs/{wrong}", content=b"x")
        assert mismatch.status_code == 400
        assert mismatch.json()["error"].startswith(f'digest mismatch, expected "{wrong}", got "')
        assert (await client.head(f"/api/blobs/{wrong}")).status_code == 404


async def test_a_body_over_the_limit_is_refused(settings: Settings) -> None:
    async with serving(Always({}), settings, max_body_bytes=100) as house:
        response = await house.post("/api/generate", {"model": "m", "prompt": "x" * 200})
        assert response.status_code == 413
        openai = await house.post("/v1/chat/completions", {"model": "m" * 200})
        assert openai.json()["error"]["type"] == "api_error"
