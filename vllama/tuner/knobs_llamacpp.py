"""What llama.cpp has to vary: few knobs, for its starts are cheap and its gains are large."""

from collections.abc import Sequence

from vllama.machine import GIB
from vllama.model import Model
from vllama.profile import Scalar
from vllama.tuner.knob import (
    Catalogue,
    Ground,
    Knob,
    Maker,
    Options,
    Rule,
    RuledOut,
    always,
    count,
    ladder,
)

_PAD = 256
# The way to guess with a second model, and how many tokens it guesses unless tuned.
DRAFTING, DRAFTED = "draft-simple", 4
_FLASH_ATTENTION = Knob(
    "flash_attn", "categorical", ("auto", "off"), "auto",
    "attention in one pass: faster on long contexts, not always on short ones",
)  # fmt: skip


def _slots(ground: Ground) -> Knob:
    """Slots beyond the load's concurrency stay empty; a few fewer may be faster."""
    busy, room = ground.concurrency, _room(ground)
    steps = {*ladder(1, busy), busy}
    fit = [s for s in steps if s <= busy and _fits(ground, {"n_parallel": s}, room)]
    top = max(fit, default=1)
    below = [s for s in ladder(max(1, top // 8), top) if s < top]
    # Half of them and every second step down are enough beside one for each request.
    choices = {1, *below[-1:], *below[0::2], top}
    short = "" if top == busy else f"; memory holds the context of {top}"
    return Knob(
        "n_parallel", "int", tuple(sorted(choices)), 1,
        f"requests decoded together; the load has up to {busy} in flight{short}", log=True,
    )  # fmt: skip


def _batch(ground: Ground) -> Knob | RuledOut:
    pending = ground.longest_prompt_tokens * ground.concurrency
    if pending <= 512:
        return RuledOut(
            "n_batch", f"all prompts in flight are {pending} tokens: every batch holds them"
        )
    return Knob(
        "n_batch", "int", (512, 2048), 2048,
        "prompt tokens a step may take: more reads prompts faster, fewer lets answers go on",
        log=True,
    )  # fmt: skip


def _micro_batch(ground: Ground) -> Knob | RuledOut:
    if ground.longest_prompt_tokens * ground.concurrency <= 128 and ground.concurrency <= 128:
        return RuledOut("n_ubatch", "no step of this load has more tokens than the smallest value")
    return Knob(
        "n_ubatch", "int", (128, 512, 2048) if ground.on_gpu else (128, 512), 512,
        "tokens computed at once: larger uses the hardware better, smaller the caches", log=True,
    )  # fmt: skip


def _threads(name: str, what: str) -> Maker:
    def make(ground: Ground) -> Knob | RuledOut:
        cpu = ground.machine.cpu
        if ground.on_gpu and _layers_fit(ground):
            return RuledOut(name, "all layers are on the GPU: one thread feeds it")
        alone = any(w.concurrency == 1 for w in ground.load)
        if name == "threads" and not alone:
            return RuledOut(name, "used for a step of one token, and this load is never so small")
        physical = min(cpu.physical_cores, cpu.cores)
        choices = {max(1, physical // 2), max(1, physical - 1), physical, cpu.cores}
        # llama.cpp takes as many for prompts as for answers, unless told.
        default = count(ground.default, name, count(ground.default, "threads", physical))
        return Knob(
            name, "int", tuple(sorted(choices)), default if default > 0 else physical,
            f"threads for {what}; they spin, so more than the free cores makes all slower",
            log=True,
        )  # fmt: skip

    return make


def _unified(ground: Ground) -> Knob | RuledOut:
    if ground.concurrency == 1:
        return RuledOut("kv_unified", "one request at a time needs no shared pool")
    if ground.model.shape.pooling:
        return RuledOut("kv_unified", "without one pool llama.cpp computes wrong embeddings")
    return Knob(
        "kv_unified", "categorical", (False, True), False,
        "one pool of context for all slots, or an equal share for each: no mask to read, "
        f"but no request longer than {_slot_tokens(ground, unified=False)} tokens",
    )  # fmt: skip


def _cache_reuse(ground: Ground) -> Knob | RuledOut:
    if not ground.shares_prefixes:
        return RuledOut("cache_reuse", "no prompts of this load share text")
    return Knob(
        "cache_reuse", "int", (0, 256), 0,
        "smallest run of tokens that is shifted and used again instead of computed",
    )  # fmt: skip


def _cache_type(name: str) -> Maker:
    def make(ground: Ground) -> Knob | RuledOut:
        if not ground.allow_lossy:
            return RuledOut(name, "a smaller cache type changes answers: only with --allow-lossy")
        return Knob(
            name, "categorical", ("f16", "q8_0", "q4_0"), "f16",
            "half or a quarter of the bytes to read for long contexts", lossy=True,
        )  # fmt: skip

    return make


def _speculation(ground: Ground) -> Knob | RuledOut:
    drafts = (DRAFTING,) if _draft(ground) is not None else ()
    if not ground.has_real_text and not drafts:
        return RuledOut(
            "spec_type", "the prompts are made up: how often a guess is right would be luck"
        )
    if ground.concurrency > 8 and not drafts:
        return RuledOut("spec_type", "with many in flight the guesses take time from others")
    from_text = ("ngram-simple", "ngram-mod") if _may_guess_from_text(ground) else ()
    return Knob(
        "spec_type", "categorical", ("none", *from_text, *drafts), "none",
        "guesses the next tokens, from the text so far or with the model that was named; "
        "the answers stay the same",
    )  # fmt: skip


def _may_guess_from_text(ground: Ground) -> bool:
    return ground.has_real_text and ground.concurrency <= 8


def _draft(ground: Ground) -> Model | None:
    """The model that was named to guess ahead, unless the model brings its own."""
    return None if "model_draft" in ground.default else ground.draft


def _drafter(ground: Ground) -> RuledOut:
    if "model_draft" in ground.default:
        return RuledOut("model_draft", "the model brings its own")
    if ground.draft is None:
        return RuledOut("model_draft", "which model to draft with is the user's to say: --draft")
    return RuledOut("model_draft", f"{ground.draft.name}, wherever spec_type is {DRAFTING}")


def _drafted(ground: Ground) -> Knob | RuledOut:
    if _draft(ground) is None:
        return RuledOut("spec_draft_n_max", "no model drafts")
    return Knob(
        "spec_draft_n_max", "int", (2, DRAFTED, 8), DRAFTED,
        "tokens drafted at once: more are checked in one step, and more are thrown away", log=True,
    )  # fmt: skip


def _gpu_layers(ground: Ground) -> Knob | RuledOut:
    if not ground.on_gpu:
        return RuledOut("n_gpu_layers", "there is no GPU")
    if _layers_fit(ground):
        return RuledOut("n_gpu_layers", "all layers fit on the GPU, where they are fastest")
    layers = ground.model.shape.layers
    share = sum(g.free_bytes for g in ground.machine.gpus) / _needed_bytes(ground, ground.default)
    most = max(0, min(layers, int(layers * share * 0.9)))
    choices = tuple(sorted({most * 3 // 4, max(0, most - 1), most}))
    return Knob("n_gpu_layers", "int", choices, most, "layers that do not fit run on the CPU")


def _context(ground: Ground) -> RuledOut:
    return RuledOut(
        "n_ctx", f"follows from the slots: at least {_slot_tokens(ground)} tokens for each"
    )


def _slot_tokens(ground: Ground, *, unified: bool = True) -> int:
    """Context to have for each slot: enough for the load, and for more than the load.

    A share of its own ends a request that outgrows it, so it is larger than in a pool.
    """
    trained = ground.model.shape.context_length or ground.longest_tokens
    wanted = max(ground.longest_tokens + 1, min(4096 if unified else 8192, trained))
    return min(-(-wanted // _PAD) * _PAD, max(trained, _PAD))


def _needed_bytes(ground: Ground, options: Options) -> int:
    shape = ground.model.shape
    tokens = count(options, "n_ctx", 0) or shape.context_length
    needed = shape.weight_bytes + tokens * shape.kv_bytes_per_token
    draft = _draft(ground)
    if draft is not None and options.get("spec_type") == DRAFTING:
        second = draft.shape
        needed += second.weight_bytes + tokens * second.kv_bytes_per_token
    return needed


def _room(ground: Ground) -> int:
    return ground.machine.available_bytes + sum(g.free_bytes for g in ground.machine.gpus)


def _fits(ground: Ground, options: Options, room: int) -> bool:
    every = {**ground.default, **options}
    return _needed_bytes(ground, {**every, **_complete(ground, every)}) < 0.9 * room


def _layers_fit(ground: Ground) -> bool:
    return _fits(ground, {}, sum(g.free_bytes for g in ground.machine.gpus))


def _complete(ground: Ground, options: Options) -> Options:
    """Slots need context, so it grows with them; and `threads_batch` would follow `threads`."""
    found: dict[str, Scalar] = {}
    own = ground.default.get("threads", options.get("threads"))
    if "threads_batch" in options and options.get("threads") != own:
        found["threads_batch"] = options["threads_batch"]
    draft = _draft(ground)
    if draft is not None and options.get("spec_type") == DRAFTING:
        found["model_draft"] = str(draft.gguf)
        found["spec_draft_n_max"] = options.get("spec_draft_n_max", DRAFTED)
    slots, given = count(options, "n_parallel", 1), count(ground.default, "n_ctx", 0)
    if slots > 1 or given:
        each = _slot_tokens(ground, unified=bool(options.get("kv_unified", False)))
        found["n_ctx"] = max(given, slots * each)
    return found


def _rules(ground: Ground) -> Sequence[Rule]:
    def batches(options: Options) -> str | None:
        micro, batch = count(options, "n_ubatch", 512), count(options, "n_batch", 2048)
        return f"n_ubatch {micro} is more than n_batch {batch}" if micro > batch else None

    def slot_context(options: Options) -> str | None:
        slots, total = count(options, "n_parallel", 1), count(options, "n_ctx", 0)
        if options.get("kv_unified") or slots < 1:
            return None
        each = (total or ground.model.shape.context_length) // slots
        if not each or each >= ground.longest_tokens:
            return None
        return (
            f"{slots} slots share {total or 'the trained'} tokens of context: {each} each, "
            f"and the load's longest request has {ground.longest_tokens}"
        )

    def memory(options: Options) -> str | None:
        needed, room = _needed_bytes(ground, options), _room(ground)
        if needed < 0.9 * room or options.get("n_ctx") == ground.default.get("n_ctx"):
            return None
        return f"weights and context need {needed / GIB:.1f} GiB, and {room / GIB:.1f} GiB are free"

    def quantised_values(options: Options) -> str | None:
        if options.get("cache_type_v", "f16") != "f16" and options.get("flash_attn") == "off":
            return "a quantised V cache needs flash attention"
        return None

    def drafts(options: Options) -> str | None:
        many = count(options, "spec_draft_n_max", DRAFTED)
        if _draft(ground) is None or options.get("spec_type") == DRAFTING or many == DRAFTED:
            return None
        return "how many tokens are drafted matters only where a model drafts"

    return batches, slot_context, memory, quantised_values, drafts


def _seeds(ground: Ground) -> Sequence[Options]:
    busy, cores = ground.concurrency, ground.machine.cpu.cores
    half = max(1, cores // 2)
    every: dict[str, Scalar] = {"n_parallel": busy}
    fewer: dict[str, Scalar] = {"threads": half, "threads_batch": half}
    drafting: tuple[Options, ...] = ({**every, "spec_type": DRAFTING},) if _draft(ground) else ()
    return (
        *drafting,
        every,
        {**every, **fewer},
        {**every, "n_ubatch": 128},
        {"n_parallel": max(1, busy // 2), **fewer},
    )


CATALOGUE = Catalogue(
    makers={
        "n_parallel": _slots,
        "n_ctx": _context,
        "threads": _threads("threads", "a step of one token, an answer that is decoded alone"),
        "threads_batch": _threads(
            "threads_batch", "prompts, and for answers that are decoded together"
        ),
        "n_batch": _batch,
        "n_ubatch": _micro_batch,
        "flash_attn": always(_FLASH_ATTENTION),
        "kv_unified": _unified,
        "cache_reuse": _cache_reuse,
        "cache_type_k": _cache_type("cache_type_k"),
        "cache_type_v": _cache_type("cache_type_v"),
        "n_gpu_layers": _gpu_layers,
        "spec_type": _speculation,
        "model_draft": _drafter,
        "spec_draft_n_max": _drafted,
    },
    rules=_rules,
    seeds=_seeds,
    complete=_complete,
)
