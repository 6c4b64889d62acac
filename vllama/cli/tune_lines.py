"""What `vllama tune` tells people while it works."""

import math
import os
from collections.abc import Mapping
from typing import TextIO

from vllama.bench.measurement import Measurement
from vllama.engines import Choice
from vllama.machine import GIB, Machine
from vllama.profile import Profile, Scalar
from vllama.tuner.ablation import Ablated
from vllama.tuner.costs import configurations_per_hour
from vllama.tuner.document import Outcome
from vllama.tuner.finals import Block
from vllama.tuner.subject import Subject
from vllama.tuner.trial import Trial, in_words
from vllama.tuner.tuning import Tuning
from vllama.tuner.verdict import Gain


class Lines:
    """One plain line for each thing that happens."""

    def __init__(self, to: TextIO, *, quiet: bool) -> None:
        self._to = to
        self._quiet = quiet
        self._planned = 0
        self._in_finals = False

    def say(self, text: str = "") -> None:
        """One line, unless it should be quiet."""
        if not self._quiet:
            print(text, file=self._to, flush=True)

    def ground(self, choice: Choice, machine: Machine, subject: Subject) -> None:
        """The hardware, the model, the engine, the space."""
        shape = subject.space.ground.model.shape
        gpus = ", ".join(f"{g.name} ({g.memory_bytes / GIB:.0f} GiB)" for g in machine.gpus)
        cpu = f"{machine.cpu.cores} cores of {machine.cpu.name}"
        free = f"{machine.available_bytes / GIB:.0f} of {machine.memory_bytes / GIB:.0f} GiB free"
        self.say(f"machine    {gpus or 'no GPU'}; {cpu}; {free}")
        self.say(
            f"model      {subject.default.model}: {shape.architecture}, "
            f"{shape.parameters / 1e6:.0f}M parameters, {shape.quantization}, "
            f"context {shape.context_length}"
        )
        busy = os.getloadavg()[0]
        if busy > machine.cpu.cores / 2:
            self.say(f"           others keep about {busy:.1f} cores busy: figures will be noisy")
        version = subject.default.engine_version
        self.say(f"engine     {choice.engine.name} {version}: {choice.reason}")
        loads = ", ".join(w.name for w in subject.workloads)
        limits = ", ".join(str(limit) for limit in subject.objective.limits)
        self.say(
            f"goal       {subject.objective.name} under {loads}" + (f"; {limits}" * bool(limits))
        )
        self.say(
            f"space      {subject.space.size} combinations of {len(subject.space.knobs)} options"
        )

    def space(self, subject: Subject) -> None:
        """Every knob and everything that is left alone, with the reasons."""
        for knob in subject.space.knobs:
            values = " ".join(str(c) for c in knob.choices)
            self.say(f"  {knob.name} = {values} (default {knob.default}): {knob.why}")
        for out in subject.space.ruled_out:
            self.say(f"  not {out.option}: {out.reason}")

    def begin(self, tuning: Tuning, planned: int) -> None:
        """How much there is to do, and how much was done before."""
        self._planned = planned
        done = len(tuning.trials)
        if done:
            self.say(f"study      {tuning.subject.study}: going on after {done} trials")
        else:
            self.say(f"study      {tuning.subject.study}")

    def trial(self, trial: Trial, tuning: Tuning) -> None:
        """How a trial went."""
        count = sum(t.has_own_start for t in tuning.trials)
        head = f"trial {count:>3}/{self._planned}  "
        if not trial.has_own_start:
            head = f"{'refused' if trial.refused else 'live':<13}  "
        tail = f"  ({trial.seconds:.0f} s)  {in_words(trial.options)}"
        if trial.state == "failed" and trial.failure:
            self.say(f"{head}failed: {trial.failure.kind}: {trial.failure.message}{tail}")
            return
        note = "" if trial.complete or trial.failure is None else f"  {trial.failure.message}"
        against = _against_default(trial, tuning)
        tail = f"{tail}{_eta(tuning.eta_s)}"
        self.say(f"{head}{figures(trial.measurements)}{against}{note}{tail}")

    def related(self, seeds: Mapping[str, list[dict[str, Scalar]]]) -> None:
        """What earlier studies suggest."""
        for origin, each in seeds.items():
            for options in each:
                self.say(f"seed       from {origin}: {in_words(options)}")

    def ablated(self, part: Ablated) -> None:
        """What one setting of the winner brings."""
        shown = part.failure if part.ratio is None else f"{part.ratio:.3f}x the winner"
        self.say(
            f"ablation   without {part.option}={part.value} ({part.default}): "
            f"{shown}: {part.verdict}"
        )

    def block(self, block: Block, tuning: Tuning) -> None:
        """A block of the finals."""
        if not self._in_finals:
            self._in_finals = True
            self.say(f"search over: {tuning.stopped}")
        shown = f"fell: {block.failure}"
        if block.measured is not None:
            shown = figures({block.workload: block.measured})
        self.say(f"final round {block.round + 1}  {shown}  {in_words(block.options)}")

    def result(self, outcome: Outcome, interrupted: bool) -> None:
        """Default against best, and what was saved."""
        if interrupted:
            self.say("interrupted: what was finished is kept")
        elif not self._in_finals:
            self.say(f"search over: {outcome.stopped}")
        verdict = outcome.verdict
        self.say(f"result     {verdict.reason}")
        if outcome.drift:
            self.say(f"drift      {outcome.drift}")
        if verdict.gain is not None:
            self.say(f"gain       {gain_in_words(verdict.gain)} ({in_words(verdict.shown)})")
        for name, path in outcome.saved.items():
            mine = _differences(outcome.selected[name].profile, outcome.subject.default)
            self.say(f"profile    {name:<10} {in_words(mine)}  {path}")
        self._accuracy(outcome)
        self._costs(outcome)
        count, starting_s = len(outcome.trials), sum(t.start_s for t in outcome.trials)
        self.say(f"It took {outcome.seconds:.0f} s this time; {count} trials in the study.")
        if starting_s:
            mean_s = starting_s / sum(1 for t in outcome.trials if t.start_s)
            rate = 3600 / mean_s
            self.say(
                f"A start took {mean_s:.1f} s, which is {rate:.0f} starts an hour without load."
            )

    def _accuracy(self, outcome: Outcome) -> None:
        """How near the kept profiles' answers are to the default's, where they may differ."""
        shut_out = [t for t in outcome.trials if t.failure and t.failure.kind == "accuracy"]
        if shut_out:
            self.say(f"accuracy   {len(shut_out)} lossy configurations answer too differently")
        for name, chosen in outcome.selected.items():
            found = chosen.profile.provenance.get("accuracy")
            if found:
                self.say(
                    f"accuracy   {name:<10} {found['agreement']:.1%} of {found['tokens']} tokens "
                    f"are the default's, probabilities differ by {found['shift']:.2%} "
                    f"({found['text']} text)"
                )

    def _costs(self, outcome: Outcome) -> None:
        """What each rung cost."""
        for cost in outcome.costs:
            if cost.configurations:
                starts = f" on {cost.starts} starts" if cost.starts else ""
                refused = f", {cost.refused} not usable" if cost.refused else ""
                self.say(
                    f"cost       {cost.rung}: {cost.configurations} configurations{refused}"
                    f"{starts}, {cost.seconds:.1f} s"
                )
        rate = configurations_per_hour(outcome.trials)
        self.say(f"           {rate:.0f} configurations measured an hour of the search")


def figures(measured: Mapping[str, Measurement]) -> str:
    """Output tokens/s and the median time to the first token of each load."""
    shown = []
    for m in measured.values():
        first = f", TTFT {m.ttft_s.p50 * 1000:.0f} ms" if m.ttft_s else ""
        shown.append(f"{m.output_tokens_per_s:.0f} tok/s{first}")
    return " | ".join(shown)


def _differences(profile: Profile, default: Profile) -> dict[str, Scalar]:
    """The options and variables in which it is not the default."""
    pairs: list[tuple[Mapping[str, Scalar], Mapping[str, Scalar]]] = [
        (profile.options, default.options), (profile.environment, default.environment)
    ]  # fmt: skip
    return {k: v for mine, usual in pairs for k, v in mine.items() if usual.get(k) != v}


def gain_in_words(gain: Gain) -> str:
    """`1.31x the default in output tokens per s, 95 % interval 1.28 to 1.35`."""
    what = gain.metric.replace("_", " ")
    if gain.ci95 is None or not all(map(math.isfinite, gain.ci95)):
        return f"{gain.ratio:.3f}x the default in {what}, not proven"
    low, high = gain.ci95
    return f"{gain.ratio:.3f}x the default in {what}, 95 % interval {low:.3f} to {high:.3f}"


def _eta(seconds: float | None) -> str:
    """How long it should still take, once that is worth saying."""
    if seconds is None:
        return ""
    left = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
    return f"  [about {left} left]"


def _against_default(trial: Trial, tuning: Tuning) -> str:
    default = next((t for t in tuning.trials if not t.options and t.measurements), None)
    if default is None or not trial.options or not trial.measurements:
        return ""
    ratio = tuning.subject.objective.ratio(trial.measurements, default.measurements)
    return f"  {100 * (ratio - 1):+.1f} %"
