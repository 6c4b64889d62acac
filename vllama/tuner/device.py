"""What computes, as far as speed and memory depend on it: some cards, or a processor."""

from dataclasses import dataclass

from vllama.machine import Machine
from vllama.tuner import gpus

# A processor's, for want of a data sheet: measured ones replace them after the first start.
_CORE_BANDWIDTH = 10e9
_SOCKET_BANDWIDTH = 60e9
_CORE_FLOPS = {"amx_bf16": 800e9, "avx512_bf16": 240e9, "avx512f": 150e9, "avx2": 90e9}
_PLAIN_FLOPS = 15e9


@dataclass(frozen=True, slots=True)
class Device:
    """`count` equal devices; sizes and rates are of one. `is_guess` without a data sheet."""

    name: str
    count: int
    memory_bytes: int
    free_bytes: int
    bandwidth_bytes_per_s: float
    flops: float
    fp8_flops: float
    is_cpu: bool
    is_guess: bool
    fast_links: bool = False


def of(machine: Machine) -> Device:
    """The cards of a machine, else its processor."""
    return _cards(machine) if machine.gpus else _processor(machine)


def _cards(machine: Machine) -> Device:
    first = machine.gpus[0]
    card = gpus.find(first.name)
    bandwidth = first.memory_bandwidth_bytes_per_s or (card.bandwidth_bytes_per_s if card else 0)
    bandwidth = bandwidth or 500e9
    return Device(
        name=first.name,
        count=len(machine.gpus),
        memory_bytes=min(g.memory_bytes for g in machine.gpus),
        free_bytes=min(g.free_bytes for g in machine.gpus),
        bandwidth_bytes_per_s=bandwidth,
        # Cards of a time have about as many operations for each byte: 150 on the small side.
        flops=card.bf16_flops if card else 150 * bandwidth,
        fp8_flops=card.fp8_flops if card else 0.0,
        is_cpu=False,
        is_guess=card is None,
        fast_links=card.fast_links if card else False,
    )


def _processor(machine: Machine) -> Device:
    cpu = machine.cpu
    core = next((f for name, f in _CORE_FLOPS.items() if name in cpu.features), _PLAIN_FLOPS)
    return Device(
        name=cpu.name,
        count=1,
        # vLLM takes its share of one node's memory, not of the whole machine's.
        memory_bytes=min(cpu.node_bytes or machine.memory_bytes, machine.memory_bytes),
        free_bytes=machine.available_bytes,
        bandwidth_bytes_per_s=min(cpu.cores * _CORE_BANDWIDTH, _SOCKET_BANDWIDTH * cpu.numa_nodes),
        flops=cpu.cores * core,
        fp8_flops=0.0,
        is_cpu=True,
        is_guess=True,
    )
