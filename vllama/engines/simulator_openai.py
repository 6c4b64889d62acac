"""The simulator's OpenAI- and vLLM-like surface."""

import json
import math
import time
from collections.abc import AsyncIterator
from typing import Any

from vllama.engines import simulator_text as text
from vllama.engines.simulator_answer import Piece, Plan, Planner, Refused
from vllama.engines.simulator_clock import Clockwork
from vllama.engines.simulator_faults import Faults
from vllama.engines.simulator_http import Answer, Request

EMBEDDING_SIZE = 64


class OpenAI:
    """Answers `/v1/*` and what else a vLLM server offers."""

    def __init__(self, clock: Clockwork, planner: Planner, faults: Faults, model: str) -> None:
        self._clock = clock
        self._planner = planner
        self._faults = faults
        self._model = model
        self._created = int(time.time())

    def models(self) -> dict[str, Any]:
        """`/v1/models`."""
        length = self._clock.limits.max_model_len
        one = {
            "id": self._model, "object": "model", "created": self._created, "owned_by": "vllm",
            "root": self._model, "parent": None, "max_model_len": length, "permission": [],
        }  # fmt: skip
        return {"object": "list", "data": [one]}

    def metrics(self) -> str:
        """`/metrics`, with vLLM's names."""
        counters, batcher = self._clock.counters, self._clock.batcher
        limits = self._clock.limits
        label = f'{{engine="0",model_name="{self._model}"}}'
        first = counters.first_token_s
        lines = [
            f"vllm:num_requests_running{label} {batcher.running}",
            f"vllm:num_requests_waiting{label} {len(batcher.waiting)}",
            f"vllm:kv_cache_usage_perc{label} {batcher.used_tokens / limits.kv_cache_tokens}",
            f"vllm:num_preemptions_total{label} {batcher.preemptions}",
            f"vllm:prompt_tokens_total{label} {counters.prompt_tokens}",
            f"vllm:generation_tokens_total{label} {counters.output_tokens}",
            f"vllm:prefix_cache_queries_total{label} {counters.prompt_tokens}",
            f"vllm:prefix_cache_hits_total{label} {counters.cached_tokens}",
            f"vllm:time_to_first_token_seconds_sum{label} {sum(first)}",
            f"vllm:time_to_first_token_seconds_count{label} {len(first)}",
            f'vllm:cache_config_info{{block_size="16",kv_cache_size_tokens='
            f'"{limits.kv_cache_tokens}"}} 1.0',
        ]
        return "\n".join(lines) + "\n"

    def tokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        """`/tokenize`, of a prompt or of messages."""
        messages = body.get("messages")
        prompt = text.rendered(messages) if messages else str(body.get("prompt", ""))
        tokens = text.ids(prompt)
        length = self._clock.limits.max_model_len
        return {"count": len(tokens), "max_model_len": length, "tokens": tokens}

    def embeddings(self, body: dict[str, Any]) -> dict[str, Any]:
        """`/v1/embeddings`: unit vectors, the same for the same text."""
        given = body.get("input", "")
        is_one = isinstance(given, str) or bool(given and isinstance(given[0], int))
        inputs = [given] if is_one else given
        rows = [text.ids(one) if isinstance(one, str) else list(one) for one in inputs]
        data = [
            {"object": "embedding", "index": i, "embedding": vector(row)}
            for i, row in enumerate(rows)
        ]
        total = sum(len(row) for row in rows)
        usage = {"prompt_tokens": total, "total_tokens": total}
        return {"object": "list", "data": data, "model": self._model, "usage": usage}

    async def complete(self, request: Request, answer: Answer, *, chat: bool) -> None:
        """`/v1/completions` and `/v1/chat/completions`."""
        body = request.json()
        if body.get("model", self._model) != self._model:
            message = f"The model `{body['model']}` does not exist."
            kind = {"message": message, "type": "NotFoundError", "param": "model", "code": 404}
            raise Refused(404, {"error": kind})
        plan = self._plan(body, chat)
        frame = _Frame(self._model, chat, f"{'chatcmpl' if chat else 'cmpl'}-{time.time_ns():x}")
        tokens = self._clock.generate(plan.prompt_tokens, len(plan.pieces), plan.cached_tokens)
        if not body.get("stream"):
            async for _ in tokens:
                pass
            answer.send(200, frame.whole(plan, self._usage(plan, len(plan.pieces))))
            return
        answer.begin("text/event-stream; charset=utf-8")
        await self._stream(answer, frame, plan, tokens, body.get("stream_options") or {})

    def _plan(self, body: dict[str, Any], chat: bool) -> Plan:
        wanted = body.get("max_completion_tokens", body.get("max_tokens"))
        if wanted is None and not chat:
            wanted = 16
        exact = bool(body.get("ignore_eos")) or body.get("min_tokens", 0) == wanted
        if chat:
            prompt: str | list[int] = text.rendered(body.get("messages") or [])
        else:
            prompt = body.get("prompt", "")
            if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
                prompt = prompt[0]
        return self._planner.plan(prompt, wanted, exact=exact and wanted is not None)

    async def _stream(
        self, answer: Answer, frame: "_Frame", plan: Plan, tokens: AsyncIterator[float],
        options: dict[str, Any],
    ) -> None:  # fmt: skip
        faults = self._faults
        if frame.chat:
            answer.write(frame.chunk(Piece({"role": "assistant", "content": ""}), None))
        count, pending = 0, list[Piece]()
        async for _ in tokens:
            pending.append(plan.pieces[count])
            count += 1
            is_last = count == len(plan.pieces)
            if faults.cut_after and count > faults.cut_after:
                answer.cut()
                return
            if faults.malformed_chunk == count:
                answer.write(b'data: {"choices": [{"delta": {"conte\n\n')
            if len(pending) < max(1, faults.chunk_tokens) and not is_last:
                continue
            if faults.empty_chunks:
                answer.write(frame.chunk(Piece({"content": ""}), None))
            usage = self._usage(plan, count) if options.get("continuous_usage_stats") else None
            finish = plan.finish_reason if is_last else None
            for piece in _joined(pending):
                answer.write(frame.chunk(piece, finish, usage))
            pending.clear()
        if options.get("include_usage") and faults.usage != "missing":
            answer.write(frame.last(self._usage(plan, count)))
        answer.write(b"data: [DONE]\n\n")
        answer.end()
        answer.closes = faults.close_after_stream

    def _usage(self, plan: Plan, output_tokens: int) -> dict[str, Any]:
        wrong = {"double": output_tokens * 2, "off_by_one": output_tokens + 1}
        counted = wrong.get(self._faults.usage, output_tokens)
        return {
            "prompt_tokens": plan.prompt_tokens,
            "completion_tokens": counted,
            "total_tokens": plan.prompt_tokens + counted,
            "prompt_tokens_details": {"cached_tokens": plan.cached_tokens},
        }


class _Frame:
    """What stands around each delta."""

    def __init__(self, model: str, chat: bool, number: str) -> None:
        self.chat = chat
        self._fields = {
            "id": number,
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    def chunk(self, piece: Piece, finish: str | None, usage: Any = None) -> bytes:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish}
        choice |= {"delta": piece.delta} if self.chat else {"text": piece.text}
        return self._event({"choices": [choice], **({"usage": usage} if usage else {})})

    def last(self, usage: dict[str, Any]) -> bytes:
        return self._event({"choices": [], "usage": usage})

    def whole(self, plan: Plan, usage: dict[str, Any]) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": plan.finish_reason, "logprobs": None}
        if self.chat:
            choice["message"] = _message(plan.pieces)
        else:
            choice["text"] = "".join(piece.text for piece in plan.pieces)
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._fields, "object": kind, "choices": [choice], "usage": usage}

    def _event(self, rest: dict[str, Any]) -> bytes:
        return b"data: " + json.dumps({**self._fields, **rest}).encode() + b"\n\n"


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Tokens that go out together: their text as one piece, anything else as it is."""
    if len(pieces) > 1 and all(set(p.delta) == {"content"} for p in pieces):
        whole = "".join(p.text for p in pieces)
        return [Piece({"content": whole}, whole)]
    return list(pieces)


def _message(pieces: tuple[Piece, ...]) -> dict[str, Any]:
    """The deltas put together."""
    calls: dict[int, dict[str, Any]] = {}
    reasoning = ""
    for piece in pieces:
        reasoning += piece.delta.get("reasoning") or piece.delta.get("reasoning_content") or ""
        for part in piece.delta.get("tool_calls") or []:
            if part["index"] not in calls:
                calls[part["index"]] = json.loads(json.dumps(part))
            else:
                function = calls[part["index"]]["function"]
                function["arguments"] += part["function"].get("arguments", "")
    content = "".join(piece.text for piece in pieces)
    message: dict[str, Any] = {"role": "assistant", "content": content or None}
    if not calls:
        message["content"] = content
    message["reasoning"] = reasoning or None
    for call in calls.values():
        call.pop("index", None)
    message["tool_calls"] = list(calls.values())
    return message


def vector(tokens: list[int]) -> list[float]:
    """A unit vector: texts that share tokens are near each other."""
    sums = [0.0] * EMBEDDING_SIZE
    for token in tokens or [0]:
        sums[token % EMBEDDING_SIZE] += 1.0
        sums[(token // EMBEDDING_SIZE) % EMBEDDING_SIZE] += 0.5
    length = math.sqrt(sum(x * x for x in sums))
    return [x / length for x in sums]
