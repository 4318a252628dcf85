"""The protocol of ``spolia evaluate identify``.

The library holds all tracks of a corpus but one half of the ``val`` groups. Known queries are
cut from the other half, absent queries from the left-out half; neither was trained on. With
``fold`` 1 the halves change roles: calibration is fitted on fold 1 and measured on fold 0, on
other recordings. Queries of a place are prefixes of one degraded excerpt, so lengths are paired.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from spolia.audio import Audio
from spolia.calibration import strength
from spolia.corpus import CorpusFile, is_device, read_manifest
from spolia.encoding import write_whole
from spolia.errors import ParameterError
from spolia.evaluation.conditions import CONDITIONS, STANDARD, Materials, Query, make_query
from spolia.evaluation.metrics import Rate, correlation_offset, rate, recall_at
from spolia.ingest import find_files
from spolia.library import Library
from spolia.rivals import Candidate, best_per_recording

EVALUATION_RATE = 16000  # Hz at which queries are made, as the corpus is stored
N_RIVALS = 23  # lines of other recordings that are kept for calibration
SAME_SOUND = 0.8  # correlation from which two places of a recording sound the same
EXACT, NEAR = 0.1, 0.5  # seconds
SAME_SPEED, IN_TUNE = 0.005, 0.25  # share of the speed; semitones


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    n_places: int = 48  # known queries per condition; absent ones are as many
    n_absent: int = 48  # absent queries per condition
    lengths: tuple[float, ...] = (1.0, 2.0, 3.0, 5.0, 10.0)  # seconds
    conditions: tuple[str, ...] = tuple(STANDARD)
    seed: int = 0
    fold: int = 0


class Task(NamedTuple):
    """One query to make and to answer at all lengths."""

    known: bool  # whether its recording is in the library
    condition: int  # its place in the plan's conditions
    place: int  # from 0; draws the recording and the place in it


@dataclass(frozen=True)
class Outcome:
    """One query of one length, answered."""

    condition: str
    variant: float
    length: float  # seconds asked for
    file: str  # of the recording it was cut from
    known: bool  # whether that recording is in the library
    found: str | None  # file of the first match, whatever its probability
    right: bool  # the recording, or the same sound in a file of its group
    offset_error: float | None  # seconds, recurrences of the same sound counted; None if wrong
    speed: float
    found_speed: float | None
    semitones: float  # how much higher the query sounds
    found_semitones: float | None
    probability: float  # of the first match, 0 without one
    # evidence, score, support, query_start, query_end: of the first match and of its rivals
    lines: list[list[float]]
    decided: bool
    seconds: float  # time that the answer took
    right_by_vectors: bool = False  # whether the first match by vectors alone was right: of lines
    # of aligned candidates, strongest first: evidence, score, support, rival's evidence,
    # correlation, prominence, seconds of the stretch, and 1 for right, 0 for wrong, -1 for a copy
    heard: list[list[float]] = field(default_factory=list)


def val_half(files: Iterable[CorpusFile], half: int) -> list[CorpusFile]:
    """Return the val files of one half of the groups; a group is never divided."""
    return [
        f
        for f in files
        if f.split == "val" and hashlib.sha256(f.group.encode()).digest()[0] % 2 == half
    ]


def load_materials(corpus: Path) -> Materials:
    """Return the val noises and impulse responses at the evaluation's rate."""

    def load(files: Iterable[CorpusFile]) -> list[Audio]:
        return [Audio.load(f.path, sample_rate=EVALUATION_RATE) for f in files]

    noises = [f for f in read_manifest(corpus, "noise") if f.split == "val"]
    responses = [f for f in read_manifest(corpus, "ir") if f.split == "val"]
    return Materials(
        load(noises),
        load(f for f in responses if not is_device(f)),
        load(f for f in responses if is_device(f)),
    )


class Evaluation:
    """Holds the library and the truth of one fold."""

    def __init__(
        self,
        corpus: Path,
        library: Library,
        plan: Plan,
        distractors: Sequence[Path] = (),
        recordings: Path | None = None,
    ) -> None:
        """Take the corpus, a library to fill, and further files or folders for it to hold.

        recordings: corpus or pack whose tracks are held and asked about; by default the corpus,
        which else gives noises and rooms alone. Raises ParameterError where a half that is asked
        about has no groups.
        """
        self.corpus, self.library, self.plan = corpus, library, plan
        self.recordings = recordings or corpus
        self.distractors = list(find_files(distractors))
        self.tracks = {f.file: f for f in read_manifest(self.recordings, "track")}
        self.materials = load_materials(corpus)
        self.known = val_half(self.tracks.values(), plan.fold)
        self.absent = val_half(self.tracks.values(), 1 - plan.fold)
        self._check_halves()
        self._load = lru_cache(maxsize=48)(  # as many as a half of val has
            lambda file: Audio.load(self.recordings / file, sample_rate=EVALUATION_RATE)
        )
        self.file_of = {r.id: _relative(r.path, self.recordings) for r in library}

    def _check_halves(self) -> None:
        for name, files, n_wanted in (
            ("known", self.known, self.plan.n_places),
            ("absent", self.absent, self.plan.n_absent),
        ):
            if n_wanted and not files:
                raise ParameterError(
                    f"{self.recordings / 'split.csv'} leaves no group to cut {n_wanted} {name} "
                    f"queries from in fold {self.plan.fold}; list tracks of more groups as val"
                )

    def fill(self, progress: Callable[[Any], None] | None = None) -> None:
        """Bring the library to hold all tracks but the left-out ones, and the distractors."""
        left_out = {f.file for f in self.absent}
        wanted = [f.path for f in self.tracks.values() if f.file not in left_out]
        wanted += self.distractors
        paths = {os.path.abspath(path) for path in wanted}
        self.library.remove([r.id for r in self.library if r.path not in paths])
        self.library.add(wanted, progress=progress)
        self.file_of = {r.id: _relative(r.path, self.recordings) for r in self.library}

    def tasks(self) -> Iterator[Task]:
        """Yield all queries to make, known ones first."""
        plan = self.plan
        for known, n_places in ((True, plan.n_places), (False, plan.n_absent)):
            for condition in range(len(plan.conditions)):
                for place in range(n_places):
                    yield Task(known, condition, place)

    def query(self, task: Task) -> Query:
        """Make a query of the greatest length; the same for a seed."""
        plan, (known, number, place) = self.plan, task
        files = self.known if known else self.absent
        file = files[(place + number * 7) % len(files)].file
        rng = np.random.default_rng([plan.seed, plan.fold, int(known), number, place])
        condition = CONDITIONS[plan.conditions[number]]
        seconds = max(plan.lengths)
        return make_query(self._load(file), file, condition, self.materials, rng, seconds=seconds)

    def answers(self, task: Task, method: str | None) -> list[Outcome]:
        """Make a query and answer its prefixes of all lengths."""
        query = self.query(task)
        return [self.answer(query, s, task.known, method) for s in self.plan.lengths]

    def answer(self, query: Query, length: float, known: bool, method: str | None) -> Outcome:
        """Identify a query's prefix and compare with the truth."""
        audio = query.prefix(length)
        started = time.perf_counter()
        heard = audio.resample(8000)
        by_vectors = self.library.candidates(heard, method=method)
        candidates = self.library.confirmed(heard, by_vectors, method=method)
        decided = self.library.decided(candidates, method) if candidates else []
        shown = [*decided, *candidates][:1]
        placed = self.library.place(heard, shown[0]) if shown else None
        seconds = time.perf_counter() - started
        if placed is None:
            return _unanswered(query, length, known, seconds)
        best = replace(shown[0], line=placed.line)
        right, error = self.judge(query, best, length) if known else (False, None)
        first = [*self.library.decided(by_vectors, method), *by_vectors][0]
        return Outcome(
            query.condition,
            query.variant,
            length,
            query.file,
            known,
            self.file_of[best.recording_id],
            right,
            error,
            query.speed,
            best.line.speed,
            query.semitones,
            placed.semitones,
            best.probability,
            _lines(first, by_vectors),
            bool(decided),
            seconds,
            known and self.judge(query, first, length)[0],
            self._heard(query, length, known, candidates),
        )

    def _heard(
        self, query: Query, length: float, known: bool, candidates: Sequence[Candidate]
    ) -> list[list[float]]:
        """Return what a confirmation is fitted on, see Outcome."""
        rows = []
        for candidate in candidates:
            line, place = candidate.line, candidate.place
            if place is None or place.correlation is None or place.prominence is None:
                continue
            right = 0.0
            if known:
                right = float(self.judge(query, replace(candidate, line=place.line), length)[0])
            if not right and candidate.is_copy:
                right = -1.0
            row = [line.evidence, line.score, line.support, candidate.rival]
            row += [place.correlation, place.prominence, line.query_end - line.query_start, right]
            rows.append([round(float(v), 5) for v in row])
        return sorted(rows, key=lambda row: -strength(row[0], row[1]))

    def judge(self, query: Query, best: Candidate, length: float) -> tuple[bool, float | None]:
        """Return (right, offset error in seconds at the middle of the stretch)."""
        file, line = self.file_of[best.recording_id], best.line
        middle = (line.query_start + line.query_end) / 2
        error = line.speed * middle + line.offset - (query.start + query.speed * middle)
        if file == query.file and abs(error) <= EXACT:
            return True, error
        same_group = file in self.tracks and (
            self.tracks[file].group == self.tracks[query.file].group
        )
        if file != query.file and not same_group:
            return False, None
        similarity, lag = self._same_sound(query, file, error, length)
        if similarity >= SAME_SOUND:
            return True, -lag / EVALUATION_RATE
        return file == query.file, error if file == query.file else None

    def _same_sound(
        self, query: Query, file: str, error: float, length: float
    ) -> tuple[float, int]:
        truth = round(query.start * EVALUATION_RATE)
        place = max(0, truth + round(error * EVALUATION_RATE))
        size, reach = round(length * query.speed * EVALUATION_RATE), round(NEAR * EVALUATION_RATE)
        original, found = self._load(query.file).samples, self._load(file).samples
        joined = np.concatenate([found, np.zeros(size + reach, np.float32), original])
        shift = len(found) + size + reach
        return correlation_offset(joined, place, shift + truth, size, reach)


def _relative(path: str, corpus: Path) -> str:
    """Return a file's path within the corpus, or the whole path of a distractor."""
    root = Path(os.path.abspath(corpus))
    return Path(path).relative_to(root).as_posix() if Path(path).is_relative_to(root) else path


def _unanswered(query: Query, length: float, known: bool, seconds: float) -> Outcome:
    return Outcome(
        query.condition,
        query.variant,
        length,
        query.file,
        known,
        None,
        False,
        None,
        query.speed,
        None,
        query.semitones,
        None,
        0.0,
        [],
        False,
        seconds,
    )


def _lines(best: Candidate, candidates: Sequence[Candidate]) -> list[list[float]]:
    """Return what calibration needs of the best candidate and of other recordings' lines."""
    rivals = [
        c
        for c in best_per_recording([best, *candidates])
        if c.recording_id != best.recording_id and not c.is_copy
    ]
    rivals.sort(key=lambda c: -strength(c.line.evidence, c.line.score))
    chosen = [c.line for c in (best, *rivals[:N_RIVALS])]
    return [
        [round(v, 5) for v in (c.evidence, c.score, c.support, c.query_start, c.query_end)]
        for c in chosen
    ]


def summarise(outcomes: Sequence[Outcome], plan: Plan) -> dict[str, Any]:
    """Return the table: for each length, Top-1 per condition, places, false accepts, recall."""
    return {f"{length:g}": _summary(outcomes, length, plan) for length in plan.lengths}


def _summary(outcomes: Sequence[Outcome], length: float, plan: Plan) -> dict[str, Any]:
    known = [o for o in outcomes if o.length == length and o.known]
    absent = [o for o in outcomes if o.length == length and not o.known]
    hits = [o for o in known if o.right]
    table: dict[str, Any] = {"top1": {"all": _share(known, "right")}}
    for name in plan.conditions:
        table["top1"][name] = _share([o for o in known if o.condition == name], "right")
    for label, tolerance in (("within_0.5s", NEAR), ("within_0.1s", EXACT)):
        errors = [o.offset_error is not None and abs(o.offset_error) <= tolerance for o in hits]
        table[label] = asdict(_rate(errors, hits))
    errors = [
        o.found_speed is not None and abs(o.found_speed / o.speed - 1) <= SAME_SPEED for o in hits
    ]
    table["speed"] = asdict(_rate(errors, hits))
    table["semitones"] = asdict(_rate([_in_tune(o) for o in hits], hits))
    table["false_accepts"] = _share(absent, "decided")
    table["recall"] = asdict(_rate([o.right and o.decided for o in known], known))
    table["wrong_accepts"] = asdict(_rate([o.decided and not o.right for o in known], known))
    scores = np.array([o.probability for o in known]), np.array([o.probability for o in absent])
    right = np.array([o.right for o in known], bool)
    for label, share in (("recall_at_1pct", 0.01), ("recall_at_0.1pct", 0.001)):
        table[label] = recall_at(scores[0], right, scores[1], share)[0]
    table["median_seconds"] = float(np.median([o.seconds for o in known])) if known else None
    return table


def _in_tune(outcome: Outcome) -> bool:
    found = outcome.found_semitones
    return found is not None and abs(found - outcome.semitones) <= IN_TUNE


def _share(outcomes: Sequence[Outcome], name: str) -> dict[str, Any]:
    return asdict(_rate([bool(getattr(o, name)) for o in outcomes], outcomes))


def _rate(values: Sequence[bool], outcomes: Sequence[Outcome]) -> Rate:
    return rate(np.array(values, bool), [o.file for o in outcomes])


def write_outcomes(path: Path, outcomes: Sequence[Any], **facts: Any) -> None:
    """Write all outcomes, dataclasses, and the facts of the run as JSON."""
    content = {**facts, "outcomes": [asdict(o) for o in outcomes]}
    write_whole(path, json.dumps(content, indent=None).encode())


def read_outcomes(path: Path) -> list[Outcome]:
    """Read what :func:`write_outcomes` wrote."""
    return [Outcome(**values) for values in json.loads(path.read_text())["outcomes"]]
