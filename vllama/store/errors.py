"""What a store refuses, with the HTTP status that Ollama answers it with."""

from vllama.errors import UsageError


class Refused(UsageError):
    """`message` is Ollama's own text; `status` its answer when nothing was sent yet."""

    def __init__(self, message: str, status: int = 400, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.status = status


class TransferFailed(Refused):
    """A pull or a push failed; `status` is 500 unless the other side gave a better one."""

    exit_code = 1

    def __init__(self, message: str, status: int = 500, remedy: str = "") -> None:
        super().__init__(message, status, remedy)
