"""Refusals, and the forms in which each API tells its errors."""

import secrets
from typing import Any, Protocol

import msgspec

from vllama.errors import EngineFailed, ModelNotFound, UsageError, VllamaError
from vllama.server.lifecycle.member import Unavailable
from vllama.server.relay.exchange import Reply
from vllama.server.relay.written import JSON, JSON_UTF8, dump

_CONTEXT = ("exceed_context_size_error", "maximum context length", "longer than the maximum model")
TOO_LONG = (
    "the prompt is longer than the context length currently available to the model; shorten the"
    " prompt, adjust the context length in settings, or use a model with a longer context length"
)


class Refusal(UsageError):
    """A request that gets `status` and `message`; `early` when its body was never understood."""

    def __init__(self, status: int, message: str, *, early: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.early = early


class Form(Protocol):
    """How one API tells an error."""

    def reply(self, status: int, message: str, *, early: bool = False) -> Reply:
        """A whole answer."""
        ...

    def in_stream(self, message: str) -> bytes:
        """The last bytes of a stream that broke."""
        ...


class NativeForm:
    """Ollama's own."""

    def reply(self, status: int, message: str, *, early: bool = False) -> Reply:  # noqa: ARG002
        """`{"error": ...}`."""
        return Reply(status, dump({"error": message}), [(b"content-type", JSON_UTF8)])

    def in_stream(self, message: str) -> bytes:
        """One more line."""
        return dump({"error": message}) + b"\n"


class OpenAIForm:
    """OpenAI's, as Ollama words it."""

    def reply(self, status: int, message: str, *, early: bool = False) -> Reply:
        """Errors of the body carry a charset and no newline, those of the handlers do not."""
        body = dump(self._error(status, message))
        if early:
            return Reply(status, body, [(b"content-type", JSON_UTF8)])
        return Reply(status, body + b"\n", [(b"content-type", JSON)])

    def in_stream(self, message: str) -> bytes:
        """An event with the error, then the end that clients wait for."""
        return b"data: %b\n\ndata: [DONE]\n\n" % dump(self._error(500, message))

    def _error(self, status: int, message: str) -> dict[str, Any]:
        kinds = {400: "invalid_request_error", 404: "not_found_error", 401: "authentication_error"}
        kind = kinds.get(status, "api_error")
        return {"error": {"message": message, "type": kind, "param": None, "code": None}}


class ResponsesForm(OpenAIForm):
    """Of `/v1/responses`, whose streams know failing."""

    def in_stream(self, message: str) -> bytes:
        """An `error` event."""
        event = {"type": "error", "code": "server_error", "message": message, "param": None}
        return b"event: error\ndata: %b\n\n" % dump(event)


class AnthropicForm:
    """Anthropic's."""

    _KINDS = {  # noqa: RUF012
        400: "invalid_request_error",
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        503: "overloaded_error",
        529: "overloaded_error",
    }

    def reply(self, status: int, message: str, *, early: bool = False) -> Reply:
        """With a request id."""
        document = {**self._error(status, message), "request_id": f"req_{secrets.token_hex(12)}"}
        body = dump(document)
        if early:
            return Reply(status, body, [(b"content-type", JSON_UTF8)])
        return Reply(status, body + b"\n", [(b"content-type", JSON)])

    def in_stream(self, message: str) -> bytes:
        """An `error` event."""
        return b"event: error\ndata: %b\n\n" % dump(self._error(500, message))

    def _error(self, status: int, message: str) -> dict[str, Any]:
        kind = self._KINDS.get(status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}


NATIVE, OPENAI, RESPONSES, ANTHROPIC = NativeForm(), OpenAIForm(), ResponsesForm(), AnthropicForm()


def told(error: VllamaError) -> tuple[int, str]:
    """The status and text that a client gets for an error."""
    if isinstance(error, Refusal):
        return error.status, error.message
    if isinstance(error, ModelNotFound):
        return 404, f"model '{error.name}' not found"
    if isinstance(error, Unavailable):
        return 503, error.message
    if isinstance(error, EngineFailed):
        return 500, error.message
    status = getattr(error, "status", 500)
    return (status if isinstance(status, int) else 500), error.message


def failed(error: VllamaError, form: Form) -> Reply:
    """An error as a whole answer."""
    status, message = told(error)
    early = isinstance(error, Refusal) and error.early
    return form.reply(status, message, early=early)


def of_engine(reply: Reply) -> Refusal:
    """An engine's own refusal as ours: its body as text, as Ollama hands it on."""
    text = reply.body.decode("utf-8", "replace").strip()
    message = engine_message(reply.body)
    if reply.status == 400 and any(sign in text for sign in _CONTEXT):
        return Refusal(400, TOO_LONG)
    if 400 <= reply.status < 500:
        return Refusal(reply.status, text or f"the engine answered {reply.status}")
    return Refusal(reply.status or 500, message or f"the engine answered {reply.status}")


def engine_message(body: bytes) -> str:
    """The text inside an engine's error document; empty when it is none."""
    try:
        document = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return body.decode("utf-8", "replace").strip()
    if not isinstance(document, dict):
        return ""
    error = document.get("error", document)
    if isinstance(error, dict):
        error = error.get("message", "")
    return error if isinstance(error, str) else ""
