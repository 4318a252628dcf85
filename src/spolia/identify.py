"""Which recording a query is, and where: from a fingerprint and its hits to matches. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import zip_longest
from typing import Any

import numpy as np

from spolia.alignment import Floats, Line, Proposal, compare, propose, refine
from spolia.delay import Delay
from spolia.fingerprints.base import Fingerprint
from spolia.recording import Recording
from spolia.rivals import Candidate, Place
from spolia.spectral_alignment import MOST_LAG
from spolia.store.hits import Hits

N_LINES = 24  # proposals that are refined per window of the query
N_LEAST_LINES = 10  # of each query where several share them
FAINT = 0.05  # of a sure line's votes, below which no other proposal is refined
WINDOW = 30.0  # seconds of a query that vote together
WINDOW_HOP = 15.0  # seconds between windows of a long query
SAME_PLACE = 0.75  # seconds within which lines of neighbouring windows are one
SURE_SCORE = 0.7  # mean similarity on a long stretch that makes shifted queries needless,
SURE_IF_BRIEF = 0.75  # of a short query: something in a large library resembles any second
BRIEF_SECONDS = 3.5
SURE_SHARE = 0.6  # of the query


@dataclass(frozen=True)
class Match:
    """A recording found in a query, with the stretch on both sides."""

    recording: Recording
    probability: float  # that this is the recording, calibrated on recordings never trained on
    score: float  # mean cosine similarity (segments) or share of hashes that agree (landmarks)
    query_start: float  # seconds
    query_end: float  # seconds
    reference_start: float  # seconds
    reference_end: float  # seconds
    speed: float  # seconds of the recording per second of the query; 1.04 = plays 4 % fast
    semitones: float | None  # how much higher the query sounds; None: not measured
    method: str
    decided: bool  # whether it passed the threshold

    def to_dict(self) -> dict[str, Any]:
        """Return the match as it stands in JSON."""
        values = {k: getattr(self, k) for k in _MATCH_KEYS}
        rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}
        return {"recording": self.recording.to_dict(), **rounded}


_MATCH_KEYS = (
    "probability",
    "score",
    "query_start",
    "query_end",
    "reference_start",
    "reference_end",
    "speed",
    "semitones",
    "method",
    "decided",
)


def match_of(
    recording: Recording, probability: float, place: Place, method: str, *, decided: bool
) -> Match:
    """Return a match of a recording at a place, cut on both sides to what the recording holds."""
    line = place.line
    start = max(line.query_start, -line.offset / line.speed)
    end = max(start, min(line.query_end, (recording.duration - line.offset) / line.speed))
    return Match(
        recording,
        probability,
        line.score,
        start,
        end,
        max(0.0, line.speed * start + line.offset),
        min(recording.duration, line.speed * end + line.offset),
        line.speed,
        place.semitones,
        method,
        decided,
    )


@dataclass(frozen=True)
class Identification:
    """The answer to one query."""

    query: str  # its path or name
    duration: float  # seconds
    seconds: float  # time that the answer took
    matches: list[Match] = field(default_factory=list)  # decided ones first, most probable first

    @property
    def decided(self) -> bool:
        """Whether a match passed the threshold."""
        return any(match.decided for match in self.matches)

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as it stands in JSON."""
        return {
            "query": self.query,
            "duration": round(self.duration, 3),
            "seconds": round(self.seconds, 4),
            "decided": self.decided,
            "matches": [match.to_dict() for match in self.matches],
        }


Search = Callable[[Fingerprint], Hits]
SearchAll = Callable[[list[Fingerprint]], list[Hits]]
Sequence = Callable[[str], Fingerprint]


def match_segments(
    queries: list[Fingerprint],
    search: SearchAll,
    sequence: Sequence,
    recording_ids: list[str],
    *,
    hop: float,
    segment: float,
    delay: Delay | None = None,
) -> list[list[Candidate]]:
    """Return candidates of each of several queries by their segment vectors.

    queries: the same sound, changed in several ways, is searched at once. search: hits of parts of
    the queries; sequence: a recording's stored fingerprint; hop, segment: seconds between and
    within the stored vectors; delay: of rooms, taken off the lines found. Of lines that explain the
    same stretch of a query, all are returned; see :func:`spolia.rivals.judged`.
    """
    lines: list[dict[str, list[Line]]] = [{} for _ in queries]
    n_lines = max(N_LINES // len(queries), N_LEAST_LINES) if queries else 0

    def refined(part: Fingerprint, step: float, proposal: Proposal) -> Line | None:
        reference = sequence(recording_ids[proposal.recording])
        return _refined(part, reference, proposal, hop=hop, segment=segment, step=step, delay=delay)

    for parts in zip_longest(*map(windows, queries)):
        there = [(i, part) for i, part in enumerate(parts) if part is not None]
        for (i, part), hits in zip(there, search([part for _, part in there]), strict=True):
            proposals = propose(hits, resolution=hop, n_lines=n_lines, base=0.2)
            fit = partial(refined, part, spacing(queries[i], hop))
            seconds = float(part.times[-1] - part.times[0]) + segment
            for number, line in _fitted(proposals, fit, seconds):
                lines[i].setdefault(recording_ids[number], []).append(line)
    return [joined(of) for of in lines]


def _fitted(
    proposals: list[Proposal], fit: Callable[[Proposal], Line | None], seconds: float
) -> Iterator[tuple[int, Line]]:
    """Yield recordings, by number, and lines of proposals, the heaviest first.

    Ends at the first FAINT one once a line explains a query of ``seconds`` seconds.
    """
    least = 0.0  # votes
    for proposal in proposals:
        if proposal.weight < least:
            return
        line = fit(proposal)
        if line is None:
            continue
        if explains(line, seconds):
            least = max(least, FAINT * proposal.weight)
        yield proposal.recording, line


def joined(lines: Mapping[str, list[Line]], *, lag: float = MOST_LAG) -> list[Candidate]:
    """Return candidates of each recording's lines; what is one line is joined first.

    lag: seconds by which their offsets may be wrong.
    """
    return [Candidate(r, line, lag=lag) for r, of in lines.items() for line in merged(of)]


def is_sure(candidates: list[Candidate], duration: float) -> bool:
    """Tell whether a line fits most of a query so well that no other need be looked for.

    Independent of the calibration, which is fitted on what the search returns.
    """
    return any(explains(c.line, duration) for c in candidates)


def explains(line: Line, duration: float) -> bool:
    """Tell whether a line fits most of a query of ``duration`` seconds well."""
    least = SURE_SCORE if duration > BRIEF_SECONDS else SURE_IF_BRIEF
    return line.score >= least and line.query_end - line.query_start >= SURE_SHARE * duration


def spacing(query: Fingerprint, default: float = 0.5) -> float:
    """Return the seconds between a query's vectors; ``default`` of fewer than two."""
    return float(np.median(np.diff(query.times))) if len(query) > 1 else default


def _refined(
    part: Fingerprint,
    reference: Fingerprint,
    proposal: Proposal,
    *,
    hop: float,
    segment: float,
    step: float,
    delay: Delay | None,
) -> Line | None:
    grid = reference.times, reference.values
    window = compare(part.times, part.values, *grid, proposal, hop=hop, segment=segment)
    line = refine(window, proposal, step=step)
    if line is None:
        return None
    if delay is not None:
        line = delay.apply(window, line)
    # Vectors of different speeds match at their middles, but times are those of their starts.
    return replace(
        line,
        offset=line.offset - (line.speed - 1.0) * segment / 2,
        query_start=max(0.0, line.query_start),
        query_end=min(part.duration, line.query_end),
    )


def windows(query: Fingerprint) -> list[Fingerprint]:
    """Return the query in windows of WINDOW seconds every WINDOW_HOP, whole if it is short."""
    if len(query) == 0:
        return []
    if query.duration <= WINDOW + WINDOW_HOP / 2:
        return [query]
    parts = []
    for start in np.arange(0.0, query.duration - WINDOW_HOP, WINDOW_HOP):
        chosen = (query.times >= start) & (query.times < start + WINDOW)
        if chosen.any():
            parts.append(replace(query, times=query.times[chosen], values=query.values[chosen]))
    return parts


def merged(lines: list[Line]) -> list[Line]:
    """Join lines of overlapping windows that continue each other; lines of one recording."""
    joined: list[Line] = []
    for line in sorted(lines, key=lambda item: item.query_start):
        for i, other in enumerate(joined):
            if _continues(other, line):
                joined[i] = _join(other, line)
                break
        else:
            joined.append(line)
    return joined


def _continues(first: Line, second: Line) -> bool:
    middle = (
        max(first.query_start, second.query_start) + min(first.query_end, second.query_end)
    ) / 2
    apart = (second.speed - first.speed) * middle + second.offset - first.offset
    return second.query_start <= first.query_end + 1.0 and abs(apart) < SAME_PLACE


def _join(first: Line, second: Line) -> Line:
    """Return the line through both stretches."""
    start, end = first.query_start, max(first.query_end, second.query_end)
    if end <= first.query_end + 1e-9:
        return first if first.evidence >= second.evidence else second
    last = second.reference_end
    speed = (last - first.reference_start) / max(end - start, 1e-9)
    added = max(
        0.0, 1 - (first.query_end - second.query_start) / max(end - second.query_start, 1e-9)
    )
    support = first.support + added * second.support
    score = (first.score * first.support + second.score * added * second.support) / support
    offset = first.reference_start - speed * start
    evidence = first.evidence + added * second.evidence
    return Line(speed, offset, start, end, score, support, evidence)


def match_landmarks(
    query: Fingerprint,
    search: Search,
    recording_ids: list[str],
) -> list[Candidate]:
    """Return candidates by landmark hashes: recordings where many hits share one offset."""
    candidates: list[Candidate] = []
    for part in windows(query):
        hits = search(part)
        for proposal in propose(hits, resolution=0.05, n_lines=N_LINES):
            line = _landmark_line(hits, proposal, part)
            if line is not None:
                candidates.append(Candidate(recording_ids[proposal.recording], line))
    return candidates


def _landmark_line(hits: Hits, proposal: Proposal, part: Fingerprint) -> Line | None:
    """Fit a line to the hits near a proposal; the score is log2 of their number over 10."""
    of = hits.recordings == proposal.recording
    query, reference = hits.query_times[of], hits.reference_times[of]
    near = np.abs(reference - proposal.speed * query - proposal.offset) < 0.1
    if near.sum() < 2:
        return None
    query, reference = query[near], reference[near]
    n_distinct = len(np.unique(np.round(query, 3)))
    span = float(query.max() - query.min())
    speed = _fitted_speed(query, reference) if span > 2.0 else proposal.speed
    offset = float(np.median(reference - speed * query))
    score = float(np.log2(1 + n_distinct) / 10)
    return Line(
        speed,
        offset,
        float(query.min()),
        min(float(query.max()) + 0.5, part.duration),
        score,
        max(span, 0.1),
        n_distinct / 10,
    )


def _fitted_speed(query: Floats, reference: Floats) -> float:
    """Return the slope of the least-squares line, after leaving out what lies far from it."""
    for width in (0.05, 0.02):
        slope, offset = np.polyfit(query, reference, 1)
        near = np.abs(reference - slope * query - offset) <= width
        if near.sum() < 3 or np.ptp(query[near]) < 1.0:  # too short for a slope
            break
        query, reference = query[near], reference[near]
    return float(np.polyfit(query, reference, 1)[0])
