"""The simulator's Ollama-shaped surface, for what measures or attaches to an Ollama."""

import json
import time
from datetime import UTC, datetime
from typing import Any

from vllama.engines import simulator_text as text
from vllama.engines.simulator_answer import Plan, Planner, Refused
from vllama.engines.simulator_clock import Clockwork
from vllama.engines.simulator_faults import Faults
from vllama.engines.simulator_http import Answer, Request
from vllama.engines.simulator_openai import vector

VERSION = "0.12.6"


class Ollama:
    """Answers `/api/*`."""

    def __init__(self, clock: Clockwork, planner: Planner, faults: Faults, model: str) -> None:
        self._clock = clock
        self._planner = planner
        self._faults = faults
        self._name = model if ":" in model.rpartition("/")[2] else f"{model}:latest"

    def tags(self) -> dict[str, Any]:
        """`/api/tags`."""
        details = {"format": "gguf", "family": "simulated", "families": ["simulated"],
                   "parameter_size": "0.4B", "quantization_level": "F16"}  # fmt: skip
        one = {"name": self._name, "model": self._name, "modified_at": _now(), "size": 1,
               "digest": "0" * 64, "details": details}  # fmt: skip
        return {"models": [one]}

    def ps(self) -> dict[str, Any]:
        """`/api/ps`."""
        one = {"name": self._name, "model": self._name, "size": 1, "size_vram": 0,
               "digest": "0" * 64, "expires_at": _now(),
               "context_length": self._clock.limits.max_model_len}  # fmt: skip
        return {"models": [one]}

    def embed(self, body: dict[str, Any]) -> dict[str, Any]:
        """`/api/embed`."""
        self._check(body)
        given = body.get("input", "")
        rows = [text.ids(one) for one in ([given] if isinstance(given, str) else given)]
        vectors = [vector(row) for row in rows]
        count = sum(len(row) for row in rows)
        return {"model": self._name, "embeddings": vectors, "total_duration": 1,
                "load_duration": 1, "prompt_eval_count": count}  # fmt: skip

    async def answer(self, request: Request, answer: Answer, *, chat: bool) -> None:
        """`/api/generate` and `/api/chat`."""
        body = request.json()
        self._check(body)
        options = body.get("options") or {}
        wanted = options.get("num_predict")
        prompt = text.rendered(body.get("messages") or []) if chat else str(body.get("prompt", ""))
        if not prompt or (chat and not body.get("messages")):
            reason = "unload" if body.get("keep_alive") in (0, "0") else "load"
            answer.send(200, self._line("", chat, {"done": True, "done_reason": reason}))
            return
        limit = wanted if isinstance(wanted, int) and wanted > 0 else None
        exact = bool(options.get("ignore_eos")) and limit is not None
        plan = self._planner.plan(prompt, limit, exact=exact)
        await self._play(answer, plan, chat=chat, streams=body.get("stream", True))

    async def _play(self, answer: Answer, plan: Plan, *, chat: bool, streams: bool) -> None:
        began_s = first_s = time.monotonic()
        if streams:
            answer.begin("application/x-ndjson")
        count = 0
        async for at_s in self._clock.generate(
            plan.prompt_tokens, len(plan.pieces), plan.cached_tokens
        ):
            first_s = at_s if count == 0 else first_s
            count += 1
            if self._faults.cut_after and count > self._faults.cut_after:
                answer.cut()
                return
            if streams:
                line = self._line(plan.pieces[count - 1].text, chat, {"done": False})
                answer.write(json.dumps(line).encode() + b"\n")
        end_s = time.monotonic()
        wrong = {"double": count * 2, "off_by_one": count + 1}
        last = {
            "done": True,
            "done_reason": plan.finish_reason,
            "total_duration": _ns(end_s - began_s),
            "load_duration": 1000,
            "prompt_eval_count": plan.prompt_tokens,
            "prompt_eval_duration": _ns(first_s - began_s),
            "eval_count": wrong.get(self._faults.usage, count),
            "eval_duration": _ns(end_s - first_s),
        }
        if self._faults.usage == "missing":
            del last["eval_count"]
        if streams:
            answer.write(json.dumps(self._line("", chat, last)).encode() + b"\n")
            answer.end()
        else:
            whole = "".join(piece.text for piece in plan.pieces)
            answer.send(200, self._line(whole, chat, last))

    def _check(self, body: dict[str, Any]) -> None:
        asked = str(body.get("model", ""))
        if asked.removesuffix(":latest") != self._name.removesuffix(":latest"):
            raise Refused(404, {"error": f"model '{asked}' not found"})

    def _line(self, content: str, chat: bool, rest: dict[str, Any]) -> dict[str, Any]:
        said: dict[str, Any] = (
            {"message": {"role": "assistant", "content": content}}
            if chat
            else {"response": content}
        )
        return {"model": self._name, "created_at": _now(), **said, **rest}


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _ns(seconds: float) -> int:
    return max(1, int(seconds * 1e9))
