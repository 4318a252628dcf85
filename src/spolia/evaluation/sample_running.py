"""Runs the benchmark of samples: makes or continues tracks, fills a library, asks, and reports."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from spolia.calibration import balanced, logistic, newton
from spolia.corpus import groups_of
from spolia.errors import ParameterError
from spolia.evaluation.sample_repeats import levels_of, repeats, sampled_sound
from spolia.evaluation.sample_truth import Asked
from spolia.evaluation.samples import (
    Finder,
    Ranked,
    SampleOutcome,
    answer,
    by_chance,
    by_method,
    by_samples,
    relevant,
)
from spolia.fingerprints.registry import HINTING
from spolia.ingest import find_files
from spolia.library import Library
from spolia.production.crate import Crate, open_crate
from spolia.production.folder import Written, write_productions
from spolia.samples import N_FEATURES, SampleCalibration

RIDGE = 1.0
METHODS = ("samples", "segments", "compressed", "landmarks", "random")

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class SamplePlan:
    """What to measure."""

    n_tracks: int = 200  # that sample something
    n_free: int = 100  # that sample nothing
    seconds: tuple[float, float] = (20.0, 60.0)  # the shortest and the longest track
    lengths: tuple[float, ...] = ()  # seconds from the first occurrence on; none: whole tracks
    split: str = "val"
    seed: int = 0


@dataclass(frozen=True)
class Sample100Plan:
    """What to measure on Sample100."""

    n_tracks: int  # that are asked about
    n_missing: int  # tracks without audio
    truth: str  # digest of what they sample
    lengths: tuple[float, ...] = ()  # as in SamplePlan
    seed: int = 0


class SampleBenchmark(ABC):
    """Tracks of a folder whose samples are known, and a library of what they may sample."""

    name = "samples"
    warning: str | None = None  # what the user should know of the folder

    def __init__(
        self,
        folder: Path,
        plan: SamplePlan | Sample100Plan,
        references: Mapping[Path, str],
        distractors: Sequence[Path] = (),
        tracks: Collection[str] = (),
    ) -> None:
        """Take the recordings that may be sampled, as named in truth and rankings.

        distractors: files and folders; references and ``tracks``, files that are asked about, are
        left out of them.
        """
        self.folder, self.plan = folder, plan
        self.names = {str(path.resolve()): name for path, name in references.items()}
        self.references = frozenset(self.names.values())
        held = {*self.names, *(str((folder / track).resolve()) for track in tracks)}
        for path in find_files(distractors):
            if str(path.resolve()) not in held:
                self.names[str(path.resolve())] = str(path)

    @abstractmethod
    def make(self, report: Report | None = None) -> Sequence[Asked]:
        """Return the tracks, made where they are not there yet."""

    def fill(
        self, library: Library, progress: Callable[[Any], None] | None = None
    ) -> dict[str, str]:
        """Bring a library to hold all references and distractors; return files by id."""
        known = {str(Path(r.path).resolve()): r.id for r in library}
        library.remove([i for path, i in known.items() if path not in self.names])
        library.add(sorted(self.names), progress=progress)
        return {r.id: self.names[str(Path(r.path).resolve())] for r in library}

    def finder(self, library: Library, file_of: dict[str, str], method: str) -> Finder:
        """Return what ranks recordings by a method."""
        first = held_for(method)[0]
        if method == "random":
            return by_chance(sorted(file_of.values()), self.plan.seed)
        if first == "samples":
            return by_samples(library, file_of)
        return by_method(library, file_of, method)

    def run(
        self, tracks: Sequence[Asked], find: Finder, journal: Path, report: Report | None = None
    ) -> list[SampleOutcome]:
        """Ask about all tracks; an interrupted run goes on with what the journal holds."""
        lengths: list[float | None] = list(self.plan.lengths) or [None]
        tasks = [(track, length) for track in tracks for length in lengths]
        journal.parent.mkdir(parents=True, exist_ok=True)
        done = _read(journal)
        with journal.open("a") as file:
            for number, (track, length) in enumerate(tasks, 1):
                key = f"{track.file} {length}"
                if key not in done:
                    without = self.akin(track)
                    done[key] = answer(self.folder, track, find, length=length, without=without)
                    file.write(json.dumps([key, asdict(done[key])]) + "\n")
                    file.flush()
                if report:
                    report(number, len(tasks))
        return [self.scored(track, done[f"{track.file} {length}"]) for track, length in tasks]

    def akin(self, track: Any) -> Collection[str]:
        """Return recordings that are neither right nor wrong for a track."""
        return ()

    def scored(self, track: Any, outcome: SampleOutcome) -> SampleOutcome:
        """Return an outcome with all that its scores need to know."""
        return outcome


class SampleEvaluation(SampleBenchmark):
    """The tracks of a plan, made of a crate."""

    plan: SamplePlan

    def __init__(
        self,
        corpora: Sequence[Path],
        folder: Path,
        plan: SamplePlan,
        distractors: Sequence[Path] = (),
    ) -> None:
        """Take corpora and packs, and a folder that holds the tracks that were made."""
        self.crate: Crate = open_crate(corpora, split=plan.split, seed=plan.seed)
        references = {r.file.path: r.file.file for r in self.crate.references}
        super().__init__(folder, plan, references, distractors)
        self.sources = {r.file.file: r for r in self.crate.references}
        self.groups = {r.file.file: r.file.group for r in self.crate.references}
        others = [Path(name) for name in self.names.values() if name not in self.references]
        self.groups |= {str(path): group for path, group in groups_of(others).items()}
        self._known = lru_cache(maxsize=32)(levels_of)

    def make(self, report: Report | None = None) -> list[Written]:
        """Make the tracks that are not there yet; return all."""
        plan = self.plan
        return write_productions(
            self.folder,
            self.crate,
            plan.n_tracks,
            seed=plan.seed,
            n_free=plan.n_free,
            seconds=plan.seconds,
            report=report,
        )

    def akin(self, track: Written) -> Collection[str]:
        """Return recordings that share material with a track but are not sampled.

        Files of one group are never negatives of each other: another rendering of a score that is
        sampled, or laid over, is neither right nor wrong.
        """
        held = {use.group for use in track.uses} | {o.group for o in track.overlays if o.group}
        sampled = {use.file for use in track.uses}
        return {f for f, group in self.groups.items() if group in held and f not in sampled}

    def scored(self, track: Written, outcome: SampleOutcome) -> SampleOutcome:
        """Return an outcome that knows where recordings repeat what is sampled."""
        sampled = {use.file for use in track.uses}
        known = [
            self._placed(r, track, outcome.start) if r.file in sampled else r
            for r in outcome.ranking
        ]
        return replace(outcome, ranking=known)

    def _placed(self, ranked: Ranked, track: Written, start: float) -> Ranked:
        """Return a right answer, knowing whether the sound at its places is what is sampled.

        Of a recording with stems the part that is sampled must be repeated, of others the mix.
        """
        if not ranked.occurrences:
            return ranked
        uses = [use for use in track.uses if use.file == ranked.file]
        heard = any(
            all(
                repeats(self._known(path), [use], ranked.occurrences, start)
                for path in sampled_sound(self.sources[ranked.file], use.part)
            )
            for use in uses
        )
        return replace(ranked, repeats=heard)


def held_for(method: str) -> list[str]:
    """Return the library's methods that one asks; raises ParameterError for an unknown one.

    "samples+segments" and the like: of samples, where others say where to listen.
    """
    first, *others = method.split("+")
    if first not in METHODS or (others and (first != "samples" or not {*others} <= {*HINTING})):
        hinted = ", ".join(f"samples+{of}" for of in (*HINTING, "+".join(HINTING)))
        raise ParameterError(
            f"unknown method {method!r}; choose from: {', '.join(METHODS)}, {hinted}"
        )
    return ["segments"] if method == "random" else [first, *others]


def journal_name(*facts: Any) -> str:
    """Return the name of a journal that depends on everything given, and on what evidence is."""
    digest = hashlib.sha256(repr((N_FEATURES, *facts)).encode())
    return f"samples-{digest.hexdigest()[:12]}.jsonl"


def _read(journal: Path) -> dict[str, SampleOutcome]:
    """Return what a journal holds, without the line that was being written when it was cut off."""
    text = journal.read_text() if journal.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        journal.write_text(whole)
    done: dict[str, SampleOutcome] = {}
    for line in whole.splitlines():
        key, values = json.loads(line)
        done[key] = SampleOutcome.from_dict(values)
    return done


def fit(outcomes: Sequence[SampleOutcome], *, false_alarms: float = 0.01) -> SampleCalibration:
    """Fit the probability of evidence on made tracks.

    Right and wrong weigh the same at first, which orders them best, though wrong ones are fifty to
    one; then the odds are fitted as they are (Platt 1999), so that a probability is one. The
    threshold is that which a share ``false_alarms`` of sample-free tracks exceeds.
    """
    rows, right, free = [], [], []
    for outcome in outcomes:
        sampled = {use.file for use in relevant(outcome)}
        heard = [r for r in outcome.ranking if r.features]
        rows += [r.features for r in heard]
        right += [r.file in sampled for r in heard]
        if not outcome.uses:
            free.append([r.features for r in heard])
    x, y = np.array(rows).reshape(-1, N_FEATURES), np.array(right, bool)
    if not y.any() or y.all() or not free:
        raise ParameterError(
            "calibration needs tracks that sample something and tracks that do not"
        )
    weights = newton(x, y, balanced(y, np.ones(len(x))), ridge=RIDGE)
    odds = np.stack([np.ones(len(x)), x @ weights], axis=1)
    shift, slope = newton(odds, y, np.ones(len(x)), ridge=RIDGE)
    weights = slope * weights + shift * (np.arange(N_FEATURES) == 0)  # the first feature is one
    tops = [float(logistic(np.array(of) @ weights).max()) if of else 0.0 for of in free]
    return SampleCalibration(
        tuple(round(float(w), 5) for w in weights),
        round(float(np.clip(np.quantile(tops, 1 - false_alarms), 0.01, 0.9999)), 5),
        false_alarms,
        len(outcomes),
        len(free),
    )
