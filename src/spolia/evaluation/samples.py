"""The protocol of ``spolia evaluate samples``: made tracks with exact truth, strictly scored.

The library holds the recordings that may be sampled and all distractors; what is laid over samples
is never in it. Every recording is ranked, distractors too, and precision is averaged over all
relevant recordings, found or not; where a part of a track is asked about, these are the ones that
it holds. (The published protocol on Sample100 leaves distractors out of the ranking and averages
over found recordings only: that stands beside as the lenient figure.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from spolia.audio import Audio, is_silent
from spolia.evaluation.sample_truth import Asked, Heard, Known, any_true
from spolia.library import Library
from spolia.rivals import best_per_recording
from spolia.sample_search import SampleFinder
from spolia.sample_stretches import asked
from spolia.samples import SampleMatch

NEAR = 0.5  # seconds within which a place is right
START, IN_TUNE, IN_TIME = 0.05, 0.25, 0.01  # seconds, semitones, share of the tempo
LEAST = 0.5  # seconds of an occurrence that a query must hold for it to count
MOST_RANKED = 200
ALL = 1_000_000  # matches of a query
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
    """Return what ranks a query's recordings by the method ``samples``, as users are answered.

    Those that were nominated but not heard come last.
    """
    id_of = {file: name for name, file in file_of.items()}

    def find(audio: Audio, without: Collection[str]) -> list[Ranked]:
        ids = [id_of[file] for file in without if file in id_of]
        matches, left = _asked(library, audio, ids)
        found = [_ranked(file_of[m.recording.id], m) for m in matches]
        return found + [Ranked(file_of[name], promise - UNHEARD) for name, promise in left]

    return find


def _asked(
    library: Library, audio: Audio, without: Collection[str]
) -> tuple[list[SampleMatch], list[tuple[str, float]]]:
    """Return all matches of a query, and ids and promise of what was only nominated, best first.

    without: ids of recordings that are not looked for.
    """
    if is_silent(audio):
        return [], []
    finders: list[SampleFinder] = []  # one for each stretch of a long query

    def opened(part: Audio, report: Report | None) -> SampleFinder:
        finders.append(library.sample_finder(part, report, without))
        return finders[-1]

    matches = asked(opened, audio, "", top=ALL).matches
    named = {match.recording.id for match in matches}
    left: dict[str, float] = {}
    for name, promise in (other for finder in finders for other in finder.others(named)):
        left[name] = max(promise, left.get(name, -np.inf))
    return matches, sorted(left.items(), key=lambda item: -item[1])


def _ranked(file: str, match: SampleMatch) -> Ranked:
    return Ranked(
        file,
        match.probability,
        match.tempo_ratio,
        match.semitones,
        match.part,
        [
            [o.query_start, o.query_end, o.reference_start, o.reference_end]
            for o in match.occurrences
        ],
        list(match.features),
    )


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
    for use in uses:  # what an annotation places beyond the sound's end has no place
        use["occurrences"] = [o for o in use["occurrences"] if o["start"] < audio.duration]
    start = 0.0
    if length is not None:
        start = min((o["start"] for use in uses for o in use["occurrences"]), default=0.0)
        audio = audio.slice(start, start + length)
    began = time.perf_counter()
    ranking = find(audio, {*without, track.file})
    taken = time.perf_counter() - began
    return SampleOutcome(track.file, audio.duration, start, taken, uses, ranking)


def relevant(outcome: SampleOutcome) -> list[Known]:
    """Return the uses that a query should find: those it holds an occurrence of.

    A use whose occurrences are not known counts.
    """
    uses = [Known.from_dict(values) for values in outcome.uses]
    return [u for u in uses if not u.occurrences or any(_holds(outcome, o) for o in u.occurrences)]


def _holds(outcome: SampleOutcome, heard: Heard) -> bool:
    """Tell whether a query holds LEAST seconds of an occurrence, or the whole of a shorter one."""
    start = max(heard.start, outcome.start)
    end = min(heard.end, outcome.start + outcome.length)
    return end - start >= min(LEAST, heard.end - heard.start)


def average_precision(outcome: SampleOutcome, *, lenient: Collection[str] | None = None) -> float:
    """Return the average precision of a query's ranking.

    lenient: the recordings that count at all, those that are no distractors; then only the first
    MOST_LENIENT are looked at and the mean is over those found, as published for Sample100.
    """
    right = {use.file for use in relevant(outcome)}
    names = _names(outcome)
    if lenient is not None:
        names = [name for name in names if name in lenient][:MOST_LENIENT]
    places = [i for i, name in enumerate(names) if name in right]
    precision = [(n + 1) / (i + 1) for n, i in enumerate(places)]
    n = len(places) if lenient is not None else len(right)
    return sum(precision) / n if n else 0.0


def _names(outcome: SampleOutcome) -> list[str]:
    return list(dict.fromkeys(r.file for r in outcome.ranking))


def hit(outcome: SampleOutcome, n: int) -> bool:
    """Tell whether a relevant recording is among the first ``n``."""
    right = {use.file for use in relevant(outcome)}
    return any(name in right for name in _names(outcome)[:n])


def first_uses(outcome: SampleOutcome) -> tuple[Ranked, list[Known]] | None:
    """Return the first answer and the uses it names, or None where it names none."""
    if not outcome.ranking:
        return None
    first = outcome.ranking[0]
    uses = [use for use in relevant(outcome) if use.file == first.file]
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
    true = [o.start for use in uses for o in use.occurrences if _holds(outcome, o)]
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
