"""The library: a folder of fingerprinted recordings, and the verbs on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from os import PathLike
from pathlib import Path
from typing import TypeVar, cast

from spolia.audio import Audio, Source, load_query
from spolia.errors import ParameterError, UnknownRecording
from spolia.fingerprints import registry
from spolia.fingerprints.base import Derived, Fingerprint, Fingerprinter
from spolia.identify import Identification, Match, is_sure, match_of
from spolia.ingest import AddReport, Progress, ingest
from spolia.placing import confirmed, limit_of, place
from spolia.recording import Recording
from spolia.rivals import Candidate, Place, best_per_recording, judged, rivals_removed
from spolia.sample_hints import LONGEST_SHIFTED
from spolia.sample_opening import SampleJudge, open_sample_judge, sample_finder
from spolia.sample_search import Report, SampleFinder
from spolia.sample_sound import Sounds
from spolia.sample_stretches import asked
from spolia.samples import Samples
from spolia.searching import (
    CompressedSearcher,
    LandmarkSearcher,
    Searcher,
    SegmentSearcher,
    TwoStageSearcher,
    hinting,
)
from spolia.sketches import SketchFingerprinter
from spolia.store.catalog import Catalog
from spolia.store.postings import PostingsIndex, open_postings
from spolia.store.vectors import EXACT_BELOW, VectorIndex, open_vectors

MINIMUM_QUERY = 1.0  # seconds

Index = VectorIndex | PostingsIndex
T = TypeVar("T")


class Library:
    """A folder with a catalog of recordings and their fingerprints.

    >>> with Library("my-library") as library:            # doctest: +SKIP
    ...     library.add(["crate/"])
    ...     answer = library.identify("clip.wav")
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        create: bool = True,
        methods: Iterable[str] | None = None,
        model: str | None = None,
        compressor: str | None = None,
        sample_model: str | None = None,
        sample_classifier: str | None = None,
        threads: int = 2,
        fingerprinters: Sequence[Fingerprinter] | None = None,
    ) -> None:
        """Open a library folder, or make one.

        methods: what a new library holds, or what to extend an old one by; default "segments" and
        "compressed", of a segment model that no compressor is given for "segments" alone.
        model, compressor, sample_model: name or path of the segment model, of the model that
        compresses its vectors, and of the model of samples; sample_classifier: of the model that
        judges what that nominates. fingerprinters: used instead.
        Raises LibraryNotFound (with create=False), CorruptLibrary, IncompatibleModel.
        """
        self.folder = Path(folder)
        self.threads = max(1, threads)
        self.model, self.compressor = model, compressor
        self.sample_classifier = sample_classifier
        given = [*(fingerprinters or ())]
        self.catalog = Catalog(self.folder, create=create)
        self._fingerprinters = registry.Fingerprinters(
            [SketchFingerprinter(), *given],
            self.catalog.methods,
            model=model,
            compressor=compressor,
            sample_model=sample_model,
            threads=self.threads,
        )
        held, wanted = self.catalog.methods(), methods or [f.method for f in given]
        if not wanted and not held:
            wanted = registry.default_methods(model, compressor)
        self.methods = registry.with_auxiliary([*held, *wanted])
        self._indexes: dict[str, Index] = {}
        self._sequence = lru_cache(maxsize=512)(lambda r, m, _: self.catalog.fingerprint(r, m))
        self._searched = lru_cache(maxsize=1)(self._how_searched)
        self._sounds = Sounds(self.catalog.get)

    def __enter__(self) -> Library:
        """Return the library itself."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Close the database."""
        self.close()

    def close(self) -> None:
        """Close the database; the library cannot be used afterwards."""
        self.catalog.close()

    def __len__(self) -> int:
        """Return the number of recordings."""
        return self.catalog.summary()[0]

    def __iter__(self) -> Iterator[Recording]:
        """Iterate over the recordings in the order of their paths."""
        return iter(self.catalog.recordings())

    def __repr__(self) -> str:
        """Say how much the library holds and which models made it."""
        n, seconds = self.catalog.summary()
        held = [f"{m} ({i})" if i else m for m, i in self.catalog.methods().items()] or ["empty"]
        holds = f"{n} recordings, {seconds / 3600:.1f} h, {', '.join(held)}"
        return f"<Library {str(self.folder)!r}: {holds}>"

    def fingerprinter(self, method: str) -> Fingerprinter:
        """Return the fingerprinter of a method, checked against the library's model."""
        return self._fingerprinters[method]

    @cached_property
    def sample_judge(self) -> SampleJudge | None:
        """What judges nominees of samples, if anything does; raises ModelError."""
        samples = self.fingerprinter("samples")
        return open_sample_judge(self.sample_classifier, samples, threads=self.threads)

    def add(
        self, paths: Iterable[str | PathLike[str]], *, progress: Progress | None = None
    ) -> AddReport:
        """Fingerprint files and folders into the library; unchanged files are skipped.

        Each recording is stored in a transaction of its own, so an interrupted call loses nothing
        and the next one continues. Files that fail are in the report, the others are added.
        """
        made = filter(self._fingerprinters.makes, self.methods)
        fingerprinters = [self.fingerprinter(m) for m in made]
        if len(self):  # another model's vectors do not belong beside what is held
            self.catalog.declare({f.method: f.model_id for f in fingerprinters})
        return ingest(self.catalog, paths, fingerprinters, threads=self.threads, progress=progress)

    def get(self, recording_id: str) -> Recording:
        """Return a recording by id or the unambiguous beginning of its id."""
        return self.catalog.get(recording_id)

    def remove(self, recording_ids: Iterable[str]) -> list[Recording]:
        """Remove recordings; all ids are checked before the first is removed."""
        found = list(dict.fromkeys(map(self.catalog.get, recording_ids)))
        self.catalog.remove(*(recording.id for recording in found))
        return found

    def verify(self) -> list[str]:
        """Return a sentence for each problem found in the library; empty if there is none."""
        problems = self.catalog.verify()
        if not problems:
            for method in {*self.catalog.methods()} - registry.UNSEARCHED:
                self.index(method)
        return problems

    def index(self, method: str) -> Index:
        """Return the search index of a method, brought up to date with the catalog."""
        index = self._indexes.get(method)
        if index is None or index.generation != self.catalog.generation:
            if method == "landmarks":
                index = open_postings(self.catalog, method)
            else:
                index = open_vectors(self.catalog, method, threads=self.threads)
            self._indexes[method] = index
        return index

    def identify(
        self,
        source: Source | Audio,
        *,
        method: str | None = None,
        top: int = 0,
        threshold: float | None = None,
        name: str | None = None,
    ) -> Identification:
        """Say which recordings a clip is from, and where; no matches means "unknown".

        method: one that the library holds, by default what most recordings have. top: also return
        up to this many candidates below the threshold. threshold: probability from which a match
        counts, by default the model's, at which at most 0.1 % of absent queries were accepted.

        Raises AudioError for a clip that is too short, silent or unreadable.
        """
        started = time.perf_counter()
        method = self._chosen(method)
        audio, name = self._query(source, self._query_fingerprinter(method), name)
        matches = self._steadily(partial(self._find, audio, method, threshold, top))
        return Identification(name, audio.duration, time.perf_counter() - started, matches)

    def decided(
        self, candidates: list[Candidate], method: str | None = None, threshold: float | None = None
    ) -> list[Candidate]:
        """Return the candidates that count as matches, most probable first.

        threshold: probability for all; by default that of the confirmation where the recording's
        sound was heard, else the calibration's by the length of a candidate's stretch.
        """
        method = self._chosen(method)
        searcher, by = self._searcher(method), self._query_fingerprinter(method)

        def counts(c: Candidate) -> bool:
            limit = limit_of(c, by.calibration, by.confirmation, searcher.n_entries)
            return c.probability >= (limit if threshold is None else threshold)

        return list(filter(counts, rivals_removed(candidates)))

    def confirmed(
        self,
        audio: Audio,
        candidates: list[Candidate],
        method: str | None = None,
        threshold: float | None = None,
    ) -> list[Candidate]:
        """Return candidates with the likeliest judged by the sound of their recordings too.

        See :func:`spolia.placing.confirmed`. Without a fitted confirmation they come back as given.
        """
        confirmation = self._query_fingerprinter(self._chosen(method)).confirmation
        if confirmation is None:
            return candidates
        decided = partial(self.decided, method=method, threshold=threshold)
        return confirmed(candidates, lambda c: self.place(audio, c), confirmation, decided)

    def candidates(
        self, audio: Audio, *, method: str | None = None, shifted: bool = True
    ) -> list[Candidate]:
        """Return all candidate lines of a query, most probable first; shifted: at other pitches."""
        method = self._chosen(method)
        searcher = self._searcher(method)
        fingerprinter = searcher.fingerprinter
        candidates = searcher.search([fingerprinter.fingerprint_query(audio)])[0]
        if shifted and not is_sure(candidates, audio.duration):
            changes = fingerprinter.query_changes
            changed = [fingerprinter.fingerprint_query(audio, change) for change in changes]
            for change, of in zip(changes, searcher.search(changed), strict=True):
                candidates += [replace(c, semitones=c.semitones - change.semitones) for c in of]
        calibration = self._query_fingerprinter(method).calibration
        return judged(
            candidates, searcher.same, n_entries=searcher.n_entries, calibration=calibration
        )

    def find_samples(
        self,
        source: Source | Audio,
        *,
        top: int = 0,
        threshold: float | None = None,
        name: str | None = None,
        without: Collection[str] = (),
        progress: Report | None = None,
    ) -> Samples:
        """Say which recordings a track samples, where, and what was done to them.

        top: also return up to this many candidates below the threshold; threshold: probability
        from which a match counts, by default the model's; without: ids of recordings that are not
        looked for; progress: gets (done, all) places compared. Matches need the recordings'
        files where they were when they were added. Of a track of more than five minutes, each four
        are asked about on their own.

        Raises AudioError for a track that is too short, silent or unreadable.
        """
        started = time.perf_counter()
        audio, name = self._query(source, self.fingerprinter(self._chosen("samples")), name)
        find = partial(self.sample_finder, without=without)
        ask = partial(asked, find, audio, name, top=top, threshold=threshold, report=progress)
        return replace(self._steadily(ask), seconds=time.perf_counter() - started)

    def sample_finder(
        self, audio: Audio, progress: Report | None = None, without: Collection[str] = ()
    ) -> SampleFinder:
        """Return what finds the samples of a track, given at the fingerprinter's sample rate."""
        held, seconds = self._searched(self.catalog.generation), self.catalog.summary()[1]
        return sample_finder(
            audio,
            self.fingerprinter(self._chosen("samples")),
            cast(VectorIndex, self.index("samples")),
            self.catalog,
            self._sounds,
            threads=self.threads,
            without=without,
            others=[self._heard_by(m, audio) for m in hinting(held, seconds)],
            judge=self.sample_judge,
            report=progress,
        )

    def _query_fingerprinter(self, method: str) -> Fingerprinter:
        return self.fingerprinter("segments" if method == registry.TWO_STAGE else method)

    def _searcher(self, method: str) -> Searcher:
        """Return how a method searches, over the index as it is now."""
        if method == "samples":
            raise ParameterError(
                "fingerprints of samples do not identify clips; ask with find_samples, or add the "
                "files again with --methods segments"
            )
        fingerprinter = self._query_fingerprinter(method)
        index = self.index("compressed" if method == registry.TWO_STAGE else method)
        if isinstance(index, PostingsIndex):
            return LandmarkSearcher(fingerprinter, index)

        def stored(recording_id: str) -> Fingerprint:
            return self._sequence(recording_id, fingerprinter.method, index.generation)

        if method == "segments":
            return SegmentSearcher(fingerprinter, index, stored, len(index))
        runs = cast(Derived, self.fingerprinter("compressed"))
        if method == "compressed":
            return CompressedSearcher(runs, index, stored)
        n_entries = round(self.catalog.summary()[1] / fingerprinter.hop_seconds)
        exhaustive = partial(self._searcher, "segments") if n_entries < EXACT_BELOW else None
        return TwoStageSearcher(fingerprinter, runs, index, stored, n_entries, exhaustive)

    def _how_searched(self, generation: int) -> list[str]:
        """Return how the library can be searched at a generation, its default first."""
        return registry.searched(self.catalog.counts() or dict.fromkeys(self.methods, 0))

    def _chosen(self, method: str | None) -> str:
        stored = self.catalog.methods()
        held = self._searched(self.catalog.generation)
        method = method or held[0]
        if method not in held:
            raise ParameterError(
                f"the library holds no {method!r} fingerprints (it holds: {', '.join(held)}); "
                f"add the files again with --methods {method}"
            )
        for part in ("segments", "compressed") if method == registry.TWO_STAGE else (method,):
            model_id = self.fingerprinter(part).model_id
            if stored.get(part) not in (None, model_id):
                self.catalog.declare({part: model_id})
        return method

    def _query(
        self, source: Source | Audio, fingerprinter: Fingerprinter, name: str | None
    ) -> tuple[Audio, str]:
        """Return a query's sound as a fingerprinter takes it, and the query's name."""
        rate = fingerprinter.sample_rate
        return load_query(source, name, sample_rate=rate, minimum=MINIMUM_QUERY)

    def _heard_by(self, method: str, audio: Audio) -> list[Candidate]:
        """Return what a method finds in a track that was decoded for another."""
        audio = audio.resample(self._query_fingerprinter(method).sample_rate)
        return self.candidates(audio, method=method, shifted=audio.duration <= LONGEST_SHIFTED)

    def _matches(
        self,
        audio: Audio,
        candidates: list[Candidate],
        method: str,
        threshold: float | None,
        top: int,
    ) -> list[Match]:
        """Return the decided matches, then others up to ``top``."""
        decided = self.decided(candidates, method, threshold)
        others = [c for c in best_per_recording(candidates) if not any(c is d for d in decided)]
        chosen = [*decided, *others][: max(top, len(decided))]
        return [
            match_of(
                self.catalog.get(c.recording_id),
                c.probability,
                self.place(audio, c),
                method,
                decided=number < len(decided),
            )
            for number, c in enumerate(chosen)
        ]

    def _find(self, audio: Audio, method: str, threshold: float | None, top: int) -> list[Match]:
        candidates = self.confirmed(audio, self.candidates(audio, method=method), method, threshold)
        return self._matches(audio, candidates, method, threshold, top)

    def _steadily(self, find: Callable[[], T]) -> T:
        """Return what is found; what is removed meanwhile is not found, all else is."""
        while True:
            generation = self.catalog.generation
            try:
                return find()
            except UnknownRecording:
                if generation == self.catalog.generation:
                    raise

    def place(self, audio: Audio, candidate: Candidate) -> Place:
        """Return where a candidate lies exactly, and the query's pitch, see spolia.placing."""
        if candidate.place is not None:
            return candidate.place
        known, semitones = self.catalog.get(candidate.recording_id), candidate.semitones
        return place(audio, candidate.line, known, semitones=semitones, lag=candidate.lag)
