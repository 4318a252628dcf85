"""Figures and tables of the benchmark of samples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from spolia.evaluation.metrics import Rate, rate, recall_at
from spolia.evaluation.report import table_row
from spolia.evaluation.samples import (
    OVERLAYS,
    SampleOutcome,
    average_precision,
    errors,
    hit,
    is_heard_there,
    is_near,
    overlap,
    relevant,
)
from spolia.library import Library
from spolia.sample_opening import calibration_with

LABELS = {
    "map": "mAP, strict",
    "map_lenient": "mAP, lenient: distractors left out, first 20, mean over found recordings",
    "hr1": "HR@1",
    "hr10": "HR@10",
    "hr1_at_0.02": "HR@1 at 2 % false alarms",
    "hr1_at_0.01": "HR@1 at 1 % false alarms",
    "recall": "HR@1 at the default threshold",
    "false_alarms": "false alarms at the default threshold",
    "near": "right place (0.5 s), of right answers",
    "there": "right place, or where the recording repeats the sound, of right answers",
    "iou": "overlap of the spans, of right answers",
    "start": "start within 50 ms (median of a track), of right answers",
    "pitch": "pitch within 0.25 semitones, of right answers",
    "tempo": "tempo within 1 %, of right answers",
    "count": "number of occurrences exact, of right answers",
    "part": "part (none named is wrong), of right answers",
    "named": "a part is named, of right answers",
}
NOTHING = -1e9  # less than any probability: of a query without an answer


def tables(
    outcomes: Sequence[SampleOutcome],
    lengths: Sequence[float],
    library: Library,
    references: Collection[str],
) -> dict[str, Any]:
    """Return the figures by the length of the queries, "track" for whole ones.

    references: the recordings of the library that are no distractors.
    """
    threshold = 0.5
    if "samples" in library.methods:
        samples = library.fingerprinter("samples")
        threshold = calibration_with(samples, library.sample_judge).threshold
    if not lengths:
        return {"track": summarise(outcomes, threshold, references)}
    n = len(lengths)
    return {
        f"{length:g} s": summarise(outcomes[i::n], threshold, references)
        for i, length in enumerate(lengths)
    }


def summarise(
    outcomes: Sequence[SampleOutcome], threshold: float, references: Collection[str]
) -> dict[str, Any]:
    """Return the figures of whole tracks or of one length of queries.

    references: the recordings of the library that are no distractors. Queries that hold nothing of
    what their track samples are left out.
    """
    sampling = [o for o in outcomes if relevant(o)]
    free = [o for o in outcomes if not o.uses]
    right = [o for o in sampling if hit(o, 1)]
    table: dict[str, Any] = {
        "map": _mean(average_precision, sampling),
        "map_lenient": _mean(partial(average_precision, lenient=references), sampling),
        "hr1": _mean(partial(hit, n=1), sampling),
        "hr10": _mean(partial(hit, n=10), sampling),
        "near": _mean(is_near, right),
        "there": _mean(is_heard_there, right),
        "recall": _mean(lambda o: hit(o, 1) and _top(o) >= threshold, sampling),
        "false_alarms": _mean(lambda o: _top(o) >= threshold, free),
    }
    for share in (0.02, 0.01):
        table[f"hr1_at_{share:g}"] = _hits_at(share, sampling, free)
    for key in ("start", "pitch", "tempo", "count", "part", "named"):
        table[key] = _mean(partial(_is_right, key), right)
    table["iou"] = _mean(overlap, right)
    table["seconds"] = float(np.median([o.seconds for o in outcomes])) if outcomes else None
    for name, kept in _subsets(sampling).items():
        table[f"map {name}"] = _mean(average_precision, kept)
    return table


def _hits_at(
    share: float, sampling: Sequence[SampleOutcome], free: Sequence[SampleOutcome]
) -> dict[str, Any]:
    """Return HR@1 at the threshold that at most a share of sample-free tracks exceeds."""
    first = np.array([hit(o, 1) for o in sampling], bool)
    top, free_top = (np.array([_top(o) for o in of], np.float64) for of in (sampling, free))
    level = recall_at(top, first, free_top, share)[1]
    return _mean(lambda o: hit(o, 1) and _top(o) > level, sampling if free else [])


def _top(outcome: SampleOutcome) -> float:
    """Return the probability of the first answer."""
    return outcome.ranking[0].probability if outcome.ranking else NOTHING


def _is_right(key: str, outcome: SampleOutcome) -> bool | None:
    """Tell whether one thing about the first answer is right; None: not known."""
    return (errors(outcome) or {}).get(key)


def _subsets(outcomes: Sequence[SampleOutcome]) -> dict[str, list[SampleOutcome]]:
    """Return queries with one use by its transformation, part, kind, manner and overlay."""
    single = [(o, o.uses[0]) for o in outcomes if len(o.uses) == 1]
    found: dict[str, list[SampleOutcome]] = {}
    for key in ("transformation", "part", "kind", "manner"):
        for value in sorted({use[key] for _, use in single if use[key] is not None}):
            found[value] = [o for o, use in single if use[key] == value]
    for low, high in OVERLAYS:
        name = f"{low:+.0f}…{high:+.0f} dB".replace("-99…", "below ").replace("…+99", " and more")
        found[name] = [
            o
            for o, use in single
            if use["overlay_db"] is not None and low <= use["overlay_db"] < high
        ]
    return {name: kept for name, kept in found.items() if kept}


def clusters(outcomes: Sequence[SampleOutcome]) -> npt.NDArray[np.int64]:
    """Return the number of what each query depends on [shape=(n,)].

    Queries whose first sampled recordings are of one group are not independent: these share
    material. A recording without a group, and a track that samples nothing, stands for itself.
    """
    first = [o.uses[0] if o.uses else {"file": o.query} for o in outcomes]
    names = [use.get("group") or use["file"] for use in first]
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names], np.int64)


def _mean(
    score: Callable[[SampleOutcome], float | None], outcomes: Sequence[SampleOutcome]
) -> dict[str, Any]:
    """Return the mean score of queries and its bootstrap interval over clusters as JSON values.

    Queries whose score is None are left out; null of nothing.
    """
    scores = [(o, score(o)) for o in outcomes]
    known = [(o, value) for o, value in scores if value is not None]
    values = np.array([value for _, value in known], np.float64)
    figures = asdict(rate(values, clusters([o for o, _ in known])))
    return figures if known else {**dict.fromkeys(figures), "n": 0}


def markdown(facts: dict[str, Any]) -> str:
    """Return the measured tables as Markdown."""
    found = facts["tables"]
    keys = dict.fromkeys(key for table in found.values() for key in table if key != "seconds")
    head = ["", *found]
    lines = [
        f"Library: {facts['library']}. Method: {facts['method']}. {_asked(facts['plan'])}; "
        "95 % bootstrap intervals over groups of sampled recordings.",
        "",
        table_row(head),
        table_row(["---"] * len(head)),
    ]
    for key in keys:
        cells = [str(Rate(**t[key])) if key in t else "–" for t in found.values()]
        label = LABELS.get(key) or key.replace("map ", "mAP, ")
        lines.append(table_row([label, *cells]))
    times = [f"{t['seconds']:.1f}" if t["seconds"] else "–" for t in found.values()]
    lines.append(table_row(["median time, s", *times]))
    return "\n".join(lines)


def _asked(plan: dict[str, Any]) -> str:
    """Say what was asked about."""
    if "n_missing" in plan:
        return f"{plan['n_tracks']} tracks of Sample100 ({plan['n_missing']} files were missing)"
    return (
        f"{plan['n_tracks']} tracks that sample, {plan['n_free']} that do not, "
        f"made of {plan['split']}, seed {plan['seed']}"
    )
