"""Ask: what a client wants generated, in no API's terms and no engine's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from vllama.server.translation.options import Options
from vllama.store.card import Card

Message: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ask:
    """One generation.

    `model` is as the client wrote it, `key` what to lease. `messages` are Ollama's dicts;
    `raw` is a prompt to take as it is, instead of them; `batch` several prompts, each the
    user's one message, or tokens to take as they are. `rendered` asks for one prompt made
    of the messages by the model's template, here and not in the engine; `tokens` asks for
    the token ids of prompt and answer, as a later request's `context` needs them. `card` is
    None for a model that somebody else runs.
    """

    model: str
    key: str
    card: Card | None
    options: Options
    messages: tuple[Message, ...] = ()
    raw: str | None = None
    batch: tuple[str | tuple[int, ...], ...] = ()
    rendered: bool = False
    tokens: bool = False
    context: tuple[int, ...] = ()
    template: str | None = None
    suffix: str = ""
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: Any = None
    think: bool | str | None = None
    format: Any = None
    logprobs: bool = False
    top_logprobs: int = 0
    stream: bool = True
    truncate: bool = True
    shift: bool = True
    keep_alive_s: float | None = None
    choices: int = 1
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> tuple[str, ...]:
        """All images of the messages, base64."""
        return tuple(image for m in self.messages for image in m.get("images") or ())

    @property
    def thinks(self) -> bool:
        """Whether the answer may begin with thinking that is to be set apart."""
        can = self.card is None or "thinking" in self.card.capabilities
        return can and self.think is not False

    @property
    def thinking(self) -> bool | str | None:
        """What the template is told: a model that can think does, unless it is told not to."""
        if self.think is None and self.card is not None and "thinking" in self.card.capabilities:
            return True
        return self.think
