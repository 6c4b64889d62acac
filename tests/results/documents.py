"""Documents as `vllama tune --json` and `vllama bench --json` print them, made by hand."""

from typing import Any

MACHINE = {
    "fingerprint": "cpu-2c-24gb-x86_64",
    "gpus": [],
    "cpu": {"name": "AMD EPYC 9R14", "cores": 2, "features": ["avx2", "avx512f"]},
    "memory_bytes": 25_769_803_776,
    "system": "Linux",
}
WORKLOADS = ("concurrent-5-short", "concurrent-10-long")


def measurement(rate: float, ttft: float, failed: int = 0) -> dict[str, Any]:
    """A plausible measurement of `rate` output tokens/s and `ttft` seconds."""

    def quantiles(mean: float, p99: bool = True) -> dict[str, float | None]:
        long = mean * 2.6 if p99 else None
        return {"mean": mean, "p50": mean * 0.93, "p95": mean * 1.9, "p99": long}

    return {
        "duration_s": 20.4,
        "completed": 160,
        "failed": failed,
        "failures": {"timeout": failed} if failed else {},
        "suspect": [],
        "requests_per_s": rate / 64,
        "output_tokens_per_s": rate,
        "total_tokens_per_s": rate * 1.78,
        "prompt_tokens": 8000,
        "output_tokens": 10240,
        "ttft_s": quantiles(ttft, p99=False),
        "itl_s": quantiles(5 / rate),
        "tpot_s": quantiles(5.1 / rate),
        "e2e_s": quantiles(ttft + 320 / rate),
        "goodput_per_s": None,
        "peak_memory_bytes": 812_345_678,
    }


def _trial(number: int, options: dict[str, Any], rate: float, ttft: float) -> dict[str, Any]:
    measured = {
        w: measurement(rate * s, ttft / s) for w, s in zip(WORKLOADS, (1, 0.7), strict=True)
    }
    return {
        "number": number,
        "options": options,
        "state": "complete",
        "measurements": measured,
        "failure": None,
        "seconds": 31.5,
    }


def _failed(number: int, options: dict[str, Any], state: str, kind: str, message: str) -> Any:
    return {
        "number": number,
        "options": options,
        "state": state,
        "measurements": None,
        "failure": {"kind": kind, "message": message},
        "seconds": 4.2,
    }


def tune() -> dict[str, Any]:
    """Fourteen trials, three of them failed, with a clear gain."""
    rates = (412.0, 455.3, 371.9, 520.4, 548.8, 533.1, 561.7, 498.2, 558.0, 566.3, 540.9)
    settings: list[dict[str, Any]] = [
        {},
        {"n_parallel": 4, "n_batch": 512},
        {"n_parallel": 2, "n_batch": 2048},
        {"n_parallel": 8, "n_batch": 512, "flash_attn": True},
        {"n_parallel": 8, "n_batch": 1024, "flash_attn": True},
        {"n_parallel": 16, "n_batch": 512, "flash_attn": True, "cache_type_k": "q8_0"},
        {"n_parallel": 12, "n_batch": 1024, "flash_attn": True, "cache_type_k": "f16"},
        {"n_parallel": 6, "n_batch": 256, "flash_attn": False},
        {"n_parallel": 12, "n_batch": 2048, "flash_attn": True},
        {"n_parallel": 12, "n_batch": 512, "flash_attn": True},
        {"n_parallel": 10, "n_batch": 512, "flash_attn": True},
    ]
    numbers = (0, 1, 2, 3, 5, 6, 7, 9, 10, 11, 13)
    done = [
        _trial(n, s, r, 0.05 + r / 9000 - 0.004 * (n % 3))
        for n, s, r in zip(numbers, settings, rates, strict=True)
    ]
    lost = [
        _failed(4, {"n_parallel": 64}, "failed", "out_of_memory", "no room for the KV cache"),
        _failed(8, {"n_batch": 7}, "failed", "bad_option", "n_batch must be a multiple of 32"),
        _failed(12, {"n_parallel": 1}, "infeasible", "slo", "ttft_p95 is 2.1 s, allowed is 0.5 s"),
    ]
    best = done[9]
    return {
        "format": 1,
        "model": "toy-4m",
        "machine": MACHINE,
        "engine": {"name": "llamacpp", "version": "2026.10.1"},
        "study": "toy-4m-llamacpp-throughput",
        "command": "vllama tune toy-4m --engine llamacpp --trials 14 --seed 7",
        "trials": done + lost,
        "baseline": {
            "options": {},
            "command": ["llama-server", "--model", "toy 4m.gguf"],
            "measurements": done[0]["measurements"],
        },
        "best": {
            "profile": "best",
            "options": best["options"],
            "command": ["llama-server", "--model", "toy 4m.gguf", "--parallel", "12"],
            "measurements": best["measurements"],
        },
        "gain": {"metric": "output_tokens_per_s", "ratio": 1.374, "ci95": [1.311, 1.428]},
        "profiles": {"best": "profiles/toy-4m/best.json"},
        "profile_trials": {"throughput": 11, "latency": 1, "balanced": 3},
        "cost": {"trials": 14, "engine_starts": 20, "seconds": 402.7},
        "ruled_out": [
            {"option": "n_parallel=128", "reason": "its KV cache needs 31 GiB, there are 24"},
            {"option": "cache_type_v=q4_0", "reason": "needs flash_attn"},
        ],
    }


def tune_without_gain() -> dict[str, Any]:
    """The interval holds 1: noise, not a gain."""
    gain = {"metric": "output_tokens_per_s", "ratio": 1.004, "ci95": [0.981, 1.029]}
    whole = tune()
    close = _trial(11, whole["best"]["options"], 412.0 * 1.004, 0.0951)
    best = {**whole["best"], "measurements": close["measurements"]}
    return {**whole, "best": best, "gain": gain}


def tune_of_one_trial() -> dict[str, Any]:
    """Only the default was tried, and it is what was saved."""
    whole = tune()
    return {
        **whole,
        "trials": whole["trials"][:1],
        "best": {**whole["baseline"], "profile": "best"},
        "gain": None,
    }


def tune_that_failed() -> dict[str, Any]:
    """Not even the default came up."""
    whole = tune()
    return {**whole, "trials": whole["trials"][-3:], "baseline": None, "best": None, "gain": None}


def bench() -> dict[str, Any]:
    """Best, default and Ollama at four loads."""
    results = []
    scale = {"best": 1.38, "default": 1.0, "ollama": 0.81}
    for concurrency in (1, 5, 10, 50):
        for target, factor in scale.items():
            rate = 500 * factor * concurrency / (concurrency + 4.2)
            failed = 3 if (target, concurrency) == ("ollama", 50) else 0
            results.append(
                {
                    "target": target,
                    "workload": {
                        "name": f"concurrent-{concurrency}-short",
                        "prompt_tokens": 50,
                        "output_tokens": 64,
                        "concurrency": concurrency,
                        "seed": 7,
                    },
                    "measurement": measurement(rate, 0.02 + concurrency / rate, failed),
                    "ci95": {"output_tokens_per_s": [rate * 0.97, rate * 1.03]},
                }
            )
    return {
        "format": 1,
        "machine": MACHINE,
        "command": "vllama bench toy-4m --profile best --vs-ollama --concurrency 1,5,10,50",
        "targets": [
            {
                "name": name,
                "engine": "ollama" if name == "ollama" else "llamacpp",
                "version": "0.9.1",
                "url": f"http://127.0.0.1:{port}",
                "options": {"n_parallel": 12} if name == "best" else {},
            }
            for name, port in (("best", 9001), ("default", 9002), ("ollama", 11434))
        ],
        "results": results,
        "comparisons": [
            {
                "workload": "concurrent-50-short",
                "metric": metric,
                "baseline": "ollama",
                "candidate": "best",
                "ratio": ratio,
                "ci95": [ratio - 0.041, ratio + 0.043],
                "verdict": verdict,
            }
            for metric, ratio, verdict in (
                ("output_tokens_per_s", 1.704, "faster"),
                ("ttft_s.p50", 0.614, "faster"),
                ("e2e_s.p95", 0.979, "undecided"),
            )
        ],
    }
