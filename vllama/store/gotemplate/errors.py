"""What can be wrong with a template."""

from vllama.errors import UsageError


class TemplateError(UsageError):
    """A template does not parse, or fails while it runs; the text is Go's."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(f"template: :{line}: {message}")
        self.line = line
