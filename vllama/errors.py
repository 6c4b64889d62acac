"""The tree of errors: each says what happened and what to do about it.

VllamaError                 exit 1
├── UsageError              exit 2: the command line, a file or a request is wrong
│   └── NotComparable       exit 2: two measurements that must not be compared
├── ModelError
│   ├── ModelNotFound       no such model here or at its source
│   └── ModelBroken         a file of the model is missing, cut short or corrupt
├── EngineError
│   ├── EngineMissing       the engine is not installed
│   ├── EngineFailed        it did not start, died, or hung
│   └── PortInUse           the address to listen on is taken
├── ProfileError
│   ├── ProfileNotFound
│   ├── ProfileBroken       the file is not a profile
│   └── ProfileMismatch     made for another machine, model or engine
└── StorageError            the disk is full or a path cannot be written
    └── RecordBroken        a line of a ledger is no record that this version can read
"""

from collections.abc import Sequence


class VllamaError(Exception):
    """Something the user can act on: `message` says what, `remedy` what to do."""

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message


class UsageError(VllamaError):
    """The caller asked for something that makes no sense."""

    exit_code = 2


class NotComparable(UsageError):
    """Two measurements differ in more than the thing under test."""


class ModelError(VllamaError):
    """A model cannot be used."""


class ModelNotFound(ModelError):
    """No model of this name; `near` are names like it."""

    def __init__(self, name: str, near: Sequence[str] = (), remedy: str = "") -> None:
        hint = f"Did you mean {', '.join(near)}?" if near else ""
        super().__init__(f"model '{name}' not found", " ".join(s for s in (hint, remedy) if s))
        self.name = name
        self.near = tuple(near)


class ModelBroken(ModelError):
    """A file of a model is missing, cut short or corrupt."""


class EngineError(VllamaError):
    """An inference engine cannot be used."""


class EngineMissing(EngineError):
    """The engine is not installed."""


class EngineFailed(EngineError):
    """The engine did not start, died or hung.

    `kind` is one of `out_of_memory`, `bad_option`, `bad_model`, `port`, `timeout`,
    `hang`, `crash`; `phase` says how far it came; `log` are its last lines.
    """

    def __init__(
        self,
        message: str,
        remedy: str = "",
        *,
        kind: str = "crash",
        phase: str = "",
        log: Sequence[str] = (),
    ) -> None:
        super().__init__(message, remedy)
        self.kind = kind
        self.phase = phase
        self.log = tuple(log)


class PortInUse(EngineError):
    """Somebody else listens on this address."""


class ProfileError(VllamaError):
    """A profile cannot be used."""


class ProfileNotFound(ProfileError):
    """No profile of this name for this model."""


class ProfileBroken(ProfileError):
    """The file is not a profile that this version can read."""


class ProfileMismatch(ProfileError):
    """The profile was made for another machine, model or engine."""


class StorageError(VllamaError):
    """The disk is full or a path cannot be written."""


class RecordBroken(StorageError):
    """A line of a ledger is no record that this version can read."""
