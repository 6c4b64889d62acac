"""Prints the table of passes after the golden tests."""

from typing import Any

from tests.golden import table


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if table.RESULTS:
        terminalreporter.section("recorded answers of Ollama")
        for line in table.lines():
            terminalreporter.write_line(line)
