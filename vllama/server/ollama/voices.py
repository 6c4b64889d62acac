"""How Ollama's native API tells an answer: lines of JSON, the last one with counts and times."""

from typing import Any

from vllama.server.relay.exchange import Reply
from vllama.server.relay.refusal import NATIVE, Form
from vllama.server.relay.written import JSON_UTF8, NDJSON, dump, stamp, text, utc
from vllama.server.translation.pieces import Piece, Tally
from vllama.server.translation.splitting import call_id
from vllama.uplink import Headers


class GenerateVoice:
    """Of `/api/generate`."""

    media_type = NDJSON
    form: Form = NATIVE

    def __init__(self, model: str, *, with_context: bool) -> None:
        self._model = model
        self._head = b'{"model":%b,"created_at":"' % text(model)
        self._with_context = with_context
        self.headers: Headers = []

    def frame(self) -> tuple[bytes, bytes]:
        """Before and after a text."""
        return b'%b%b","response":"' % (self._head, stamp()), b'","done":false}\n'

    def piece(self, piece: Piece) -> bytes:
        """One line."""
        if not (piece.thinking or piece.calls or piece.logprobs):
            before, after = self.frame()
            return b"%b%b%b" % (before, text(piece.text)[1:-1], after)
        return dump({**self._start(), **_said(piece), "done": False, **_logprobs(piece)}) + b"\n"

    def last(self, tally: Tally) -> bytes:
        """The line that says how it ended."""
        return dump({**self._start(), "response": "", **self._end(tally)}) + b"\n"

    def whole(self, pieces: list[Piece], tally: Tally) -> Reply:
        """Everything in one object."""
        piece = pieces[0]
        answer = {**self._start(), **_said(piece), **self._end(tally), **_logprobs(piece)}
        return Reply(200, dump(answer), [(b"content-type", JSON_UTF8)])

    def _start(self) -> dict[str, Any]:
        return {"model": self._model, "created_at": utc()}

    def _end(self, tally: Tally) -> dict[str, Any]:
        end: dict[str, Any] = {"done": True, "done_reason": _reason(tally)}
        if self._with_context:
            end["context"] = [*tally.prompt_ids, *tally.output_ids]
        return {**end, **_metrics(tally)}


class ChatVoice:
    """Of `/api/chat`."""

    media_type = NDJSON
    form: Form = NATIVE

    def __init__(self, model: str) -> None:
        self._model = model
        self._head = b'{"model":%b,"created_at":"' % text(model)
        self.headers: Headers = []

    def frame(self) -> tuple[bytes, bytes]:
        """Before and after a text."""
        before = b'%b%b","message":{"role":"assistant","content":"' % (self._head, stamp())
        return before, b'"},"done":false}\n'

    def piece(self, piece: Piece) -> bytes:
        """One line."""
        if not (piece.thinking or piece.calls or piece.logprobs):
            before, after = self.frame()
            return b"%b%b%b" % (before, text(piece.text)[1:-1], after)
        line = {**self._start(), "message": _message(piece), "done": False, **_logprobs(piece)}
        return dump(line) + b"\n"

    def last(self, tally: Tally) -> bytes:
        """The line that says how it ended."""
        return dump({**self._start(), "message": _message(Piece()), **_end(tally)}) + b"\n"

    def whole(self, pieces: list[Piece], tally: Tally) -> Reply:
        """Everything in one object."""
        piece = pieces[0]
        answer = {**self._start(), "message": _message(piece), **_end(tally), **_logprobs(piece)}
        return Reply(200, dump(answer), [(b"content-type", JSON_UTF8)])

    def _start(self) -> dict[str, Any]:
        return {"model": self._model, "created_at": utc()}


def _end(tally: Tally) -> dict[str, Any]:
    return {"done": True, "done_reason": _reason(tally), **_metrics(tally)}


def _reason(tally: Tally) -> str:
    return "length" if tally.reason == "length" else "stop"


def _metrics(tally: Tally) -> dict[str, int]:
    found = {
        "total_duration": tally.total_ns,
        "load_duration": tally.load_ns,
        "prompt_eval_count": tally.prompt_tokens,
        "prompt_eval_duration": tally.prompt_ns,
        "eval_count": tally.output_tokens,
        "eval_duration": tally.eval_ns,
    }
    return {name: value for name, value in found.items() if value}


def _said(piece: Piece) -> dict[str, Any]:
    said: dict[str, Any] = {"response": piece.text}
    if piece.thinking:
        said["thinking"] = piece.thinking
    if piece.calls:
        said["tool_calls"] = _calls(piece)
    return said


def _message(piece: Piece) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": piece.text}
    if piece.thinking:
        message["thinking"] = piece.thinking
    if piece.calls:
        message["tool_calls"] = _calls(piece)
    return message


def _calls(piece: Piece) -> list[dict[str, Any]]:
    return [{**call, "id": call.get("id") or call_id()} for call in piece.calls]


def _logprobs(piece: Piece) -> dict[str, Any]:
    return {"logprobs": piece.logprobs} if piece.logprobs else {}
