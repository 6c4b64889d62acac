"""What only vLLM on a processor has to vary; what is a variable there and no option."""

from vllama.tuner.knob import Ground, Knob, Maker, RuledOut

# A name in capitals is a variable of the child's environment: see `Subject.profile`.
THREADS = "VLLM_CPU_OMP_THREADS_BIND"


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


MAKERS: dict[str, Maker] = {THREADS: _threads}
