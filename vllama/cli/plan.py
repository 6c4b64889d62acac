"""`vllama plan`: will it fit, how many sequences at which context, how fast; nothing is started."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from vllama.errors import UsageError
from vllama.settings import Settings

if TYPE_CHECKING:
    from vllama.machine import Machine
    from vllama.model import Model
    from vllama.tuner.outlook import Outlook

GIB = 1024**3


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a folder, a GGUF file or a model's name")
    parser.add_argument(
        "--gpu", metavar="NAME[xN]", help="any known GPU, here or not (this machine)"
    )
    parser.add_argument(
        "--context", type=_tokens, default=0, metavar="N", help="tokens (the model's)"
    )
    parser.add_argument(
        "--concurrency", type=_tokens, default=0, metavar="N", help="requests in flight (what fits)"
    )
    parser.add_argument("--engine", choices=["auto", "vllm", "llamacpp"], default="auto")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def run(args: argparse.Namespace) -> int:
    """Answer; 1 when it does not fit."""
    from vllama.store import names
    from vllama.tuner import outlook

    settings = Settings.from_environment()
    model = names.resolve(args.model, settings)
    found = outlook.look(
        model,
        _machine(args.gpu, settings),
        _engine(args.engine, model, args.gpu),
        context_tokens=args.context,
        concurrency=args.concurrency,
    )
    print(json.dumps(found.to_json()) if args.json else _text(found))
    if not args.json and not args.quiet:
        print(_HONEST, file=sys.stderr)
    return 0 if found.verdict.fits else 1


_HONEST = (
    "These are estimates from data sheets and usual efficiencies, with their error beside them;"
    " `vllama tune` measures."
)


def _tokens(text: str) -> int:
    scale = {"k": 1024, "K": 1024}.get(text[-1:], 1)
    digits = text[:-1] if scale > 1 else text
    if not digits.isdigit() or int(digits) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no number such as 8192 or 8k")
    return int(digits) * scale


def _machine(gpu: str | None, settings: Settings) -> "Machine":
    from vllama import hardware
    from vllama.tuner import gpus

    return gpus.named(gpu) if gpu else hardware.visible(settings.environment)


def _engine(wanted: str, model: "Model", gpu: str | None) -> str:
    """vLLM wherever it can serve the model, as `tune` would choose; Apple's go to llama.cpp."""
    needs = {"vllm": "safetensors", "llamacpp": "gguf"}
    if wanted != "auto":
        if needs[wanted] not in model.formats:
            raise UsageError(
                f"{wanted} needs {needs[wanted]} weights and {model.name} has none",
                f"It has {', '.join(sorted(model.formats))}: leave --engine out.",
            )
        return wanted
    from vllama.tuner import gpus

    card = gpus.find(gpu) if gpu else None
    if "safetensors" in model.formats and (card is None or card.vendor != "apple"):
        return "vllm"
    return "llamacpp"


def _text(found: "Outlook") -> str:
    shape, verdict = found.model.shape, found.verdict
    budget = verdict.budget
    cards = [g.name for g in found.machine.gpus]
    where = f"{len(cards)} x {cards[0]}" if cards else found.machine.fingerprint
    is_mixture = shape.active_parameters < shape.parameters
    active = f", {_count(shape.active_parameters)} active" if is_mixture else ""
    size = f"{_count(shape.parameters)}{active}, {shape.quantization}"
    kept = f"{shape.kv_bytes_per_token / 1024:.1f} KiB"
    options = " ".join(f"{k}={v}" for k, v in found.options.items())
    each = " a card" if len(cards) > 1 and found.engine == "vllm" else ""
    rows = [
        ("model", f"{found.model.name}: {size}"),
        ("machine", where),
        ("engine", f"{found.engine} {options}".strip()),
        ("weights", f"{_gib(budget.weight_bytes)}{each} ({_gib(shape.weight_bytes)} on disk)"),
        ("working", f"{_gib(budget.activation_bytes + budget.graph_bytes + budget.overhead_bytes)}"
                    f"{each} for steps, graphs and the engine"),
        ("KV", f"{kept} a token; room for {verdict.kv_tokens:,} tokens"),
        ("fits", f"{_yes(found)}: {verdict.reason}"),
        ("sequences", f"{found.sequences} of {found.context_tokens:,} tokens at once"),
        ("longest", f"{found.longest_tokens:,} tokens of context for one sequence"),
    ]  # fmt: skip
    for rate in found.rates:
        p = rate.prediction
        rows.append(
            (
                f"at {rate.concurrency}",
                f"{_round(p.output_tokens_per_s)} tokens/s ({_round(p.low)} to {_round(p.high)}), "
                f"first token {p.ttft_s * 1000:,.0f} ms, then {p.tpot_s * 1000:,.1f} ms each; "
                f"bound by {p.bound_by}",
            )
        )
    rows += [("advice", each) for each in found.advice]
    return "\n".join(f"{name:<10} {text}" for name, text in rows)


def _yes(found: "Outlook") -> str:
    answer = "yes" if found.verdict.fits else "no"
    return f"perhaps {answer}" if found.verdict.is_close else answer


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f}B" if parameters >= 1e9 else f"{parameters / 1e6:.0f}M"


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"


def _round(rate: float) -> str:
    """Two digits that mean something."""
    return f"{float(f'{rate:.2g}'):,.0f}" if rate >= 10 else f"{rate:.1f}"
