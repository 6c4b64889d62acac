"""What vLLM may guess ahead with: the text so far, or a second model that the user names."""

from vllama.profile import Scalar
from vllama.tuner.knob import Ground, Knob, Maker, Options, RuledOut

# The way to guess with a second model, and how many tokens are guessed unless tuned.
DRAFTING, GUESSED = "draft_model", 3


def _speculation(ground: Ground) -> Knob | RuledOut:
    drafts = () if ground.draft is None else (DRAFTING,)
    if not ground.has_real_text and not drafts:
        return RuledOut(
            "spec_method", "the prompts are made up: how often a guess is right would be luck"
        )
    if ground.concurrency > 16 and not drafts:
        return RuledOut("spec_method", "with many in flight the guesses take time from others")
    from_text = ("ngram",) if ground.has_real_text and ground.concurrency <= 16 else ()
    return Knob(
        "spec_method", "categorical", ("none", *from_text, *drafts), "none",
        "guesses the next tokens, from the text so far or with the model that was named; "
        "the answers stay the same",
    )  # fmt: skip


def _drafter(ground: Ground) -> RuledOut:
    if ground.draft is None:
        return RuledOut("spec_model", "which model to draft with is the user's to say: --draft")
    return RuledOut("spec_model", f"{ground.draft.name}, wherever spec_method is {DRAFTING}")


def _speculated(ground: Ground) -> Knob | RuledOut:
    if isinstance(_speculation(ground), RuledOut):
        return RuledOut("spec_tokens", "nothing is guessed")
    return Knob("spec_tokens", "int", (2, 3, 5), GUESSED, "tokens guessed at once", log=True)


def complete(ground: Ground, options: Options) -> Options:
    """How many to guess, and with what, goes with guessing and with nothing else."""
    method = options.get("spec_method", "none")
    if method == "none":
        return {}
    found: dict[str, Scalar] = {"spec_tokens": options.get("spec_tokens", GUESSED)}
    if method == DRAFTING and ground.draft is not None:
        found["spec_model"] = str(ground.draft.safetensors)
    return found


MAKERS: dict[str, Maker] = {
    "spec_method": _speculation,
    "spec_model": _drafter,
    "spec_tokens": _speculated,
}
