"""Cases 1 to 32: the router, empty stores, and what is refused before a model is needed."""

from tests.server.house import Always, serving
from tests.server.reference.cases import BODIES, JSON, NX, USER, E, M, World, case

THINK = '(must be "high", "medium", "low", "max", true, or false)'


@case(1)
async def root(w: World) -> None:
    response = await w.request("GET", "/")
    assert (response.status_code, response.text) == (200, "Ollama is running")
    assert response.headers["content-type"].startswith("text/plain")


@case(2)
async def head_of_root(w: World) -> None:
    response = await w.request("HEAD", "/")
    assert (response.status_code, response.content) == (200, b"")


@case(3)
async def version(w: World) -> None:
    response = await w.request("GET", "/api/version")
    major, minor, patch = response.json()["version"].split(".")[:3]
    assert response.status_code == 200
    assert all(part[:1].isdigit() for part in (major, minor, patch))


@case(4)
async def unknown_path(w: World) -> None:
    response = await w.request("GET", "/nope")
    assert (response.status_code, response.text) == (404, "404 page not found")


@case(5)
async def wrong_method(w: World) -> None:
    response = await w.request("GET", "/api/generate")
    assert (response.status_code, response.text) == (405, "405 method not allowed")
    assert response.headers["allow"] == "POST"


@case(6)
async def slash_after_post(w: World) -> None:
    response = await w.request("POST", "/api/chat/")
    assert (response.status_code, response.headers["location"]) == (307, "/api/chat")


@case(7)
async def slash_after_get(w: World) -> None:
    response = await w.request("GET", "/api/tags/")
    assert (response.status_code, response.headers["location"]) == (301, "/api/tags")


@case(8)
async def no_models(w: World) -> None:
    async with serving(Always({}), w.settings) as empty:
        assert (await empty.get("/api/tags")).json() == {"models": []}


@case(9)
async def nothing_loaded(w: World) -> None:
    async with serving(Always({}), w.settings) as empty:
        assert (await empty.get("/api/ps")).json() == {"models": []}


@case(10)
async def no_models_for_openai(w: World) -> None:
    async with serving(Always({}), w.settings) as empty:
        listed = (await empty.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert listed["data"] in (None, [])


@case(11)
async def head_of_tags(w: World) -> None:
    response = await w.request("HEAD", "/api/tags")
    assert (response.status_code, response.content) == (200, b"")


@case(12)
async def no_body(w: World) -> None:
    for method, path in BODIES:
        response = await w.request(method, path)
        assert (response.status_code, path, response.json()) == (
            400, path, {"error": "missing request body"},
        )  # fmt: skip


@case(13)
async def bad_body(w: World) -> None:
    error = "invalid character 'b' looking for beginning of object key string"
    for method, path in BODIES:
        response = await w.request(method, path, content=b"{bad")
        assert (response.status_code, path, response.json()) == (400, path, {"error": error})
        assert response.headers["content-type"] == JSON


@case(14)
async def generate_without_model(w: World) -> None:
    await w.refuses(404, "model '' not found", "/api/generate")


@case(15)
async def chat_without_model(w: World) -> None:
    await w.refuses(400, "model is required", "/api/chat")


@case(16)
async def embed_without_model(w: World) -> None:
    await w.refuses(404, "model '' not found", "/api/embed")


@case(17)
async def others_without_model(w: World) -> None:
    for path in ("/api/embeddings", "/api/show", "/api/push"):
        await w.refuses(400, "model is required", path)
    response = await w.request("DELETE", "/api/delete", json={})
    assert (response.status_code, response.json()) == (400, {"error": "model is required"})


@case(18)
async def pull_and_create_without_model(w: World) -> None:
    for path in ("/api/pull", "/api/create"):
        await w.refuses(400, "invalid model name", path)


@case(19)
async def copy_without_source(w: World) -> None:
    await w.refuses(400, 'source "" is invalid', "/api/copy")


@case(20)
async def unknown_to_generate_and_chat(w: World) -> None:
    await w.refuses(404, "model 'NX' not found", "/api/generate", model=NX, prompt="x")
    await w.refuses(404, "model 'NX' not found", "/api/chat", model=NX, messages=USER)


@case(21)
async def unknown_to_show(w: World) -> None:
    await w.refuses(404, "model 'NX:latest' not found", "/api/show", model=NX)


@case(22)
async def unknown_to_embed(w: World) -> None:
    error = 'model "NX" not found, try pulling it first'
    await w.refuses(404, error, "/api/embed", model=NX, input="x")


@case(23)
async def unknown_to_delete(w: World) -> None:
    response = await w.request("DELETE", "/api/delete", json={"model": NX})
    assert (response.status_code, response.json()) == (404, {"error": "model 'NX' not found"})


@case(24)
async def unknown_to_copy(w: World) -> None:
    await w.refuses(404, 'model "NX" not found', "/api/copy", source=NX, destination="b")


@case(25)
async def impossible_name(w: World) -> None:
    await w.refuses(400, "invalid model name", "/api/generate", model="bad//name")


@case(26)
async def no_duration(w: World) -> None:
    error = 'time: invalid duration "abc"'
    await w.refuses(400, error, "/api/generate", model=M, keep_alive="abc")


@case(27)
async def duration_without_unit(w: World) -> None:
    error = 'time: missing unit in duration "5"'
    await w.refuses(400, error, "/api/generate", model=M, keep_alive="5")


@case(28)
async def duration_of_wrong_type(w: World) -> None:
    await w.refuses(400, "Unsupported type: 'bool'", "/api/generate", model=M, keep_alive=True)


@case(29)
async def unknown_effort(w: World) -> None:
    error = f'invalid think value: "ultra" {THINK}'
    await w.refuses(400, error, "/api/chat", model=M, messages=USER, think="ultra")


@case(30)
async def too_many_logprobs(w: World) -> None:
    error = "top_logprobs must be between 0 and 20"
    await w.refuses(400, error, "/api/chat", model=M, messages=USER, top_logprobs=21)


@case(31)
async def content_as_list(w: World) -> None:
    response = await w.post(
        "/api/chat", model=M, messages=[{"role": "user", "content": [{"type": "text"}]}]
    )
    error = response.json()["error"]
    assert response.status_code == 400
    assert error.startswith("json: cannot unmarshal array into Go struct field ")
    assert error.endswith(".content of type string")


@case(32)
async def image_that_is_none(w: World) -> None:
    messages = [{"role": "user", "content": "", "images": ["!!notb64"]}]
    error = "illegal base64 data at input byte 0"
    await w.refuses(400, error, "/api/chat", model=M, messages=messages)


@case(62)
async def embedder_asked_to_write(w: World) -> None:
    await w.refuses(400, '"e" does not support generate', "/api/generate", model=E, prompt="x")
    await w.refuses(400, '"e" does not support chat', "/api/chat", model=E, messages=USER)
