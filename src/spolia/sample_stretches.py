"""Long tracks, mixes and broadcasts: asked about stretch by stretch, answers put together.

What a track samples is looked for at a few dozen places and traced in a dozen recordings. An hour
may sample more than that, so every four minutes of it are asked about as a track of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from spolia.audio import Audio, is_silent
from spolia.fingerprints.base import Fingerprint
from spolia.sample_search import Report, SampleFinder
from spolia.sample_tracing import Occurrence
from spolia.samples import PITCH_TOLERANCE, TEMPO_TOLERANCE, SampleMatch, Samples

LONGEST = 300.0  # seconds up to which a track is asked about as a whole
STRETCH = 240.0  # seconds of a longer one that are asked about at once, at most
OVERLAP = 20.0  # seconds that neighbouring stretches share
ON_LINE = 0.25  # seconds by which occurrences of one line may differ

Find = Callable[[Audio, Report | None], SampleFinder]


def asked(
    find: Find,
    audio: Audio,
    name: str,
    *,
    top: int = 0,
    threshold: float | None = None,
    report: Report | None = None,
) -> Samples:
    """Return what a track samples, asked about as a whole or stretch by stretch.

    find: opens what answers a query; name: of the track; the others as of
    :meth:`spolia.Library.find_samples`. The time that it took is left at 0.
    """
    found: list[list[SampleMatch]] = []
    prints: list[Fingerprint] = []
    parts = stretches(audio.duration)
    limit = threshold
    for number, (start, end) in enumerate(parts):
        part = audio.slice(start, end)
        if is_silent(part):
            continue
        finder = find(part, _share(report, number, len(parts)))
        matches = finder.matches(top=top, threshold=threshold)
        found.append([moved(match, start) for match in matches])
        until = parts[number + 1][0] if number + 1 < len(parts) else np.inf
        prints.append(_moved(finder.fingerprint, start, until))
        limit = finder.calibration.threshold if limit is None else limit
    limit = 1.0 if limit is None else limit
    matches = joined(found, limit)
    matches = [replace(match, decided=match.probability >= limit) for match in matches]
    n_decided = sum(match.decided for match in matches)
    whole = replace(
        prints[0],
        times=np.concatenate([of.times for of in prints]),
        values=np.concatenate([of.values for of in prints]),
        duration=audio.duration,
    )
    return Samples(name, audio.duration, 0.0, matches[: max(top, n_decided)], whole)


def stretches(duration: float) -> list[tuple[float, float]]:
    """Return begins and ends of the stretches that a track is asked about by, in seconds."""
    if duration <= LONGEST:
        return [(0.0, duration)]
    n = int(np.ceil((duration - OVERLAP) / (STRETCH - OVERLAP)))
    length = (duration - OVERLAP) / n + OVERLAP
    starts = [i * (length - OVERLAP) for i in range(n)]
    return [(start, start + length) for start in starts]


def moved(match: SampleMatch, by: float) -> SampleMatch:
    """Return a match whose occurrences are later in the query by so many seconds."""
    later = (
        replace(o, query_start=o.query_start + by, query_end=o.query_end + by)
        for o in match.occurrences
    )
    return replace(match, occurrences=tuple(later))


def joined(found: Iterable[Sequence[SampleMatch]], threshold: float) -> list[SampleMatch]:
    """Return the matches of all stretches, most probable first.

    A recording that is sampled in the same way in several stretches is one match with all its
    occurrences; in different ways, it is several. Below the threshold each recording stands once.
    """
    kept: list[SampleMatch] = []
    for match in sorted((m for of in found for m in of), key=lambda m: -m.probability):
        held = [i for i, one in enumerate(kept) if one.recording.id == match.recording.id]
        if not held:
            kept.append(match)
        elif match.probability >= threshold:
            same = [i for i in held if _alike(kept[i], match)]
            if same:
                kept[same[0]] = _with(kept[same[0]], match.occurrences)
            else:
                kept.append(match)
    return kept


def _alike(one: SampleMatch, other: SampleMatch) -> bool:
    """Tell whether two matches have one pitch and tempo, as exactly as these are measured."""
    tempo = abs(float(np.log(one.tempo_ratio / other.tempo_ratio)))
    pitch = abs(one.semitones - other.semitones)
    return tempo <= 2 * TEMPO_TOLERANCE and pitch <= 2 * PITCH_TOLERANCE


def _with(match: SampleMatch, others: Sequence[Occurrence]) -> SampleMatch:
    """Return a match with further occurrences; of two of the same sound, the longer is kept."""
    kept: list[Occurrence] = []
    for o in sorted((*match.occurrences, *others), key=lambda o: o.query_start - o.query_end):
        if not any(_repeats(o, held) for held in kept):
            kept.append(o)
    return replace(match, occurrences=tuple(sorted(kept, key=lambda o: o.query_start)))


def _repeats(one: Occurrence, other: Occurrence) -> bool:
    """Tell whether two occurrences play the same sound of a recording at the same time."""
    start, end = max(one.query_start, other.query_start), min(one.query_end, other.query_end)
    places = [_place(o, (start + end) / 2) for o in (one, other)]
    return start < end and abs(places[0] - places[1]) <= ON_LINE


def _place(occurrence: Occurrence, time: float) -> float:
    """Return the seconds of a recording that an occurrence plays at a time of the query."""
    of = occurrence
    share = (time - of.query_start) / (of.query_end - of.query_start)
    return of.reference_start + share * (of.reference_end - of.reference_start)


def _moved(fingerprint: Fingerprint, by: float, until: float) -> Fingerprint:
    """Return a fingerprint that is later by so many seconds, up to a time."""
    times = fingerprint.times + by
    within = times < until
    return replace(fingerprint, times=times[within], values=fingerprint.values[within])


def _share(report: Report | None, number: int, n: int) -> Report | None:
    """Return what reports the progress of one of ``n`` stretches as that of the whole."""
    if report is None:
        return None
    return lambda done, total: report(number * total + done, n * total)
