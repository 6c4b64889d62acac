"""Ollama's routes about the models themselves: list, show, copy, delete, create, transfer."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from vllama.errors import ModelNotFound, UsageError, VllamaError
from vllama.server.ollama import tell_models
from vllama.server.ollama.requests import fields
from vllama.server.ollama.wire import COPY, CREATE, DELETE, PULL, PUSH, SHOW
from vllama.server.relay.refusal import Refusal, told
from vllama.server.relay.written import JSON, NDJSON, dump
from vllama.server.translation.models import CloudDisabled
from vllama.server.web.schema import body_of
from vllama.server.web.service import Service, answered, nothing
from vllama.store import changes, creation, names, transfers
from vllama.store.blobs import Blobs
from vllama.store.layout import InvalidDigest
from vllama.store.reference import Name


def router(service: Service) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["ollama"])
    _listing(routes, service)
    _keeping(routes, service)
    _making(routes, service)
    _blobs(routes, service)
    return routes


def _listing(routes: APIRouter, service: Service) -> None:
    @routes.get("/api/tags")
    @routes.head("/api/tags", include_in_schema=False)
    async def tags() -> Response:
        cards = await service.models.all()
        found = [tell_models.listed(card) for card in cards]
        found += [tell_models.attached(name) for name in service.models.attached]
        return answered({"models": found})

    @routes.get("/api/ps")
    async def ps() -> Response:
        found = []
        for loaded in service.pool.loaded():
            try:
                card = await service.models.card(loaded.name)
            except VllamaError:
                card = None
            found.append(tell_models.running(loaded, card))
        return answered({"models": found})

    @routes.post("/api/show", openapi_extra=body_of(SHOW))
    async def show(request: Request) -> Response:
        found = fields(await service.body(request), SHOW)
        name = found.get("model") or found.get("name") or ""
        if not name.strip():
            raise Refusal(400, "model is required")
        try:
            card = await service.models.card(name)
        except ModelNotFound:
            raise Refusal(404, f"model '{names.shown(name)}' not found") from None
        except CloudDisabled:
            raise CloudDisabled("remote model details are unavailable") from None
        if card is None:
            return answered(tell_models.shown_attached(name))
        shown = await asyncio.to_thread(
            tell_models.shown, card, bool(found.get("verbose")), found.get("system", "")
        )
        agent = request.headers.get("user-agent", "")
        if agent.startswith("GitHubCopilotChat/"):
            shown["model_info"]["general.basename"] = name
        return answered(shown)


def _keeping(routes: APIRouter, service: Service) -> None:
    @routes.post("/api/copy", openapi_extra=body_of(COPY))
    async def copy(request: Request) -> Response:
        found = fields(await service.body(request), COPY)
        source, destination = found.get("source", ""), found.get("destination", "")
        await asyncio.to_thread(changes.copy, source, destination, service.settings)
        service.models.forget()
        return nothing()

    @routes.delete("/api/delete", openapi_extra=body_of(DELETE))
    async def delete(request: Request) -> Response:
        found = fields(await service.body(request), DELETE)
        name = found.get("model") or found.get("name") or ""
        if not name:
            raise Refusal(400, "model is required")
        await asyncio.to_thread(changes.delete, name, service.settings)
        service.models.forget()
        return nothing()


def _making(routes: APIRouter, service: Service) -> None:
    @routes.post("/api/create", openapi_extra=body_of(CREATE))
    async def create(request: Request) -> Response:
        found = fields(await service.body(request), CREATE)
        name = _named(found, "invalid model name")
        if any(
            path.startswith("/") or ".." in path.split("/") for path in found.get("files") or ()
        ):
            raise Refusal(400, "file path must be relative")

        work = creation.create({**found, "model": name}, service.settings)
        return await _told(service, found, work)

    @routes.post("/api/pull", openapi_extra=body_of(PULL))
    async def pull(request: Request) -> Response:
        found = fields(await service.body(request), PULL)
        name = _named(found, "invalid model name")
        insecure = bool(found.get("insecure"))
        return await _told(
            service, found, transfers.pull(name, service.settings, insecure=insecure)
        )

    @routes.post("/api/push", openapi_extra=body_of(PUSH))
    async def push(request: Request) -> Response:
        found = fields(await service.body(request), PUSH)
        name = found.get("model") or found.get("name") or ""
        if not name:
            raise Refusal(400, "model is required")
        insecure = bool(found.get("insecure"))
        return await _told(
            service, found, transfers.push(name, service.settings, insecure=insecure)
        )


def _blobs(routes: APIRouter, service: Service) -> None:
    kept = Blobs(service.settings)

    @routes.head("/api/blobs/{digest}")
    async def has(digest: str) -> Response:
        try:
            return nothing() if kept.has(digest) else answered({"error": "not found"}, 404)
        except InvalidDigest:
            raise Refusal(400, "invalid digest format") from None

    @routes.post("/api/blobs/{digest}")
    async def put(digest: str, request: Request) -> Response:
        try:
            is_new = await kept.put(digest, request.stream())
        except InvalidDigest:
            raise Refusal(400, "invalid digest format") from None
        except UsageError as error:
            raise Refusal(400, error.message) from None
        return nothing(201 if is_new else 200)


def _named(found: dict[str, Any], otherwise: str) -> str:
    name = found.get("model") or found.get("name") or ""
    try:
        Name.parse(name)
    except UsageError:
        raise Refusal(400, otherwise) from None
    return str(name)


async def _told(
    service: Service, found: dict[str, Any], work: AsyncIterator[dict[str, Any]]
) -> Response:
    """The statuses of a work as they come, or its end. What fails at once gets a status."""
    last: dict[str, Any] = {"status": "success"}
    try:
        if found.get("stream", True):
            first = await anext(work, last)
            return StreamingResponse(_lines(service, first, work), media_type=NDJSON)
        async for status in work:
            last = status
    except VllamaError as error:
        status_code, message = told(error)
        return answered({"error": message}, status_code, media_type=JSON)
    finally:
        service.models.forget()
    return answered(last, media_type=JSON)


async def _lines(
    service: Service, first: dict[str, Any], work: AsyncIterator[dict[str, Any]]
) -> AsyncIterator[bytes]:
    yield dump(first) + b"\n"
    try:
        async for status in work:
            yield dump(status) + b"\n"
    except VllamaError as error:
        yield dump({"error": told(error)[1]}) + b"\n"
    finally:
        # A client that hangs up stops the work.
        if isinstance(work, AsyncGenerator):
            await work.aclose()
        service.models.forget()
