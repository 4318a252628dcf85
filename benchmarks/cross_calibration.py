"""Scores a run of `spolia evaluate samples` with a calibration of its own, fitted crosswise.

    python benchmarks/cross_calibration.py OUT/samples-samples-0.json [--write FILE] [--out FILE]
        [--reliability]

A model that was never calibrated ranks by a guess, and one calibrated on the tracks it is measured
on flatters itself. Here the tracks are divided in two by the recordings they sample; each half is
ranked by what the other half teaches. --write: a calibration fitted on all of them, to be shipped.
--out: the figures, for `spolia train record`.
--reliability: how often what is said with a probability is right, too.
--deaf: the classifier's logit is not listened to; it has still had its say in what was nominated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from spolia.calibration import logistic
from spolia.evaluation.sample_report import markdown, summarise
from spolia.evaluation.sample_running import fit
from spolia.evaluation.samples import Ranked, SampleOutcome, relevant
from spolia.samples import SampleCalibration

BINS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0 + 1e-9)
Ranking = Callable[[SampleOutcome, SampleCalibration], SampleOutcome]
NOTE = "each half of the tracks ranked by a calibration fitted on the other"


def half_of(outcome: SampleOutcome) -> int:
    """Return the half that a track belongs to: by its first sampled recording, or its own name."""
    name = outcome.uses[0]["file"] if outcome.uses else outcome.query
    return zlib.crc32(name.encode()) % 2


def judged(outcome: SampleOutcome, by: SampleCalibration, limit: float = 0.0) -> SampleOutcome:
    """Return an outcome ranked by a calibration; limit: what is taken off its log odds."""

    def probability(of: Ranked) -> float:
        if not of.features:
            return of.probability
        return float(logistic(np.array([np.dot(of.features, by.weights) - limit]))[0])

    ranking = [replace(r, probability=probability(r)) for r in outcome.ranking]
    return replace(outcome, ranking=sorted(ranking, key=lambda r: -r.probability))


def centred(outcome: SampleOutcome, by: SampleCalibration) -> SampleOutcome:
    """Return an outcome ranked by a calibration, whose threshold becomes one half."""
    return judged(outcome, by, float(np.log(by.threshold / (1 - by.threshold))))


def deaf(outcome: SampleOutcome) -> SampleOutcome:
    """Return an outcome without the classifier's logits, the last of the features."""
    ranking = [
        replace(r, features=[*r.features[:-1], 0.0]) if r.features else r for r in outcome.ranking
    ]
    return replace(outcome, ranking=ranking)


def read(path: Path) -> tuple[list[SampleOutcome], dict[str, Any]]:
    """Return the outcomes, and the facts of the run, that `spolia evaluate samples --out` wrote."""
    facts = json.loads(path.read_text())
    return [SampleOutcome.from_dict(v) for v in facts.pop("outcomes")], facts


def crossed(outcomes: Sequence[SampleOutcome], ranked: Ranking = centred) -> list[SampleOutcome]:
    """Return all outcomes, each half ranked by the calibration of the other."""
    halves = [[o for o in outcomes if half_of(o) == number] for number in (0, 1)]
    fitted = [fit(half) for half in halves]
    return [ranked(o, fitted[1 - number]) for number in (0, 1) for o in halves[number]]


def reliability(outcomes: Sequence[SampleOutcome]) -> str:
    """Return a table of probabilities that one half said by the other's calibration."""
    said, right = [], []
    for outcome in crossed(outcomes, judged):
        sampled = {use.file for use in relevant(outcome)}
        heard = [r for r in outcome.ranking if r.features]
        said += [r.probability for r in heard]
        right += [r.file in sampled for r in heard]
    p, y = np.array(said), np.array(right)
    lines = ["| probability | said on average | right | recordings |", "| --- | --- | --- | --- |"]
    for low, high in itertools.pairwise(BINS):
        within = (p >= low) & (p < high)
        if within.any():
            means = f"{p[within].mean():.3f} | {y[within].mean():.3f}"
            lines.append(f"| {low:g}–{min(high, 1.0):g} | {means} | {within.sum():,} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, and write the calibration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outcomes", type=Path)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--reliability", action="store_true")
    parser.add_argument("--deaf", action="store_true")
    options = parser.parse_args()
    outcomes, facts = read(options.outcomes)
    if options.deaf:
        outcomes = [deaf(o) for o in outcomes]
    table = summarise(crossed(outcomes), 0.5, ())
    del table["map_lenient"]  # what is a distractor is not in the file
    facts |= {"tables": {"track": table}, "note": NOTE}
    print(markdown(facts))
    if options.reliability:
        print(reliability(outcomes))
    if options.out:
        options.out.write_text(json.dumps(facts, indent=1) + "\n")
    if options.write:
        options.write.write_text(json.dumps(fit(outcomes).to_dict(), indent=1) + "\n")


if __name__ == "__main__":
    main()
