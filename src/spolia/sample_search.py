"""Finds what a track samples in a library: search, judgement, comparison of sound, tracing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache, partial
from typing import Literal, TypeVar

import numpy as np

from spolia.audio import Audio
from spolia.blas import one_blas_thread
from spolia.fingerprints.base import Fingerprint
from spolia.sample_agreement import N_HITS, NodeSearch
from spolia.sample_alignment import SAMPLE_RATE, Played, levels, patches_of, rough, sharpened
from spolia.sample_hints import hits_of
from spolia.sample_judging import Claim, Judge
from spolia.sample_parts import part_of
from spolia.sample_patches import QUICKEST, Bands
from spolia.sample_sketch import Screen
from spolia.sample_sound import Sounds, whole
from spolia.sample_tracing import REACH, Trace, exact
from spolia.samples import (
    CELL,
    UNFITTED,
    Evidence,
    Nominee,
    Part,
    SampleCalibration,
    SampleMatch,
    match_of,
    nominate,
    thinned,
)
from spolia.store.hits import Hits, chosen, joined
from spolia.store.vectors import VectorIndex

N_NEIGHBOURS = 60  # hits per window of a query
N_SCREENED = 400  # places whose sketches are heard
N_NOMINEES = 24  # places of recordings that are compared with the query's sound
PER_SIMILARITY = 10.0  # deviations of a sketch that 1 of similarity is worth
PER_AGREEMENT = 2.0  # the same, of 1 of the logarithm of nodes' agreement, in its place
PER_LOGIT = 0.5  # the same, of 1 of a classifier's logit
PATCH = 4.0  # seconds that are compared at once, fewer of a shorter query
REACH_OF_PLACE = 6.0  # seconds by which a window's place may be wrong: by a bar or two
REJECT = -3.0  # a classifier's logit below which sound is not compared: wrong 20 times to 1
N_JUDGED = 2  # pairs of a nominee, the most similar, that a classifier hears
GATE = 3.6  # deviations of the best patch from which a recording is traced
MOST_TRACED = 12  # recordings
MOST_HINTED = 4  # beside them
AROUND = 2.0  # seconds of a recording around what is played that its part depends on
N_SKETCHES = 40  # that stay in memory

Report = Callable[[int, int], None]
Found = TypeVar("Found")
Judged = Callable[[list[Nominee]], list[Nominee]]


class SampleFinder:
    """Answers one query."""

    def __init__(
        self,
        query: Audio,
        fingerprint: Fingerprint,
        index: VectorIndex,
        sounds: Sounds,
        *,
        seconds: float,
        sketch: Callable[[str], Bands | None] = lambda _: None,
        threads: int = 2,
        without: Collection[str] = (),
        search: NodeSearch | None = None,
        judged: Judged | None = None,
        judge: Judge | None = None,
        hinted: Sequence[Nominee] = (),
        calibration: SampleCalibration = UNFITTED,
        report: Report | None = None,
    ) -> None:
        """Take the query at SAMPLE_RATE, its fingerprint, and the length of a window.

        sounds: of the recordings, which queries share; sketch: gives a recording's, by its id, or
        None, see :mod:`spolia.sample_sketch`; without: ids of recordings that are not looked for,
        such as the query's own; search: nominates places by stored nodes; judged: gives nominees
        their logits by these; judge: does so by the sound of the best, and rejects. Logits have a
        say in what is compared and traced. hinted: are compared too, whatever speaks for them
        here, see :mod:`spolia.sample_hints`.
        """
        self.without = np.isin(index.recording_ids, list(without))  # by number
        self.query, self.heard = query.samples, levels(query.samples)
        self.patch = min(PATCH, len(query) / SAMPLE_RATE)  # seconds
        self.patches = patches_of(self.heard, seconds=self.patch, reach=REACH_OF_PLACE)
        self.fingerprint, self.index, self.sounds = fingerprint, index, sounds
        self.seconds, self.threads, self.report = seconds, threads, report
        self.sketch, self.search, self.judged, self.judge = sketch, search, judged, judge
        self.hinted = hinted
        self.words = dict[int, float]()  # of other methods, by recording
        for one in hinted:
            self.words[one.recording] = max(one.word, self.words.get(one.recording, 0.0))
        self.calibration = calibration  # of probabilities
        self.nominees: list[Nominee] = []  # once they were searched, without those rejected

    def evidence(self) -> list[Evidence]:
        """Return what speaks for each recording that may be sampled, the best first.

        What another method hinted at comes behind, perhaps for a recording that is there already.
        """
        nominees = self._nominated()
        hinted = [self._agreeing(hint, nominees) for hint in self.hinted]
        nominees = thinned(nominees, N_SCREENED)
        n = len(nominees)
        nominees = self.judged([*nominees, *hinted]) if self.judged else [*nominees, *hinted]
        screened = self.screened(nominees[:n])
        nominees = self._judged([*screened[:N_NOMINEES], *nominees[n:]])
        lead, ahead = _leads(nominees, "score"), _leads(nominees, "agreement")
        left = [n for n in nominees if n.logit >= REJECT]
        self.nominees = [*left, *screened[N_NOMINEES:]]
        best = _best_of_recordings(left, self._compared(left))
        with ThreadPoolExecutor(self.threads) as pool:
            every = list(pool.map(lambda item: self._traced(*item), best))
        return [
            Evidence(
                self.index.recording_ids[nominee.recording],
                nominee.score,
                lead[nominee.recording],
                played,
                traced,
                nominee.agreement,
                ahead[nominee.recording],
                nominee.logit,
                self.words.get(nominee.recording, 0.0),
            )
            for (nominee, _), (played, traced) in zip(best, every, strict=True)
        ]

    def _nominated(self) -> list[Nominee]:
        """Return all places that resemble the query's, those of hints among them."""
        if self.search:
            return self.search.nominees(partial(self.hits, N_HITS))
        hits = self.hits(N_NEIGHBOURS, 0.0, np.inf)
        return nominate(hits, seconds=self.seconds, n=N_SCREENED)

    def _agreeing(self, hint: Nominee, nominees: Sequence[Nominee]) -> Nominee:
        """Return a hint with the agreement of nodes about its place, 0 without nodes."""
        near = (
            n.agreement
            for n in nominees
            if n.recording == hint.recording
            and abs(n.pairs[0].recording - hint.pairs[0].recording) < CELL
        )
        return replace(hint, agreement=max(near, default=0.0))

    def hits(self, n: int, start: float, end: float) -> Hits:
        """Return up to ``n`` hits of each window that begins between two times of the query."""
        times = self.fingerprint.times
        within = (times >= start) & (times < end)
        hits = self.index.search(self.fingerprint.values[within], times[within], n)
        others = hits_of(self.hinted, seconds=self.seconds)
        there = (others.query_times >= start) & (others.query_times < end)
        return joined([chosen(hits, ~self.without[hits.recordings]), chosen(others, there)])

    def matches(self, *, top: int = 0, threshold: float | None = None) -> list[SampleMatch]:
        """Return the recordings that may be sampled, most probable first.

        Of the first ``top``, and of those from the threshold on, by default the calibration's, the
        part is heard, too.
        """
        limit = self.calibration.threshold if threshold is None else threshold
        with one_blas_thread():
            best: dict[str, tuple[float, Evidence]] = {}
            for chance, e in self._heard():
                best.setdefault(e.recording_id, (chance, e))
            chances = {name: chance for name, (chance, _) in best.items()}
            heard = [e for _, e in best.values()]
            shown = max(top, sum(chance >= limit for chance in chances.values()))
            with ThreadPoolExecutor(self.threads) as pool:
                parts = [*pool.map(self._part, heard[:shown]), *[None] * len(heard[shown:])]
        self.patches.forget()  # a long track is many finders, one after the other
        return [
            match_of(self.sounds.recording(e.recording_id), e, chances[e.recording_id], part)
            for e, part in zip(heard, parts, strict=True)
        ]

    def _heard(self) -> list[tuple[float, Evidence]]:
        """Return what was traced with its probability, most probable first."""
        heard = (e for e in self.evidence() if e.trace.occurrences)
        found = [(self.calibration.probability(e), e) for e in heard]
        return sorted(found, key=lambda item: -item[0])

    def others(self, named: Iterable[str]) -> list[tuple[str, float]]:
        """Return ids and promise of recordings that are nominated but not named."""
        known, scores = set(named), dict[str, float]()
        for nominee in self.nominees:
            name, promise = self.index.recording_ids[nominee.recording], _rough(nominee)
            scores[name] = max(promise, scores.get(name, -np.inf))
        return sorted(
            ((r, s) for r, s in scores.items() if r not in known), key=lambda item: -item[1]
        )

    def screened(self, nominees: list[Nominee]) -> list[Nominee]:
        """Return nominees in the order in which their sketches and similarity speak for them.

        Those without a sketch keep their order; where none has one, so do all.
        """
        screen, known = Screen(self.heard), lru_cache(maxsize=N_SKETCHES)(self.sketch)

        def heard(nominee: Nominee) -> Nominee:
            sketch = known(self.index.recording_ids[nominee.recording])
            if sketch is None:
                return nominee
            return replace(nominee, standing=screen.standing(sketch, nominee.pairs))

        with ThreadPoolExecutor(self.threads) as pool:
            found = _in_turn(pool, heard, nominees)
        screen.patches.forget()
        return sorted(found, key=_rough, reverse=True)

    def _judged(self, nominees: list[Nominee]) -> list[Nominee]:
        """Return nominees with their logits, as they are without a judge."""
        if self.judge is None:
            return nominees
        with ThreadPoolExecutor(self.threads) as pool:
            claims = list(pool.map(self._claim, nominees))
        logits = self.judge.logits(Audio(self.query, SAMPLE_RATE), claims)
        return [replace(n, logit=float(x)) for n, x in zip(nominees, logits, strict=True)]

    def _claim(self, nominee: Nominee) -> Claim:
        start, end = self._around(nominee)
        sound = self.sounds.load(self._name(nominee), start, end)
        return Claim(nominee.recording, nominee.pairs[:N_JUDGED], sound, start)

    def _compared(self, nominees: Sequence[Nominee]) -> list[Played | None]:
        with ThreadPoolExecutor(self.threads) as pool:
            return _in_turn(pool, self._compare, nominees, self.report)

    def _compare(self, nominee: Nominee) -> Played | None:
        """Return how the query plays a nominee."""
        sound = self.sounds.levels(self._name(nominee), *self._around(nominee))
        if sound is None:
            return None
        known, origin = sound
        pairs = [replace(p, recording=p.recording - origin) for p in nominee.pairs]
        played = rough(self.patches, known, pairs, nominee.near)
        return None if played is None else replace(played, offset=played.offset + origin)

    def _traced(self, nominee: Nominee, played: Played) -> tuple[Played, Trace]:
        """Return how exactly a recording is played, and everywhere it is."""
        middle = played.tempo * played.middle + played.offset
        around = (REACH + PATCH) * played.tempo + 1.0
        sound = self.sounds.levels(self._name(nominee), middle - around, middle + around)
        if sound is None:
            return played, Trace((), 0.0, 0.0)
        known, origin = sound
        near = replace(played, offset=played.offset - origin)
        near = sharpened(self.heard, known, near, seconds=self.patch)
        near, found = exact(self.heard, known, near, seconds=self.patch)
        played = replace(near, offset=near.offset + origin)
        duration = self.sounds.recording(self._name(nominee)).duration
        moved = (
            replace(
                o,
                reference_start=max(0.0, o.reference_start + origin),
                reference_end=o.reference_end + origin,
            )
            for o in found.occurrences
        )
        inside = (o for o in moved if o.reference_end > 0.0 and o.reference_start < duration)
        return played, replace(found, occurrences=tuple(inside))

    def _part(self, evidence: Evidence) -> Part | None:
        """Return the part of a recording that is heard; None where that is not sure."""
        found = evidence.trace.occurrences
        start = max(0.0, min(o.reference_start for o in found) - AROUND)
        end = max(o.reference_end for o in found) + AROUND
        sound = self.sounds.load(evidence.recording_id, start, end)
        if sound is None:
            return None
        return part_of(self.query, sound.samples, found, evidence.played, origin=start)

    def _around(self, nominee: Nominee) -> tuple[float, float]:
        """Return the seconds of a recording that are heard for a nominee, whole ones."""
        around = max(PATCH / 2 * QUICKEST + REACH_OF_PLACE + 0.5, self.seconds / 2)
        middles = [pair.recording for pair in nominee.pairs]
        return whole(min(middles) - around, max(middles) + around)

    def _name(self, nominee: Nominee) -> str:
        return self.index.recording_ids[nominee.recording]


def _in_turn(
    pool: Executor,
    work: Callable[[Nominee], Found],
    nominees: Sequence[Nominee],
    report: Report | None = None,
) -> list[Found]:
    """Return what is found of each nominee; those of one place of the query follow each other.

    What was prepared of the query there is still at hand then.
    """
    order = sorted(range(len(nominees)), key=lambda i: nominees[i].pairs[0].query)
    found: dict[int, Found] = {}
    for i, one in zip(order, pool.map(work, [nominees[i] for i in order]), strict=True):
        found[i] = one
        if report:
            report(len(found), len(nominees))
    return [found[i] for i in range(len(nominees))]


def _best_of_recordings(
    nominees: Sequence[Nominee], played: Iterable[Played | None]
) -> list[tuple[Nominee, Played]]:
    """Return the best recordings' best places that stand out, the best recording first.

    Those that were looked for where another method found them come behind.
    """
    best: dict[tuple[bool, int], tuple[Nominee, Played]] = {}
    for nominee, one in zip(nominees, played, strict=True):
        if one is None or one.patch_z < GATE:
            continue
        key = nominee.near is not None, nominee.recording
        held = best.get(key)
        if held is None or _promise(nominee, one) > _promise(*held):
            best[key] = nominee, one
    ordered = sorted(best.values(), key=lambda item: -_promise(*item))
    searched = [item for item in ordered if item[0].near is None][:MOST_TRACED]
    return [*searched, *[item for item in ordered if item[0].near is not None][:MOST_HINTED]]


def _rough(nominee: Nominee) -> float:
    """Return how much speaks for a place before its sound is heard, in deviations."""
    heard = max(nominee.standing, 0.0) + PER_LOGIT * nominee.logit
    return heard + (_agreed(nominee) if nominee.agreement else PER_SIMILARITY * nominee.score)


def _promise(nominee: Nominee, played: Played) -> float:
    """Return how much speaks for a place before it is traced, in deviations."""
    return played.patch_z + played.z + _agreed(nominee) + PER_LOGIT * nominee.logit


def _agreed(nominee: Nominee) -> float:
    """Return how much the agreement of nodes speaks for a place, in deviations of a sketch."""
    return PER_AGREEMENT * float(np.log1p(max(nominee.agreement, 0.0)))


def _leads(nominees: Sequence[Nominee], name: Literal["score", "agreement"]) -> dict[int, float]:
    """Return by how much the best place of each recording is ahead of all others' best."""
    best: dict[int, float] = {}
    for nominee in nominees:
        value = getattr(nominee, name)
        best[nominee.recording] = max(value, best.get(nominee.recording, 0.0))
    if len(best) < 2:  # there is nothing to be ahead of
        return dict.fromkeys(best, 0.0)
    first, second = sorted(best.values(), reverse=True)[:2]
    return {r: value - (second if value == first else first) for r, value in best.items()}
