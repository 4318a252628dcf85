"""The protocol of ``spolia evaluate amg``: systems beside each other on the same fingerprints.

Queries under noise of 0–10 dB and rooms are fingerprinted once; every system answers them from the
same collection of segment vectors, or from runs made of it. See :mod:`spolia.evaluation.amg_tables`
for the paper's own figures.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np

from spolia.alignment import Line
from spolia.coarse import Neighbourhood, candidates, located, recording_scores
from spolia.evaluation.collection import Collection, gathered
from spolia.evaluation.conditions import Query
from spolia.evaluation.identify import NEAR, Evaluation
from spolia.evaluation.metrics import Rate, rate
from spolia.fingerprints.base import Fingerprint, Fingerprinter
from spolia.fingerprints.compressed import HALF, CompressedFingerprinter
from spolia.identify import spacing
from spolia.library import Library
from spolia.rivals import Candidate, judged
from spolia.searching import (
    N_RUN_NEIGHBOURS,
    SEARCH_SPACING,
    Searcher,
    SegmentSearcher,
    TwoStageSearcher,
)
from spolia.store.hits import Hits
from spolia.store.kinds import Vectors, build, bytes_of, cosines
from spolia.store.vectors import VectorIndex

TIMED = 10  # queries of each length whose time is taken
N_SUMMED = 10  # hits of each run that add up by recording, as published
RECALLS = (1, 10, 200)  # candidates of the coarse stage
UNNAMED = max(RECALLS)  # rank of a recording that is not among them

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Asked:
    """A query's prefix, fingerprinted."""

    query: Query
    length: float  # seconds
    segments: Fingerprint  # of the query, at all phases


@dataclass
class Measured:
    """What a system reached."""

    name: str
    seconds: float  # longest run; 0 of systems without
    n_vectors: int
    bytes_per_hour: float  # of the index
    build_seconds: float
    top1: dict[str, Rate]  # by query length
    near: dict[str, Rate]  # hits within 0.5 s, by query length; empty without places
    query_ms: dict[str, float]  # median time of a whole answer, by query length
    index_ms: tuple[float, float] | None = None  # of the longest query's vectors in the index, one
    # at a time and all at once
    recall: dict[str, dict[str, float]] = field(default_factory=dict)  # of the coarse stage


@dataclass(frozen=True)
class Reply:
    """What a system made of one query."""

    asked: Asked
    right: bool
    near: bool  # whether right within 0.5 s
    seconds: float | None  # that a whole answer took; None of a query without vectors
    rank: int | None  # of the recording in a coarse stage, from 0; None: that named nothing


class System(Protocol):
    """Something that answers fingerprinted queries."""

    name: str
    seconds: float
    n_vectors: int
    n_bytes: int
    build_seconds: float
    growth: float  # sound that its index stands for, as a multiple of the collection's

    def answer(self, asked: Asked) -> Candidate | None:
        """Return the first answer."""

    def recalled(self, asked: Asked) -> list[str]:
        """Return ids of the recordings that a coarse stage names, best first."""

    def index_ms(self, asked: Sequence[Asked]) -> tuple[float, float] | None:
        """Return the median time of looking queries' vectors up, one at a time and at once."""


class Searching:
    """A system made of one of the library's searchers."""

    growth = 1.0

    def __init__(self, name: str, searcher: Searcher, index: Any, build_seconds: float) -> None:
        self.name, self.searcher, self.index = name, searcher, index
        self.seconds, self.n_vectors = 0.0, int(index.ntotal)
        self.n_bytes, self.build_seconds = bytes_of(index), build_seconds

    def answer(self, asked: Asked) -> Candidate | None:
        """Return the most probable candidate, of the query as it was played only."""
        found = self.searcher.search([asked.segments])[0]
        ordered = judged(
            found,
            self.searcher.same,
            n_entries=self.searcher.n_entries,
            calibration=self.searcher.fingerprinter.calibration,
        )
        return ordered[0] if ordered else None

    def recalled(self, asked: Asked) -> list[str]:
        """Return nothing: see the runs alone."""
        return []

    def index_ms(self, asked: Sequence[Asked]) -> tuple[float, float] | None:
        """Time what the searcher looks up; of two stages see the runs alone."""
        if isinstance(self.searcher, TwoStageSearcher):
            return None
        vectors = [
            a.segments.values[:: max(1, round(SEARCH_SPACING / spacing(a.segments)))] for a in asked
        ]
        return latency(self.index, vectors)


class Runs:
    """Runs alone: the recording, or the place in one, at which a query's runs agree most.

    By recording, as the paper's text has it, similarities of runs that do not overlap add up
    whatever their order. By place, as its code has it and ``compressed`` search here, the order
    counts: around the places of two-stage search the query's segments are held against ``made``.
    """

    growth = 1.0

    def __init__(
        self,
        name: str,
        runs: CompressedFingerprinter,
        index: VectorIndex,
        build_seconds: float,
        *,
        made: Collection | None = None,
    ) -> None:
        """Take an index of runs; made: the runs themselves, to answer by place."""
        self.name, self.runs, self.index, self.made = name, runs, index, made
        self._last: tuple[Asked, Fingerprint, Hits] | None = None  # and its runs, and theirs
        self.seconds, self.n_vectors = runs.span_seconds, len(index)
        self.n_bytes, self.build_seconds = bytes_of(index.index), build_seconds

    def answer(self, asked: Asked) -> Candidate | None:
        """Return the recording with the largest sum, and the place where that has one."""
        best = self._by_recording(asked) if self.made is None else self._by_place(asked, self.made)
        if best is None:
            return None
        line = Line(1.0, best.offset, 0.0, asked.length, best.score, asked.length, 0.0)
        return Candidate(self.index.recording_ids[best.recording], line)

    def recalled(self, asked: Asked) -> list[str]:
        """Return recordings by the places where most runs agree, as two-stage search sees them."""
        places = candidates(self._found(asked)[1], span=self.seconds)
        return list(dict.fromkeys(self.index.recording_ids[p.recording] for p in places))

    def index_ms(self, asked: Sequence[Asked]) -> tuple[float, float] | None:
        """Time the runs that do not overlap, as the paper does."""
        return latency(self.index.index, [self.cut(a.segments).values for a in asked])

    def cut(self, segments: Fingerprint) -> Fingerprint:
        """Return the runs of a query's first phase, one after the other."""
        hop = self.runs.segments.hop_seconds
        phase = np.mod(segments.times - segments.times[0], hop)
        first = np.minimum(phase, hop - phase) < hop / 100
        times, values = segments.times[first], segments.values[first]
        one = Fingerprint(segments.method, segments.model_id, times, values, segments.duration)
        return self.runs.derive(one)

    def _by_recording(self, asked: Asked) -> Neighbourhood | None:
        scores = recording_scores(self._hits(self.cut(asked.segments), N_SUMMED))
        best = max(scores, key=lambda i: scores[i], default=None)
        return None if best is None else Neighbourhood(best, 0.0, scores[best])

    def _by_place(self, asked: Asked, made: Collection) -> Neighbourhood | None:
        hop, stored = self.runs.segments.hop_seconds, partial(made.sequence, method="compressed")
        places = located(asked.segments, *self._found(asked), stored, span=self.seconds, hop=hop)
        return places[0] if places else None

    def _found(self, asked: Asked) -> tuple[Fingerprint, Hits]:
        if self._last is None or self._last[0] is not asked:
            query = self.runs.derive_query(asked.segments)
            self._last = asked, query, self._hits(query, N_RUN_NEIGHBOURS)
        return self._last[1:]

    def _hits(self, query: Fingerprint, k: int) -> Hits:
        return self.index.search(query.values, query.times, k)


class Landmarks:
    """The library's own search by hashes, over the same recordings."""

    growth = 1.0

    def __init__(self, library: Library) -> None:
        self.library, self.name = library, "landmarks"
        self.seconds, self.build_seconds = 0.0, 0.0
        index = library.index("landmarks")
        self.n_vectors, self.n_bytes = len(index), 8 * len(index)

    def answer(self, asked: Asked) -> Candidate | None:
        """Return the most probable candidate."""
        audio = asked.query.prefix(asked.length).resample(8000)
        found = self.library.candidates(audio, method="landmarks")
        return found[0] if found else None

    def recalled(self, asked: Asked) -> list[str]:
        """Return nothing: there is one stage."""
        return []

    def index_ms(self, asked: Sequence[Asked]) -> tuple[float, float] | None:
        """Return nothing: hashes are looked up in another way."""
        return None


class Bench:
    """A collection, the queries, and systems made over them."""

    def __init__(
        self,
        evaluation: Evaluation,
        collection: Collection,
        segments: Fingerprinter,
        *,
        hours: float,
        real_share: float = 1.0,
    ) -> None:
        """Take the collection, its hours, and the share of them that is not modelled."""
        self.evaluation, self.collection, self.segments = evaluation, collection, segments
        self.hours, self.real_share = hours, real_share
        self.asked: list[Asked] = []
        self._stored = lru_cache(maxsize=512)(self._read)
        self._number = {name: i for i, name in enumerate(collection.ids)}

    def ask(self, report: Report | None = None) -> None:
        """Make and fingerprint all queries of the evaluation's plan."""
        tasks = [task for task in self.evaluation.tasks() if task.known]
        for done, task in enumerate(tasks, 1):
            query = self.evaluation.query(task)
            for length in self.evaluation.plan.lengths:
                heard = query.prefix(length).resample(self.segments.sample_rate)
                segments = self.segments.fingerprint_query(heard)
                self.asked.append(Asked(query, length, segments))
            if report:
                report(done, len(tasks))

    def exhaustive(self, kind: str = "flat") -> Searching:
        """Return search among all segment vectors."""
        index, seconds = _built(self.collection, kind)
        searcher = SegmentSearcher(
            self.segments, self._vector_index(index), self._stored, len(self.collection)
        )
        return Searching(f"segments, {kind}", searcher, index, seconds)

    def compress(self, runs: CompressedFingerprinter) -> tuple[Collection, float]:
        """Return the runs of all recordings, and how long they took."""
        started = time.perf_counter()
        of = (runs.derive(sequence) for sequence in self.collection.sequences("segments"))
        made = gathered(of, self.collection.ids, runs.compressor.card.dim)
        return made, time.perf_counter() - started

    def compressed(
        self, runs: CompressedFingerprinter, made: Collection, seconds: float, kind: str = "flat"
    ) -> tuple[Runs, Runs, Searching]:
        """Return runs alone by recording and by place, and two-stage search, over one index.

        made: as of :meth:`compress`, perhaps with modelled runs of further recordings.
        """
        index, built = _built(made, kind)
        name = f"{runs.compressor.card.name}{HALF * runs.half_overlap}, {kind}"
        places = self._vector_index(index, made.ids)
        alone = Runs(name, runs, places, seconds + built)
        by_place = Runs(f"{name}, by place", runs, places, seconds + built, made=made)
        searcher = TwoStageSearcher(self.segments, runs, places, self._stored, len(self.collection))
        both = Searching(f"{name}, then segments", searcher, index, seconds + built)
        both.seconds = runs.span_seconds
        return alone, by_place, both

    def measure(self, system: System, report: Report | None = None) -> Measured:
        """Let a system answer all queries; those without vectors count as not found."""
        replies: dict[str, list[Reply]] = {}
        for done, asked in enumerate(self.asked, 1):
            replies.setdefault(f"{asked.length:g}", []).append(self._reply(system, asked))
            if report:
                report(done, len(self.asked))
        hits = {key: [r for r in of if r.right] for key, of in replies.items()}
        placed = hits if has_places(system) else {}
        taken = {
            key: [r.seconds for r in of if r.seconds is not None] for key, of in replies.items()
        }
        longest = max(self.evaluation.plan.lengths)
        timed = [a for a in self.asked if a.length == longest and len(a.segments)][:TIMED]
        return Measured(
            system.name,
            system.seconds,
            system.n_vectors,
            system.n_bytes / (self.hours * system.growth),
            system.build_seconds,
            {key: _rate([r.right for r in of], of) for key, of in replies.items()},
            {key: _rate([r.near for r in of], of) for key, of in placed.items() if of},
            {key: 1000 * float(np.median(of[:TIMED])) for key, of in taken.items() if of},
            system.index_ms(timed) if timed else None,
            _recall(replies),
        )

    def _reply(self, system: System, asked: Asked) -> Reply:
        if not len(asked.segments):
            return Reply(asked, False, False, None, None)
        started = time.perf_counter()
        best = system.answer(asked)
        seconds = time.perf_counter() - started
        right, error = self._judged(asked, best)
        near = error is not None and abs(error) <= NEAR
        names = system.recalled(asked)
        rank = self._rank(asked, names) if names else None
        return Reply(asked, right, near, seconds, rank)

    def _judged(self, asked: Asked, best: Candidate | None) -> tuple[bool, float | None]:
        if best is None or best.recording_id not in self.evaluation.file_of:
            return False, None
        return self.evaluation.judge(asked.query, best, asked.length)

    def _rank(self, asked: Asked, names: Sequence[str]) -> int:
        """Return the place of the query's recording among those named, from 0."""
        files = [self.evaluation.file_of.get(name) for name in names]
        return files.index(asked.query.file) if asked.query.file in files else UNNAMED

    def _vector_index(self, index: Any, ids: list[str] | None = None) -> VectorIndex:
        return VectorIndex(index, ids or self.collection.ids, 0)

    def _read(self, recording_id: str) -> Fingerprint:
        """Return a recording's segments; of one whose runs alone are modelled, others' negated."""
        number = self._number.get(recording_id)
        if number is not None:
            return self.collection.sequence(number, "segments")
        other = zlib.crc32(recording_id.encode()) % len(self.collection.ids)
        found = self.collection.sequence(other, "segments")
        return replace(found, values=-found.values)


def has_places(system: System) -> bool:
    """Tell whether a system's answers say where; sums by recording do not."""
    return not isinstance(system, Runs) or system.made is not None


def latency(index: Any, queries: Sequence[Vectors], k: int = 10) -> tuple[float, float]:
    """Return milliseconds to look a query's vectors up one at a time, and at once; medians."""
    single, batched = [], []
    for vectors in queries:
        started = time.perf_counter()
        for row in vectors:
            cosines(index, row[None], k)
        between = time.perf_counter()
        cosines(index, vectors, k)
        single.append(between - started)
        batched.append(time.perf_counter() - between)
    return 1000 * float(np.median(single)), 1000 * float(np.median(batched))


def _built(collection: Collection, kind: str) -> tuple[Any, float]:
    started = time.perf_counter()
    index = build(kind, collection.codes, collection.places)
    return index, time.perf_counter() - started


def _rate(values: Sequence[bool], replies: Sequence[Reply]) -> Rate:
    """Return the share of values that are true, one a reply; recordings are drawn for intervals."""
    return rate(np.array(values, bool), [r.asked.query.file for r in replies])


def _recall(replies: dict[str, list[Reply]]) -> dict[str, dict[str, float]]:
    """Return the share of queries whose recording a coarse stage names; empty without one."""
    ranks = {key: [r.rank for r in of] for key, of in replies.items()}
    return {
        key: {str(k): float(np.mean([r is not None and r < k for r in of])) for k in RECALLS}
        for key, of in ranks.items()
        if any(r is not None for r in of)
    }
