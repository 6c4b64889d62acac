"""The table of passes, printed when the golden tests have run."""

from tests.golden import exceptions

RESULTS: dict[str, list[str]] = {}


def lines() -> list[str]:
    """One line a recording, then how many pass."""
    told = []
    for name, found in RESULTS.items():
        meant = [line for line in found if exceptions.excused(name, line)]
        wrong = [line for line in found if line not in meant]
        verdict = "differs" if wrong else "meant" if meant else "equal"
        told.append(f"{verdict:8} {name}" + (f": {wrong[0][:150]}" if wrong else ""))
    equal = sum(1 for line in told if line.startswith("equal"))
    meant_count = sum(1 for line in told if line.startswith("meant"))
    told.append(f"{equal} of {len(told)} equal, {meant_count} meant to differ (docs/api.md)")
    return told
