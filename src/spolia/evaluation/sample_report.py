"""Tables of the benchmark of samples."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from spolia.evaluation.metrics import Rate
from spolia.evaluation.report import table_row
from spolia.evaluation.samples import SampleOutcome, summarise
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


def markdown(facts: dict[str, Any]) -> str:
    """Return the measured tables as Markdown."""
    found = facts["tables"]
    keys = dict.fromkeys(key for table in found.values() for key in table if key != "seconds")
    head = ["", *found]
    lines = [
        f"Library: {facts['library']}. Method: {facts['method']}. {_asked(facts['plan'])}; "
        "95 % bootstrap intervals over tracks.",
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
