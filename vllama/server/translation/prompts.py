"""Prompts: which asks are rendered here, and into what text."""

from collections.abc import Iterable

from vllama.server.lifecycle.runner import Lease
from vllama.server.translation.ask import Ask, Message
from vllama.server.translation.engine_calls import is_vllm
from vllama.store import templates


def is_rendered_here(ask: Ask, lease: Lease) -> bool:
    """Whether the prompt is made here and not by the engine's own chat template."""
    if ask.raw is not None:
        return True
    if ask.card is None or ask.images:
        return False
    if ask.rendered or ask.card.template_kind == "go" or not ask.card.template:
        return True
    # Without its parsers, vLLM refuses tools and leaves thinking in the text.
    options = lease.profile.options
    if not is_vllm(lease):
        return False
    # A call that it is told to make is not always one: it heeds no schema there with our backend.
    forced = ask.tool_choice not in (None, "auto", "none")
    return bool(ask.tools and (forced or not options.get("tool_call_parser"))) or (
        "thinking" in ask.card.capabilities and not options.get("reasoning_parser")
    )


def wants_special(ask: Ask, lease: Lease) -> bool:
    """Whether the engine has to add the token that texts begin with."""
    if ask.raw is not None or ask.card is None:
        return True
    # Jinja templates bring it along; llama.cpp's doubling is undone where it is counted.
    return ask.card.template_kind == "go" or ask.template is not None or not is_vllm(lease)


def text(ask: Ask) -> str:
    """The prompt as text.

    Raises:
        TemplateError: the request's own template is broken.
    """
    if ask.raw is not None:
        return ask.raw
    if ask.card is None or not (ask.card.template or ask.template):
        return "\n\n".join(str(m.get("content") or "") for m in ask.messages)
    if ask.suffix:
        prompt = str(ask.messages[-1].get("content") or "")
        return templates.infill(ask.card, prompt, ask.suffix, template=ask.template)
    return templates.render(ask.card, ask.messages, ask.tools, ask.thinking, template=ask.template)


def without_images(messages: Iterable[Message]) -> tuple[Message, ...]:
    """The same messages for one who only counts text."""
    return tuple({k: v for k, v in m.items() if k != "images"} for m in messages)
