"""Hosts, origins, methods, slashes and keys, on the real application."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tests.server.house import Always, House, serving
from vllama.settings import Settings


@pytest.fixture
async def house(settings: Settings) -> AsyncIterator[House]:
    async with serving(Always({}), settings) as each:
        yield each


async def test_the_root_says_that_it_runs(house: House) -> None:
    response = await house.get("/")
    assert response.text == "Ollama is running"
    assert response.headers["content-type"].startswith("text/plain")
    async with house.client() as client:
        head = await client.head("/")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/api/generate", "POST"),
        ("HEAD", "/api/ps", "GET"),
        ("HEAD", "/v1/models", "GET"),
        ("OPTIONS", "/api/chat", "POST"),
        ("DELETE", "/api/tags", "HEAD, GET"),
    ],
)
async def test_a_wrong_method_learns_the_right_ones(
    house: House, method: str, path: str, allow: str
) -> None:
    async with house.client() as client:
        response = await client.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == allow
    if method != "HEAD":
        assert response.text == "405 method not allowed"


@pytest.mark.parametrize("path", ["/nope", "/v1", "/api", "/v1/images/generations"])
async def test_an_unknown_path_is_plain_text(house: House, path: str) -> None:
    response = await house.get(path)
    assert (response.status_code, response.text) == (404, "404 page not found")
    assert response.headers["content-type"] == "text/plain"


@pytest.mark.parametrize(
    ("method", "path", "status", "location"),
    [
        ("GET", "/api/tags/", 301, "/api/tags"),
        ("POST", "/api/chat/", 307, "/api/chat"),
        ("POST", "/api//chat", 301, "/api/chat"),
    ],
)
async def test_a_slash_too_many_leads_to_the_path_without(
    house: House, method: str, path: str, status: int, location: str
) -> None:
    async with house.client() as client:
        response = await client.request(method, path)
    assert (response.status_code, response.headers["location"]) == (status, location)


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:3000",
        "https://127.0.0.1",
        "app://obsidian.md",
        "vscode-webview://abc",
        "tauri://localhost",
    ],
)
async def test_local_origins_are_let_in_and_echoed(house: House, origin: str) -> None:
    response = await house.get("/api/version", headers={"Origin": origin})
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == origin
    assert response.headers["vary"] == "Origin"


@pytest.mark.parametrize("origin", ["https://evil.example", "chrome-extension://x", "null"])
async def test_foreign_origins_get_an_empty_403(house: House, origin: str) -> None:
    response = await house.get("/api/version", headers={"Origin": origin})
    assert (response.status_code, response.content) == (403, b"")


async def test_its_own_origin_needs_no_headers(house: House) -> None:
    response = await house.get("/api/version", headers={"Origin": house.url})
    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers


async def test_an_allowed_preflight_is_answered(house: House) -> None:
    headers = {"Origin": "http://localhost:1", "Access-Control-Request-Method": "POST"}
    async with house.client() as client:
        response = await client.options("/api/chat", headers=headers)
    assert response.status_code == 204
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "Authorization" in response.headers["access-control-allow-headers"]
    assert response.headers["access-control-max-age"] == "43200"


async def test_more_origins_can_be_named_and_all_allowed(settings: Settings) -> None:
    named = replace(settings, origins=("https://*.example",))
    async with serving(Always({}), named) as house:
        response = await house.get("/", headers={"Origin": "https://a.example"})
        assert response.headers["access-control-allow-origin"] == "https://a.example"
    every = replace(settings, origins=("*",))
    async with serving(Always({}), every) as house:
        response = await house.get("/", headers={"Origin": "null"})
        assert response.headers["access-control-allow-origin"] == "*"
        foreign = await house.get("/", headers={"Host": "evil.example"})
        assert foreign.status_code == 403


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 200),
        ("127.0.0.1", 200),
        ("[::1]:80", 200),
        ("my.local", 200),
        ("host.docker.internal:11434", 200),
        ("10.0.0.7", 200),
        ("evil.example", 403),
        ("8.8.8.8", 403),
    ],
)
async def test_a_loopback_server_answers_only_to_local_names(
    house: House, host: str, status: int
) -> None:
    response = await house.get("/api/version", headers={"Host": host})
    assert response.status_code == status


@pytest.fixture
async def locked(settings: Settings) -> AsyncIterator[House]:
    async with serving(Always({}), settings, api_keys={"secret", "other"}) as each:
        yield each


async def test_without_a_key_each_api_says_so_in_its_form(locked: House) -> None:
    native = await locked.get("/api/tags")
    assert (native.status_code, native.json()) == (401, {"error": "unauthorized"})
    openai = await locked.get("/v1/models")
    assert openai.json()["error"]["type"] == "authentication_error"
    anthropic = await locked.post("/v1/messages", {})
    assert anthropic.status_code == 401
    assert anthropic.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": "Bearer secret"}, {"authorization": "bearer other"}, {"x-api-key": "other"}],
)
async def test_any_of_the_keys_opens(locked: House, headers: dict[str, str]) -> None:
    assert (await locked.get("/api/tags", headers=headers)).status_code == 200


async def test_a_wrong_key_does_not_open_but_life_can_be_asked(locked: House) -> None:
    wrong = await locked.get("/api/tags", headers={"Authorization": "Bearer secre"})
    assert wrong.status_code == 401
    assert (await locked.get("/")).status_code == 200
    assert (await locked.get("/health")).status_code == 200


async def test_an_authorization_nobody_asked_for_is_tolerated(house: House) -> None:
    response = await house.get("/api/tags", headers={"Authorization": "Bearer x"})
    assert response.json() == {"models": []}


async def test_an_empty_store_lists_nothing(house: House) -> None:
    assert (await house.get("/api/ps")).json() == {"models": []}
    assert (await house.get("/v1/models")).json() == {"object": "list", "data": None}


async def test_the_version_is_dotted_numbers(house: House) -> None:
    version = (await house.get("/api/version")).json()["version"]
    assert tuple(map(int, version.split("."))) >= (0, 6, 4)
