"""One conversation with a model: what was said, and how the next answer is asked for."""

import sys
from dataclasses import dataclass, field
from typing import Any

from vllama.cli.client import Client

_S = 1e9


@dataclass(slots=True)
class Talk:
    """The state that `/set` changes and every question uses."""

    client: Client
    model: str
    is_verbose: bool = False
    hides_thinking: bool = False
    keeps_history: bool = True
    system: str = ""
    format: Any = None
    think: bool | str | None = None
    keep_alive: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)

    def load(self) -> None:
        """Have the model loaded before the first question."""
        self.client.post("/api/generate", self._common() | {"stream": False})

    def ask(self, prompt: str) -> None:
        """Ask, print the answer as it comes, and remember both."""
        history = self.messages if self.keeps_history else []
        question = {"role": "user", "content": prompt}
        system = [{"role": "system", "content": self.system}] if self.system else []
        body = self._common() | {"messages": [*system, *history, question], "stream": True}
        said, thought, last = "", "", {}
        try:
            for last in self.client.stream("/api/chat", body):
                message = last.get("message") or {}
                thought = self._think(thought, message.get("thinking") or "")
                content = message.get("content") or ""
                if content and thought and not said and not self.hides_thinking:
                    print("\n...done thinking.\n")
                said += content
                print(content, end="", flush=True)
        finally:
            if self.keeps_history and said:
                self.messages += [question, {"role": "assistant", "content": said}]
        if self.is_verbose:
            print(figures(last), file=sys.stderr)

    def _think(self, thought: str, piece: str) -> str:
        if piece and not self.hides_thinking:
            print(piece if thought else f"Thinking...\n{piece}", end="", flush=True)
        return thought + piece

    def _common(self) -> dict[str, Any]:
        given = {
            "format": self.format,
            "think": self.think,
            "keep_alive": self.keep_alive,
            "options": self.options or None,
        }
        return {"model": self.model} | {k: v for k, v in given.items() if v is not None}


def figures(last: dict[str, Any]) -> str:
    """The durations and rates of an answer, as `--verbose` prints them."""
    lines = []
    for name in ("total_duration", "load_duration"):
        lines.append((name.replace("_", " "), f"{last.get(name, 0) / _S:.9g}s"))
    for name in ("prompt_eval", "eval"):
        count, seconds = last.get(f"{name}_count", 0), last.get(f"{name}_duration", 0) / _S
        words = name.replace("_", " ")
        rate = f"{count / seconds:.2f} tokens/s" if seconds else "0 tokens/s"
        lines += [(f"{words} count", f"{count} token(s)"), (f"{words} duration", f"{seconds:.9g}s"),
                  (f"{words} rate", rate)]  # fmt: skip
    return "\n" + "\n".join(f"{name + ':':<22}{value}" for name, value in lines)
