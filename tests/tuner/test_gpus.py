"""The table of known accelerators: its form, and numbers that could be true."""

import pytest

from vllama.errors import UsageError
from vllama.machine import GIB
from vllama.tuner import gpus
from vllama.tuner.gpus import Card

every_card = pytest.mark.parametrize("card", gpus.known(), ids=lambda c: c.name)


def test_the_table_has_the_cards_that_people_have() -> None:
    names = {c.name for c in gpus.known()}
    assert len(names) == len(gpus.known()) >= 30
    for wanted in (
        "RTX 3060", "RTX 3090", "RTX 4090", "RTX 5090", "L4", "L40S", "A10", "A100 40GB",
        "A100 80GB", "H100", "H200", "B200", "MI300X", "M1", "M4 Max",
    ):  # fmt: skip
        assert wanted in names


@every_card
def test_a_card_is_plausible(card: Card) -> None:
    assert card.vendor in {"nvidia", "amd", "apple"}
    assert 8 * GIB <= card.memory_bytes <= 512 * GIB
    assert 60e9 <= card.bandwidth_bytes_per_s <= 10e12
    assert 2e12 <= card.bf16_flops <= 5e15
    # Operations for each byte: a machine without balance would be a slip of the pen.
    assert 20 <= card.bf16_flops / card.bandwidth_bytes_per_s <= 500
    # It takes between an hundredth and half a second to read all of the memory once.
    assert 0.01 <= card.memory_bytes / card.bandwidth_bytes_per_s <= 0.7
    assert (card.compute_capability > (0, 0)) == (card.vendor == "nvidia")


@every_card
def test_8_bit_arithmetic_is_twice_as_fast_where_there_is_any(card: Card) -> None:
    if card.vendor == "nvidia":
        assert bool(card.fp8_flops) == (card.compute_capability >= (8, 9))
    if card.fp8_flops:
        assert card.fp8_flops / card.bf16_flops == pytest.approx(2, rel=0.05)


@every_card
def test_a_card_is_found_by_its_own_names(card: Card) -> None:
    for name in (card.name, card.name.lower(), *card.aliases):
        assert gpus.find(name) == card


@pytest.mark.parametrize(
    ("driver", "card"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB PCIe"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070 Ti SUPER"),
        ("NVIDIA GeForce RTX 4070", "RTX 4070"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10G", "A10G"),
        ("Tesla T4", "T4"),
        ("AMD Instinct MI300X", "MI300X"),
        ("Apple M3 Max", "M3 Max"),
        ("Apple M1", "M1"),
    ],
)
def test_a_card_is_found_by_what_its_driver_calls_it(driver: str, card: str) -> None:
    found = gpus.find(driver)
    assert found is not None
    assert found.name == card


def test_an_unknown_card_is_not_guessed() -> None:
    assert gpus.find("NVIDIA GeForce GTX 750") is None
    with pytest.raises(UsageError, match="no GPU is known as 'RTX 4099'") as caught:
        gpus.named("RTX 4099")
    assert "RTX 4090" in caught.value.remedy


def test_several_cards_may_be_asked_for() -> None:
    assert len(gpus.named("H100x8").gpus) == 8
    assert len(gpus.named("rtx 4090 x 2").gpus) == 2
    assert len(gpus.named("M2 Max").gpus) == 1
    with pytest.raises(UsageError):
        gpus.named("H100x0")
