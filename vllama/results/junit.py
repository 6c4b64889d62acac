"""A gate's checks as JUnit XML, which every CI shows."""

import xml.etree.ElementTree as ElementTree

from vllama.results import metrics
from vllama.results.regression import Check, Gate


def document(gate: Gate) -> str:
    """One test case for each metric of each workload; an undecided one counts as skipped."""
    suite = ElementTree.Element(
        "testsuite",
        name="vllama bench",
        tests=str(len(gate.checks)),
        failures=str(_count(gate, "regression")),
        skipped=str(_count(gate, "undecided")),
    )
    for check in gate.checks:
        case = ElementTree.SubElement(
            suite, "testcase", classname=check.workload, name=metrics.label(check.metric)
        )
        if check.verdict == "regression":
            ElementTree.SubElement(case, "failure", message=sentence(check))
        elif check.verdict == "undecided":
            ElementTree.SubElement(case, "skipped", message=sentence(check))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def sentence(check: Check) -> str:
    """What a check found, in words."""
    before = metrics.reading(check.metric, check.baseline)
    after = metrics.reading(check.metric, check.candidate)
    bounds = (
        f" (90 % interval {metrics.ratio(check.worse_ci90[0])} to "
        f"{metrics.ratio(check.worse_ci90[1])})"
        if check.worse_ci90
        else "; one start on a side shows no noise, measure with --repeat 4"
    )
    name = metrics.label(check.metric)
    return f"{name}: {before} before, {after} now, {metrics.ratio(check.worse)} as bad{bounds}"


def _count(gate: Gate, verdict: str) -> int:
    return sum(check.verdict == verdict for check in gate.checks)
