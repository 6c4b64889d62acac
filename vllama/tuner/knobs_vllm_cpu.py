"""What only vLLM on a processor has to vary; what is a variable there and no option."""

from vllama.tuner.knob import Ground, Knob, Maker, Options, RuledOut

# A name in capitals is a variable of the child's environment: see `Subject.profile`.
THREADS = "VLLM_CPU_OMP_THREADS_BIND"
WORKER = "VLLM_ENABLE_V1_MULTIPROCESSING"


def _threads(ground: Ground) -> Knob | RuledOut:
    cpu = ground.machine.cpu
    if ground.on_gpu or ground.engine != "vllm" or not ground.is_at_least("0.12"):
        return RuledOut(THREADS, "it is for vLLM on a processor")
    if cpu.cores < 2:
        return RuledOut(THREADS, "there is one core to bind to")
    return Knob(
        THREADS, "categorical", ("auto", "nobind"), "auto",
        "auto binds a thread to each physical core but one, which is left to the scheduler; "
        f"nobind lets the system place {cpu.cores} threads, one for every core",
    )  # fmt: skip


def _worker(ground: Ground) -> Knob | RuledOut:
    # Releases before this one start a process for it whatever they are told.
    if ground.on_gpu or ground.engine != "vllm" or not ground.is_at_least("0.32"):
        return RuledOut(WORKER, "it is for vLLM 0.32 and later on a processor")
    return Knob(
        WORKER, "categorical", ("1", "0"), "1",
        "1 computes in a process of its own, for which the scheduler's waits on a core that it "
        "keeps busy; 0 computes in the scheduler's, with threads that nothing binds",
    )  # fmt: skip


def binds_nothing(options: Options) -> str | None:
    """A rule: where there is no process for it, its threads are not bound either way."""
    if options.get(WORKER, "1") == "0" and options.get(THREADS, "auto") != "auto":
        return f"{THREADS} is read where computing has a process of its own"
    return None


MAKERS: dict[str, Maker] = {THREADS: _threads, WORKER: _worker}
