"""From an ask and a leased engine to the call: which endpoint, which prompt, cut to what fits."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from vllama.server.lifecycle.runner import Lease
from vllama.server.relay.exchange import Call
from vllama.server.relay.refusal import TOO_LONG, Refusal
from vllama.server.translation import dialects, engine_calls, prompts, tool_choice
from vllama.server.translation.ask import Ask, Message
from vllama.server.translation.reading import LlamaReader, OpenAIReader, Reader
from vllama.server.translation.splitting import BARE, Splitter, names_of, opens_thinking, tag_of

log = logging.getLogger(__name__)
# What a template adds around a message, at most, in tokens.
_FRAME_TOKENS = 24
IMAGE_TOKENS = 768


@dataclass(frozen=True, slots=True)
class Planned:
    """A call, how to read its answer, and what was done to the prompt.

    `prompt_ids` are the tokens of the whole prompt where they are known beforehand;
    `cut` says in a word what was left out, empty when nothing was.
    """

    call: Call
    reader: Reader
    splitter: Callable[[], Splitter] | None = None
    prompt_ids: tuple[int, ...] = ()
    cut: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


async def plan(ask: Ask, lease: Lease) -> Planned:
    """Decide how the engine is asked.

    Raises:
        Refusal: the prompt does not fit and may not be cut, or has what the model cannot read.
    """
    most = await engine_calls.window(lease)
    wanted = max(4, int(ask.options.get("num_ctx") or 0)) if ask.options.get("num_ctx") else most
    limit = min(wanted, most) if most else wanted
    ask, cut = await _fitted(ask, lease, limit)
    if not prompts.is_rendered_here(ask, lease):
        body = dialects.chat_body(ask, lease, most)
        call = engine_calls.post("/v1/chat/completions", body)
        return Planned(call, OpenAIReader(ask.top_logprobs), cut=cut)
    ask = tool_choice.heeded(ask)
    if ask.batch:
        return _batched(ask, lease, most)
    text = prompts.text(ask)
    prompt, whole, cut_here = await _prompt(ask, lease, text, limit, most)
    # An answer that knows no end would go on for ever where the engine shifts its context.
    room = most - len(prompt) if isinstance(prompt, list) and most else most
    if not ask.shift and limit and whole:
        room = limit - len(whole)
    if engine_calls.is_llamacpp(lease):
        body = dialects.llama_body(ask, prompt, room)
        call, reader = engine_calls.post("/completion", body), LlamaReader(ask.top_logprobs)
    else:
        body = dialects.completion_body(ask, lease, prompt, most, room)
        call, reader = engine_calls.post("/v1/completions", body), OpenAIReader(ask.top_logprobs)  # type: ignore[assignment]
    return Planned(call, reader, _splitter(ask, text), tuple(whole), cut or cut_here)


def _batched(ask: Ask, lease: Lease, most: int) -> Planned:
    """Several prompts in one call; what is too long the engine refuses."""
    many = [list(each) if not isinstance(each, str) else _alone(ask, each) for each in ask.batch]
    if engine_calls.is_llamacpp(lease):
        call = engine_calls.post("/completion", dialects.llama_body(ask, many, 0))
        return Planned(call, LlamaReader(prompts=len(many)))
    body = dialects.completion_body(ask, lease, many, most, 0)
    return Planned(engine_calls.post("/v1/completions", body), OpenAIReader())


def _alone(ask: Ask, prompt: str) -> str:
    messages = (*ask.messages[:-1], {"role": "user", "content": prompt})
    return prompts.text(replace(ask, messages=messages))


def _splitter(ask: Ask, text: str) -> Callable[[], Splitter] | None:
    if ask.raw is not None:
        return None
    card = ask.card
    thinks = card is not None and "thinking" in card.capabilities and ask.think is not False
    tag = tag_of(card.template if card is not None else "") if ask.tools else ""
    if ask.tools and ask.tool_choice == tool_choice.REQUIRED:
        tag = BARE
    if not thinks and not tag:
        return None
    inside = thinks and opens_thinking(text)
    return lambda: Splitter(thinks=thinks, inside=inside, tag=tag, tools=names_of(ask.tools))


async def _fitted(ask: Ask, lease: Lease, limit: int) -> tuple[Ask, str]:
    """The oldest messages of a chat go, but for system ones and the last, until it fits."""
    if ask.rendered or ask.raw is not None or not ask.truncate or not limit:
        return ask, ""
    if at_most_tokens(ask) < limit:
        return ask, ""
    dropped = 0
    candidate = ask
    optional = [i for i, m in enumerate(ask.messages[:-1]) if m.get("role") != "system"]
    low, high = 0, len(optional)
    while low < high:
        middle = (low + high) // 2
        candidate = replace(ask, messages=_without(ask.messages, optional[:middle]))
        if await count(candidate, lease) < limit:
            high = middle
        else:
            low = middle + 1
    dropped = low
    if not dropped:
        return ask, ""
    log.warning("%s: %d old messages do not fit into %d tokens", ask.model, dropped, limit)
    return replace(ask, messages=_without(ask.messages, optional[:dropped])), f"{dropped} messages"


def _without(messages: tuple[Message, ...], indices: list[int]) -> tuple[Message, ...]:
    gone = set(indices)
    return tuple(m for i, m in enumerate(messages) if i not in gone)


def at_most_tokens(ask: Ask) -> int:
    """An upper bound: no tokenizer makes more tokens than there are bytes."""
    total = len(str(ask.tools)) if ask.tools else 0
    for message in ask.messages:
        total += len(str(message.get("content") or "").encode("utf-8", "replace")) + _FRAME_TOKENS
        total += (
            len(str(message.get("thinking") or "")) + len(message.get("tool_calls") or ()) * 200
        )
        total += IMAGE_TOKENS * len(message.get("images") or ())
    return total


async def count(ask: Ask, lease: Lease) -> int:
    """How many tokens the prompt has; 0 when the engine cannot tell."""
    images = IMAGE_TOKENS * len(ask.images)
    if ask.card is not None:
        return len(await engine_calls.tokenize(lease, prompts.text(ask))) + images
    messages = dialects.chat_messages(
        replace(ask, messages=prompts.without_images(ask.messages)), ""
    )
    if engine_calls.is_llamacpp(lease):
        applied = await engine_calls.ask(
            lease, engine_calls.post("/apply-template", {"messages": messages})
        )
        return len(await engine_calls.tokenize(lease, applied.get("prompt", ""))) + images
    body = {"model": lease.endpoint.model, "messages": messages}
    try:
        counted = await engine_calls.ask(lease, engine_calls.post("/tokenize", body))
    except Refusal:
        # Somebody else's engine without this route: it will say itself when it is too much.
        return 0
    return int(counted.get("count") or 0) + images


async def _prompt(
    ask: Ask, lease: Lease, text: str, limit: int, most: int
) -> tuple[str | list[int], list[int], str]:
    """The prompt to send, its whole tokens if they were needed, and whether it was cut."""
    size = len(text.encode("utf-8", "replace")) + 1 + len(ask.context)
    may_be_long = bool(limit) and size >= limit
    needs_ids = ask.tokens and engine_calls.is_llamacpp(lease)
    if not (may_be_long or needs_ids or ask.context):
        return text, [], ""
    special = not ask.context and prompts.wants_special(ask, lease)
    whole = [*ask.context, *await engine_calls.tokenize(lease, text, special=special)]
    # A prompt that fills the engine's window to the brim leaves no room for an answer.
    if not limit or len(whole) < limit or (len(whole) == limit < most):
        return whole, whole, ""
    if not ask.shift or not ask.truncate:
        raise Refusal(400, TOO_LONG)
    keep = min(int(ask.options.get("num_keep") or 0), limit - 1)
    size = max(1, limit - (limit - keep) // 2 if limit - keep > 1 else limit - 1)
    keep = min(keep, size)
    cut = whole[:keep] + whole[len(whole) - (size - keep) :]
    log.warning("%s: a prompt of %d tokens was cut to %d", ask.model, len(whole), len(cut))
    return cut, whole, f"{len(whole) - len(cut)} tokens"
