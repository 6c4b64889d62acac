"""OpenAI's routes: chat, text completions, embeddings, models."""

import base64
import re
import struct
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from vllama.errors import ModelNotFound, UsageError
from vllama.server.ollama import requests as ollama_requests
from vllama.server.openai import passing
from vllama.server.openai import requests as openai_requests
from vllama.server.openai import voices as openai_voices
from vllama.server.openai.wire import CHAT, COMPLETION, EMBEDDINGS
from vllama.server.relay import relay
from vllama.server.relay.refusal import Refusal
from vllama.server.relay.written import JSON
from vllama.server.translation import prompts
from vllama.server.translation.ask import Ask
from vllama.server.translation.embedding import Wish, embed
from vllama.server.translation.generation import Generation, Voice
from vllama.server.web.gotypes import Record
from vllama.server.web.schema import body_of
from vllama.server.web.service import Service, answered, sent
from vllama.store import names
from vllama.store.reference import Name

_NO_INPUT = "input exceeds maximum context length and cannot be truncated further"


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["openai"])
    for part in (_models, _audio, _chat, _completion, _embeddings):
        part(routes, service)
    return routes


def _chat(routes: APIRouter, service: Service) -> None:
    @routes.post("/v1/chat/completions", openapi_extra=body_of(CHAT))
    async def chat(request: Request) -> Response:
        body = await service.body(request)
        found = ollama_requests.fields(body, CHAT, empty="EOF")
        messages = openai_requests.check_chat(found)
        ollama_requests.check_top_logprobs(found)
        name = found.get("model", "")
        if not name.strip():
            raise Refusal(400, "model is required")
        card = await service.models.card(name)
        ask = openai_requests.chat(found, messages, service.models.key(name), card)
        if found.get("_debug_render_only"):
            return _rendered(ask)
        voice = openai_voices.ChatVoice(name, with_usage=_wants_usage(found))
        made = _passing(service, ask, voice, b"/v1/chat/completions", body, CHAT)
        return relay.answer(request, service.pool, made)


def _completion(routes: APIRouter, service: Service) -> None:
    @routes.post("/v1/completions", openapi_extra=body_of(COMPLETION))
    async def completion(request: Request) -> Response:
        body = await service.body(request)
        found = ollama_requests.fields(body, COMPLETION, empty="EOF")
        openai_requests.stops(found.get("stop"))
        openai_requests.batch(found.get("prompt"))
        name = found.get("model", "")
        if not name.strip():
            raise ModelNotFound(name)
        card = await service.models.card(name)
        key = service.models.key(name)
        ask = openai_requests.completion(found, key, card)
        if not found.get("prompt") and not found.get("suffix"):
            await relay.connected(request, service.pool.preload(key))
            return sent(openai_voices.loaded(name))
        if found.get("_debug_render_only"):
            return _rendered(ask)
        voice = openai_voices.CompletionVoice(name, with_usage=_wants_usage(found))
        made = _passing(service, ask, voice, b"/v1/completions", body, COMPLETION)
        return relay.answer(request, service.pool, made)


def _embeddings(routes: APIRouter, service: Service) -> None:
    @routes.post("/v1/embeddings", openapi_extra=body_of(EMBEDDINGS))
    async def embeddings(request: Request) -> Response:
        body = await service.body(request)
        found = ollama_requests.fields(body, EMBEDDINGS, empty="EOF")
        texts, encoding = _embedded_texts(found)
        name = found.get("model", "")
        card = await service.models.to_embed(name)
        if "" in texts:
            raise Refusal(400, _NO_INPUT)
        dimensions = found.get("dimensions", 0)
        wish = Wish(service.models.key(name), card, texts, dimensions=dimensions)
        passed = passing.embedded(wish, body, EMBEDDINGS.fields, service.pool)
        if (reply := await relay.connected(request, passed)) is not None:
            return sent(reply)
        made = await relay.connected(request, embed(wish, service.pool))
        data = [
            {"object": "embedding", "embedding": _encoded(vector, encoding), "index": i}
            for i, vector in enumerate(made.vectors)
        ]
        usage = {"prompt_tokens": made.tokens, "total_tokens": made.tokens}
        return _told({"object": "list", "data": data, "model": name, "usage": usage})


def _audio(routes: APIRouter, service: Service) -> None:
    @routes.post("/v1/audio/transcriptions")
    async def transcribe(request: Request) -> Response:
        kind = request.headers.get("content-type", "")
        if not kind.startswith("multipart/form-data"):
            raise Refusal(
                400,
                "failed to parse multipart form: request Content-Type isn't multipart/form-data",
                early=True,
            )
        body = await service.body(request)
        named = re.search(rb'name="model"\r\n\r\n([^\r\n]*)\r\n', body)
        name = named[1].decode("utf-8", "replace") if named else ""
        if not name.strip():
            raise Refusal(400, "model is required", early=True)
        await service.models.card(name)
        # No engine behind vllama listens.
        raise Refusal(400, f'"{name}" does not support audio')


def _models(routes: APIRouter, service: Service) -> None:
    @routes.get("/v1/models")
    async def listing() -> Response:
        cards = await service.models.all()
        data = [_model(card.name, int(card.modified_at.timestamp()), card.name) for card in cards]
        data += [_model(name, 0, name) for name in service.models.attached]
        return _told({"object": "list", "data": data or None})

    @routes.get("/v1/models/{model:path}")
    async def one(model: str) -> Response:
        try:
            card = await service.models.card(model)
        except ModelNotFound:
            raise Refusal(404, f"model '{names.shown(model)}' not found") from None
        created = int(card.modified_at.timestamp()) if card is not None else 0
        return _told(_model(model, created, card.name if card is not None else model))


def _embedded_texts(found: dict[str, Any]) -> tuple[tuple[str, ...], str]:
    encoding = found.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise Refusal(
            400,
            f"Invalid value for 'encoding_format' = {encoding}."
            " Supported values: ['float', 'base64'].",
            early=True,
        )
    given = found.get("input")
    if given is None or given == []:
        raise Refusal(400, "invalid input", early=True)
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
        raise Refusal(400, "invalid input type", early=True)
    return tuple(texts), encoding


def _encoded(vector: list[float], encoding: str) -> Any:
    if encoding == "float":
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _passing(
    service: Service, ask: Ask, voice: Voice, path: bytes, body: bytes, record: Record
) -> Generation:
    """What may stand aside; where lengths are noted, answers are read."""
    if ask.card is not None or service.pool.shapes is not None:
        return Generation(ask, voice)
    cuts = path == b"/v1/chat/completions"
    return passing.Passing(ask, voice, path=path, body=body, known=record.fields, cuts=cuts)


def _wants_usage(found: dict[str, Any]) -> bool:
    return bool((found.get("stream_options") or {}).get("include_usage"))


def _model(name: str, created: int, stored: str) -> dict[str, Any]:
    try:
        owner = Name.parse(stored).namespace
    except UsageError:
        owner = "library"
    return {"id": name, "object": "model", "created": created, "owned_by": owner}


def _rendered(ask: Ask) -> Response:
    return _told({"_debug_info": {"rendered_template": prompts.text(ask)}})


def _told(document: dict[str, Any]) -> Response:
    return answered(document, media_type=JSON)
