"""Known accelerators: what their data sheets say, present here or not."""

import difflib
import functools
import importlib.resources
import json
import re
from dataclasses import dataclass

from vllama.errors import UsageError
from vllama.machine import GIB, Cpu, Gpu, Machine

GB = 10**9
# What macOS lets a GPU have of the memory that it shares with the processor.
_APPLE_SHARE = 0.75
# What a driver keeps: of the 24 GiB of a card vLLM sees 23.6.
_DRIVER = round(0.42 * GIB)


@dataclass(frozen=True, slots=True)
class Card:
    """One kind of accelerator. FLOPS are dense; `fp8_flops` is 0 where it has none."""

    name: str
    aliases: tuple[str, ...]
    vendor: str
    memory_bytes: int
    bandwidth_bytes_per_s: float
    bf16_flops: float
    fp8_flops: float
    compute_capability: tuple[int, int]
    fast_links: bool


@functools.cache
def known() -> tuple[Card, ...]:
    """Every card of the table."""
    text = (
        importlib.resources.files("vllama.tuner").joinpath("gpus.json").read_text(encoding="utf-8")
    )
    return tuple(_card(entry) for entry in json.loads(text))


def find(name: str) -> Card | None:
    """The card that a driver, or a user, calls `name`; the longest name that is in it wins."""
    # `RTX4090` is meant as it would be written: letters and numbers apart, units with theirs.
    spread = re.sub(r"(?i)^(rtx|rx)(?=\d)", r"\1 ", name.strip())
    words = f" {_plain(spread)} "
    found = [
        (len(alias), card)
        for card in known()
        for alias in map(_plain, (card.name, *card.aliases))
        if f" {alias} " in words
    ]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def named(text: str, host_bytes: int = 256 * GB) -> Machine:
    """A machine with the cards of `NAME` or `NAMExN`, for planning: none need be here.

    Raises:
        UsageError: no card is called so; names near it are told.
    """
    match = re.fullmatch(r"(.+?)(?:\s*[x*]\s*(\d+))?", text.strip())
    name, count = (match[1], int(match[2] or 1)) if match else (text, 1)
    card = find(name)
    if card is None or not 1 <= count <= 64:
        names = [c.name for c in known()]
        near = difflib.get_close_matches(name.upper(), names, cutoff=0.4) or names
        raise UsageError(f"no GPU is known as '{text}'", f"There are: {', '.join(near)}.")
    is_apple = card.vendor == "apple"
    memory = round(card.memory_bytes * _APPLE_SHARE) if is_apple else card.memory_bytes - _DRIVER
    gpus = tuple(
        Gpu(
            index=i,
            name=card.name,
            uuid=f"planned-{i}",
            memory_bytes=memory,
            free_bytes=memory,
            compute_capability=card.compute_capability,
            memory_bandwidth_bytes_per_s=card.bandwidth_bytes_per_s,
            vendor=card.vendor,
        )
        for i in range(count)
    )
    cpu = Cpu("planned", cores=16, physical_cores=16)
    host = card.memory_bytes if is_apple else host_bytes
    return Machine(gpus, cpu, host, host, system="Darwin" if is_apple else "Linux")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip()


def _card(entry: dict[str, object]) -> Card:
    def number(key: str) -> float:
        return float(str(entry[key] or 0))

    aliases = entry["aliases"]
    assert isinstance(aliases, list)
    major, _, minor = str(entry["compute_capability"] or "0.0").partition(".")
    return Card(
        name=str(entry["name"]),
        aliases=tuple(map(str, aliases)),
        vendor=str(entry["vendor"]),
        memory_bytes=round(number("memory_gib") * GIB),
        bandwidth_bytes_per_s=number("bandwidth_gb_per_s") * GB,
        bf16_flops=number("bf16_tflops") * 1e12,
        fp8_flops=number("fp8_tflops") * 1e12,
        compute_capability=(int(major), int(minor)),
        fast_links=bool(entry["fast_links"]),
    )
