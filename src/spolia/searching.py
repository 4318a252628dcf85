"""How each method searches a library: the query's fingerprints in, candidates out.

``segments`` compares the query with every stored vector, ``landmarks`` looks up hashes,
``compressed`` compares the query's runs with the stored ones, and ``compressed+segments`` lets runs
name candidates, whose segment vectors alone are read; a short query is compared with every stored
vector as well, where there are not too many.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

from spolia.coarse import (
    N_CANDIDATES,
    Neighbourhood,
    candidates,
    local_hits,
    located,
    rough_lines,
)
from spolia.delay import Delay
from spolia.fingerprints.base import Derived, Fingerprint, Fingerprinter
from spolia.fingerprints.registry import HINTING, TWO_STAGE
from spolia.identify import joined, match_landmarks, match_segments, spacing, windows
from spolia.rivals import Candidate, same_sound
from spolia.spectral_alignment import MOST_LAG
from spolia.store.hits import Hits
from spolia.store.postings import PostingsIndex
from spolia.store.vectors import EXACT_BELOW, VectorIndex

N_NEIGHBOURS = 30  # hits per query vector
SEARCH_SPACING = 0.25  # seconds between query vectors that are searched; all are aligned
SHORT = 12  # vectors of a query (2.3 s, 4 s changed) up to which all are searched, with
N_NEIGHBOURS_SHORT = 100  # hits each: too few vectors to outvote a wrong neighbour
N_RUN_NEIGHBOURS = 100  # hits per run of a query
FULL_SEARCH = 10.0  # seconds of a query beyond which fewer candidates are read, but at least
LEAST_CANDIDATES = 60
BRIEF = 20  # vectors of a query (3.4 s, 5.8 s changed) up to which two stages search all as well
LARGE = 0.5 * EXACT_BELOW  # seconds of recordings, a segment vector each half

Stored = Callable[[str], Fingerprint]  # a recording's id → its segment vectors


def hinting(held: Sequence[str], seconds: float) -> list[str]:
    """Return by what a library says where samples may be; seconds: of its recordings."""
    by_segments = TWO_STAGE if seconds >= LARGE and TWO_STAGE in held else HINTING[0]
    return [m for m in (by_segments, *HINTING[1:]) if m in held]


class Searcher(Protocol):
    """Finds candidates by one method."""

    fingerprinter: Fingerprinter  # of the queries
    n_entries: int  # vectors or hashes of the library, as the calibration counts them

    def search(self, queries: list[Fingerprint]) -> list[list[Candidate]]:
        """Return the candidates of each of several changes of one query."""

    def same(self, one: Candidate, other: Candidate) -> bool:
        """Tell whether two candidates hold the same sound."""


class LandmarkSearcher:
    """Looks up hashes."""

    def __init__(self, fingerprinter: Fingerprinter, index: PostingsIndex) -> None:
        self.fingerprinter, self.index, self.n_entries = fingerprinter, index, len(index)

    def search(self, queries: list[Fingerprint]) -> list[list[Candidate]]:
        """Return the candidates of each query."""
        return [
            match_landmarks(
                query,
                lambda part: self.index.search(part.values, part.times),
                self.index.recording_ids,
            )
            for query in queries
        ]

    def same(self, one: Candidate, other: Candidate) -> bool:
        """Count all recordings as one: hashes have no similarity."""
        return True


class SegmentSearcher:
    """Compares every query vector with every stored one."""

    def __init__(
        self, fingerprinter: Fingerprinter, index: VectorIndex, stored: Stored, n_entries: int
    ) -> None:
        self.fingerprinter, self.index, self.stored = fingerprinter, index, stored
        self.n_entries = n_entries

    def search(self, queries: list[Fingerprint]) -> list[list[Candidate]]:
        """Return the candidates of each query."""
        delay = self.fingerprinter.delay
        return match_segments(
            queries,
            self._hits,
            self.stored,
            self.index.recording_ids,
            hop=self.fingerprinter.hop_seconds,
            segment=self.fingerprinter.segment_seconds,
            delay=Delay.from_dict(delay) if delay else None,
        )

    def same(self, one: Candidate, other: Candidate) -> bool:
        """Compare what is stored of two candidates."""
        return same_sound(one, other, self.stored, hop=self.fingerprinter.hop_seconds)

    def _hits(self, parts: list[Fingerprint]) -> list[Hits]:
        """Search all vectors of short parts with many neighbours, else a few of each second."""
        k, strides = _n_neighbours(parts), _strides(parts)
        vectors = [p.values[::stride] for p, stride in zip(parts, strides, strict=True)]
        times = [p.times[::stride] for p, stride in zip(parts, strides, strict=True)]
        return self.index.search_all(vectors, times, k)


class CompressedSearcher:
    """Compares every run of a query with every stored run, its segments with those around."""

    def __init__(self, runs: Derived, index: VectorIndex, stored: Stored) -> None:
        self.fingerprinter, self.runs = runs.underlying, runs
        self.index, self.stored, self.n_entries = index, stored, len(index)

    def search(self, queries: list[Fingerprint]) -> list[list[Candidate]]:
        """Return the candidates of each query."""
        return [self._candidates(query) for query in queries]

    def same(self, one: Candidate, other: Candidate) -> bool:
        """Compare what is stored of two candidates."""
        return same_sound(one, other, self.stored, hop=self.runs.hop_seconds)

    def _candidates(self, query: Fingerprint) -> list[Candidate]:
        lines = defaultdict(list)
        segment = self.fingerprinter.segment_seconds
        for part in windows(query):
            for recording, line in rough_lines(part, self._places(part), segment=segment):
                lines[self.index.recording_ids[recording]].append(line)
        return joined(lines, lag=self.runs.span_seconds / 2 + MOST_LAG)

    def _places(self, part: Fingerprint) -> list[Neighbourhood]:
        query, span = self.runs.derive_query(part), self.runs.span_seconds
        hits = self.index.search(query.values, query.times, N_RUN_NEIGHBOURS)
        return located(
            part,
            query,
            hits,
            lambda number: self.stored(self.index.recording_ids[number]),
            span=span,
            hop=self.fingerprinter.hop_seconds,
        )


class TwoStageSearcher(SegmentSearcher):
    """Finds candidates by runs, and hits among their segment vectors only.

    A second or two say little of a run of ten: their candidates are those of an exhaustive search
    too. It alone misses what is changed in pitch, whose vectors have many nearer neighbours.
    """

    def __init__(
        self,
        fingerprinter: Fingerprinter,
        runs: Derived,
        index: VectorIndex,
        stored: Stored,
        n_entries: int,
        exhaustive: Callable[[], Searcher] | None = None,
    ) -> None:
        super().__init__(fingerprinter, index, stored, n_entries)
        self.runs, self.exhaustive = runs, exhaustive

    def search(self, queries: list[Fingerprint]) -> list[list[Candidate]]:
        """Return the candidates of each query."""
        found = super().search(queries)
        if self.exhaustive is None or max(map(len, queries), default=0) > BRIEF:
            return found
        everywhere = self.exhaustive().search(queries)
        return [_together(*of) for of in zip(found, everywhere, strict=True)]

    def _hits(self, parts: list[Fingerprint]) -> list[Hits]:
        queries = [self.runs.derive_query(part) for part in parts]
        found = self.index.search_all(
            [q.values for q in queries], [q.times for q in queries], N_RUN_NEIGHBOURS
        )
        k, span = _n_neighbours(parts), self.runs.span_seconds
        return [
            local_hits(
                part,
                candidates(hits, span=span, n=n_candidates(part)),
                lambda number: self.stored(self.index.recording_ids[number]),
                span=span,
                k=k,
                stride=stride,
            )
            for part, hits, stride in zip(parts, found, _strides(parts), strict=True)
        ]


def _together(some: list[Candidate], others: list[Candidate]) -> list[Candidate]:
    """Return the candidates of two searches for one query; the same place stands once."""
    lines = defaultdict(list)
    for candidate in [*some, *others]:
        lines[candidate.recording_id].append(candidate.line)
    return joined(lines)


def n_candidates(part: Fingerprint) -> int:
    """Return how many places are read for a part of a query: long ones name the right sooner."""
    seconds = float(part.times[-1] - part.times[0]) if len(part) else 0.0
    return round(max(LEAST_CANDIDATES, N_CANDIDATES * min(1.0, FULL_SEARCH / max(seconds, 1e-9))))


def _are_short(parts: Sequence[Fingerprint]) -> bool:
    return max(map(len, parts), default=0) <= SHORT


def _n_neighbours(parts: Sequence[Fingerprint]) -> int:
    return N_NEIGHBOURS_SHORT if _are_short(parts) else N_NEIGHBOURS


def _strides(parts: Sequence[Fingerprint]) -> list[int]:
    """Return every how many vectors of each part are searched."""
    short = _are_short(parts)
    return [1 if short else max(1, round(SEARCH_SPACING / spacing(part))) for part in parts]
