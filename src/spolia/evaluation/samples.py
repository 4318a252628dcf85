"""The protocol of ``spolia evaluate samples``: made tracks with exact truth, strictly scored.

The library holds the recordings that may be sampled and all distractors; what is laid over samples
is never in it. Every recording is ranked, distractors too, and precision is averaged over all
relevant recordings, found or not. (The published protocol on Sample100 leaves distractors out of
the ranking and averages over found recordings only: that stands beside as the lenient figure.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spolia.audio import Audio
from spolia.evaluation.metrics import rate
from spolia.evaluation.sample_truth import Asked, Known, any_true
from spolia.library import Library
from spolia.rivals import best_per_recording

NEAR = 0.5  # seconds within which a place is right
START, IN_TUNE, IN_TIME = 0.05, 0.25, 0.01  # seconds, semitones, share of the tempo
LEAST = 0.5  # seconds of an occurrence that a query must hold for it to count
MOST_RANKED = 200
UNHEARD = 1000.0  # less than any probability: what was nominated but not heard comes last
MOST_LENIENT = 20  # recordings that the published protocol looks at
OVERLAYS = ((-99.0, -6.0), (-6.0, 0.0), (0.0, 6.0), (6.0, 99.0))  # decibels

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Ranked:
    """A recording in the ranking of a query."""

    file: str
    probability: float
    tempo_ratio: float | None = None
    semitones: float | None = None
    part: str | None = None
    # query start and end, recording start and end: of each occurrence
    occurrences: list[list[float]] = field(default_factory=list)
    features: list[float] = field(default_factory=list)  # what the calibration sees
    repeats: bool = False  # whether the sound at its places is what is sampled, there or repeated


@dataclass(frozen=True)
class SampleOutcome:
    """One query, answered."""

    query: str
    length: float  # seconds that were asked
    start: float  # seconds of the track at which the query begins
    seconds: float  # time that the answer took
    uses: list[dict[str, Any]]  # of the whole track, none of a sample-free one
    ranking: list[Ranked]  # best first

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SampleOutcome:
        """Read what ``asdict`` made of an outcome."""
        return cls(**{**values, "ranking": [Ranked(**r) for r in values["ranking"]]})


Finder = Callable[[Audio, Collection[str]], list[Ranked]]  # without some files


def by_samples(library: Library, file_of: dict[str, str]) -> Finder:
    """Return what ranks a query's recordings by the method ``samples``.

    Those that were nominated but not heard come last.
    """

    id_of = {file: name for name, file in file_of.items()}

    def find(audio: Audio, without: Collection[str]) -> list[Ranked]:
        ids = [id_of[file] for file in without if file in id_of]
        finder = library.sample_finder(audio, without=ids)
        matches = finder.matches()
        found = [
            Ranked(
                file_of[m.recording.id],
                m.probability,
                m.tempo_ratio,
                m.semitones,
                m.part,
                [
                    [o.query_start, o.query_end, o.reference_start, o.reference_end]
                    for o in m.occurrences
                ],
                list(m.features),
            )
            for m in matches
        ]
        left = finder.others(m.recording.id for m in matches)
        return found + [Ranked(file_of[name], promise - UNHEARD) for name, promise in left]

    return find


def by_method(library: Library, file_of: dict[str, str], method: str) -> Finder:
    """Return what ranks a query's recordings by a method of identify: a baseline."""

    def find(audio: Audio, without: Collection[str]) -> list[Ranked]:
        heard = audio.resample(8000)
        every = best_per_recording(library.candidates(heard, method=method))
        found = [c for c in every if file_of[c.recording_id] not in without]
        return [
            Ranked(
                file_of[c.recording_id],
                c.probability,
                c.line.speed,
                c.semitones,
                None,
                [
                    [
                        c.line.query_start,
                        c.line.query_end,
                        c.line.reference_start,
                        c.line.reference_end,
                    ]
                ],
            )
            for c in found[:MOST_RANKED]
        ]

    return find


def by_chance(files: Sequence[str], seed: int) -> Finder:
    """Return what ranks recordings at random."""
    rng = np.random.default_rng(seed)

    def find(audio: Audio, without: Collection[str]) -> list[Ranked]:
        order = [files[i] for i in rng.permutation(len(files)) if files[i] not in without]
        return [Ranked(file, -float(i)) for i, file in enumerate(order[:MOST_RANKED])]

    return find


def answer(
    folder: Path,
    track: Asked,
    find: Finder,
    *,
    length: float | None = None,
    without: Collection[str] = (),
) -> SampleOutcome:
    """Ask about a track, or about ``length`` seconds from the first occurrence of a sample on.

    without: files that are not looked for. A track is never found in itself.
    """
    audio = Audio.load(folder / track.file, sample_rate=16000)
    uses = [use.to_dict() for use in track.uses]
    start = 0.0
    if length is not None:
        start = min((o["start"] for use in uses for o in use["occurrences"]), default=0.0)
        audio = audio.slice(start, start + length)
    began = time.perf_counter()
    ranking = find(audio, {*without, track.file})
    taken = time.perf_counter() - began
    return SampleOutcome(track.file, audio.duration, start, taken, uses, ranking)


def average_precision(outcome: SampleOutcome, *, lenient: Collection[str] | None = None) -> float:
    """Return the average precision of a query's ranking.

    lenient: the recordings that count at all, those that are no distractors; then only the first
    MOST_LENIENT are looked at and the mean is over those found, as published for Sample100.
    """
    relevant = {use["file"] for use in outcome.uses}
    names = _names(outcome)
    if lenient is not None:
        names = [name for name in names if name in lenient][:MOST_LENIENT]
    places = [i for i, name in enumerate(names) if name in relevant]
    precision = [(n + 1) / (i + 1) for n, i in enumerate(places)]
    n = len(places) if lenient is not None else len(relevant)
    return sum(precision) / n if n else 0.0


def _names(outcome: SampleOutcome) -> list[str]:
    return list(dict.fromkeys(r.file for r in outcome.ranking))


def hit(outcome: SampleOutcome, n: int) -> bool:
    """Tell whether a relevant recording is among the first ``n``."""
    relevant = {use["file"] for use in outcome.uses}
    return any(name in relevant for name in _names(outcome)[:n])


def first_uses(outcome: SampleOutcome) -> tuple[Ranked, list[Known]] | None:
    """Return the first answer and the uses it names, or None where it names none."""
    if not outcome.ranking:
        return None
    first = outcome.ranking[0]
    uses = [Known.from_dict(values) for values in outcome.uses if values["file"] == first.file]
    return (first, uses) if uses else None


def is_near(outcome: SampleOutcome) -> bool | None:
    """Tell whether the first answer is right and one of its occurrences is within NEAR.

    None: the truth does not tell of any of the places it names.
    """
    found = first_uses(outcome)
    if found is None:
        return False
    first, uses = found
    verdicts = set()
    for query_start, query_end, reference_start, reference_end in first.occurrences:
        time = (query_start + query_end) / 2 + outcome.start
        place = (reference_start + reference_end) / 2
        verdicts.add(any_true(use.is_at(time, place, within=NEAR) for use in uses))
    return True in verdicts or (None if verdicts == {None} else False)


def is_heard_there(outcome: SampleOutcome) -> bool | None:
    """Tell as :func:`is_near`, where a repetition of the same sound in the recording counts."""
    return True if hit(outcome, 1) and outcome.ranking[0].repeats else is_near(outcome)


def errors(outcome: SampleOutcome) -> dict[str, bool] | None:
    """Return what is right about the first answer, as far as the truth is known.

    None where it names another recording. A recording that is sampled in several ways is right in
    any of them.
    """
    found = first_uses(outcome)
    if found is None or found[0].tempo_ratio is None or found[0].semitones is None:
        return None
    first, uses = found
    semitones, tempo_ratio = found[0].semitones, found[0].tempo_ratio
    pitches = [u.semitones for u in uses if u.semitones is not None]
    ratios = [u.tempo_ratio for u in uses if u.tempo_ratio is not None]
    parts = [u.part for u in uses if u.part is not None]
    right = {}
    if pitches:
        right["pitch"] = any(abs(semitones - p) <= IN_TUNE for p in pitches)
    if ratios:
        right["tempo"] = any(abs(tempo_ratio / r - 1) <= IN_TIME for r in ratios)
    if parts:
        right["part"] = first.part in parts
        right["named"] = first.part is not None
    if not any(u.by_ear for u in uses):
        right |= _occurrence_errors(outcome, first, uses)
    return right


def _occurrence_errors(
    outcome: SampleOutcome, first: Ranked, uses: Sequence[Known]
) -> dict[str, bool]:
    """Return what is right about the start and the number of occurrences that a query holds."""
    starts = [o[0] + outcome.start for o in first.occurrences]
    heard = (o for use in uses for o in use.occurrences)
    end = outcome.start + outcome.length
    true = [o.start for o in heard if min(o.end, end) - o.start >= min(LEAST, o.end - o.start)]
    if not true:
        return {}
    late = [min((abs(s - start) for s in starts), default=9.0) for start in true]
    return {"start": bool(np.median(late) <= START), "count": len(starts) == len(true)}


def overlap(outcome: SampleOutcome) -> float | None:
    """Return the time that both say is sampled over the time that either says.

    None where another recording is named or the truth does not tell all places.
    """
    found = first_uses(outcome)
    if found is None or not all(use.complete for use in found[1]):
        return None
    first, uses = found
    ticks = np.arange(0.0, outcome.start + outcome.length, 0.01)
    said = np.zeros(len(ticks), bool)
    true = np.zeros(len(ticks), bool)
    for start, end, *_ in first.occurrences:
        said |= (ticks >= start + outcome.start) & (ticks < end + outcome.start)
    for o in (o for use in uses for o in use.occurrences):
        true |= (ticks >= o.start) & (ticks < o.end)
    either = (said | true).sum()
    return float((said & true).sum() / either) if either else None


def summarise(
    outcomes: Sequence[SampleOutcome], threshold: float, references: Collection[str]
) -> dict[str, Any]:
    """Return the figures of whole tracks or of one length of queries.

    references: the recordings of the library that are no distractors.
    """
    sampling = [o for o in outcomes if o.uses]
    free = [o for o in outcomes if not o.uses]
    top = np.array([o.ranking[0].probability if o.ranking else -1e9 for o in sampling])
    free_top = np.array([o.ranking[0].probability if o.ranking else -1e9 for o in free])
    first = np.array([hit(o, 1) for o in sampling])
    right = [o for o in sampling if hit(o, 1)]
    table: dict[str, Any] = {
        "map": _mean([average_precision(o) for o in sampling]),
        "map_lenient": _mean([average_precision(o, lenient=references) for o in sampling]),
        "hr1": _mean(first),
        "hr10": _mean([hit(o, 10) for o in sampling]),
        "near": _mean([near for near in map(is_near, right) if near is not None]),
        "there": _mean([near for near in map(is_heard_there, right) if near is not None]),
        "recall": _mean(first & (top >= threshold)),
        "false_alarms": _mean(free_top >= threshold),
    }
    for share in (0.02, 0.01):
        level = np.quantile(free_top, 1 - share, method="higher") if len(free_top) else None
        table[f"hr1_at_{share:g}"] = _mean([] if level is None else first & (top > level))
    known = [e for e in map(errors, right) if e is not None]
    for key in ("start", "pitch", "tempo", "count", "part", "named"):
        table[key] = _mean([e[key] for e in known if key in e])
    table["iou"] = _mean([v for v in map(overlap, right) if v is not None])
    table["seconds"] = float(np.median([o.seconds for o in outcomes])) if outcomes else None
    for name, kept in _subsets(sampling).items():
        table[f"map {name}"] = _mean([average_precision(o) for o in kept])
    return table


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


def _mean(values: Any) -> dict[str, Any]:
    """Return a mean with its bootstrap interval over queries as JSON values, null of nothing."""
    array = np.asarray(values, np.float64)
    figures = asdict(rate(array, np.arange(len(array))))
    return figures if len(array) else {**dict.fromkeys(figures), "n": 0}
