"""Which recordings a track samples: from hits to samples with all their occurrences. Pure.

A window of a query that holds a sample resembles a window of the recording, whatever lies over it:
that nominates recordings and places. Whether it is really there, and how it was played, the sound
itself says (:mod:`spolia.sample_alignment`, :mod:`spolia.sample_tracing`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from spolia.calibration import logistic
from spolia.errors import ParameterError
from spolia.fingerprints.base import Fingerprint
from spolia.recording import Recording
from spolia.sample_alignment import Played
from spolia.sample_patches import Near, Pair
from spolia.sample_tracing import Occurrence, Trace
from spolia.store.hits import Hits

Transformation = Literal["untouched", "varispeed", "stretched", "pitched", "both"]
Part = Literal["drums", "bass", "harmonic", "mix"]
Floats = npt.NDArray[np.float64]

PITCH_TOLERANCE = 0.25  # semitones that count as none
TEMPO_TOLERANCE = 0.01  # change of the tempo that counts as none
CELL = 6.0  # seconds of a recording within which hits are of one place
N_OF_RECORDING = 3  # places that may be nominated
N_PAIRS = 3  # places of the query that vouch for a nominee
PAIRS_APART = 1.5  # seconds between them
N_FEATURES = 18
MOST_DEVIATIONS = 12.0  # by which a pitch and tempo stand out, as far as that counts


def transformation(semitones: float, tempo_ratio: float) -> Transformation:
    """Name what a change of pitch and tempo is; "varispeed" where the pitch follows the tempo.

    tempo_ratio: seconds of the source per second of the new track, above 0.
    """
    pitched = abs(semitones) > PITCH_TOLERANCE
    stretched = abs(tempo_ratio - 1.0) > TEMPO_TOLERANCE
    coupled = abs(semitones - 12.0 * float(np.log2(tempo_ratio))) <= PITCH_TOLERANCE
    if stretched and coupled:
        return "varispeed"
    if stretched:
        return "both" if pitched else "stretched"
    return "pitched" if pitched else "untouched"


def in_words(name: Transformation) -> str:
    """Return a transformation as people read it."""
    return "pitched and stretched" if name == "both" else name


@dataclass(frozen=True)
class Nominee:
    """A place of a recording that resembles places of the query."""

    recording: int  # position in the index's ``recording_ids``
    pairs: tuple[Pair, ...]  # middles of windows, most similar first
    score: float  # similarity of the first
    agreement: float = 0.0  # of nodes at the first, in deviations; 0: not compared
    logit: float = 0.0  # that its sound is heard, by a classifier; 0: not judged
    standing: float = 0.0  # of its sketch, in deviations; 0: it has none
    near: Near | None = None  # how it is played, where another method found it,
    word: float = 0.0  # and what that says of it, see sample_hints


def nominate(hits: Hits, *, seconds: float, n: int) -> list[Nominee]:
    """Return the places of recordings that resemble the query most.

    seconds: length of a window. Hits within CELL seconds of a recording are one place; the best at
    different times of the query vouch for it. A recording gives few places, so that a long one
    cannot crowd out the others, and its score is that of its best pair, never a sum.
    """
    order = np.argsort(-hits.scores, kind="stable")
    recordings, query = hits.recordings[order], hits.query_times[order] + seconds / 2
    reference, scores = hits.reference_times[order] + seconds / 2, hits.scores[order]
    found: list[Nominee] = []
    for i in distinct(recordings.tolist(), reference.tolist(), n):
        near = (recordings == recordings[i]) & (np.abs(reference - reference[i]) < CELL)
        pairs = apart(query[near], reference[near])
        found.append(Nominee(int(recordings[i]), pairs, float(scores[i])))
    return found


def distinct(recordings: Sequence[int], places: Sequence[float], n: int) -> list[int]:
    """Return positions of the first ``n`` places, few of a recording and CELL seconds apart."""
    kept: list[int] = []
    held: dict[int, list[float]] = defaultdict(list)
    for position, (recording, place) in enumerate(zip(recordings, places, strict=True)):
        others = held[recording]
        if len(others) < N_OF_RECORDING and all(abs(place - other) >= CELL for other in others):
            others.append(place)
            kept.append(position)
            if len(kept) == n:
                break
    return kept


def thinned(nominees: Sequence[Nominee], n: int) -> list[Nominee]:
    """Return the first ``n`` nominees, their places as far apart as :func:`distinct` has them."""
    places = [nominee.pairs[0].recording for nominee in nominees]
    return [nominees[i] for i in distinct([of.recording for of in nominees], places, n)]


def apart(query: Floats, reference: Floats) -> tuple[Pair, ...]:
    """Return the first pairs at different times of the query."""
    kept: list[Pair] = []
    for one, other in zip(query.tolist(), reference.tolist(), strict=True):
        if all(abs(one - pair.query) >= PAIRS_APART for pair in kept):
            kept.append(Pair(one, other))
        if len(kept) == N_PAIRS:
            break
    return tuple(kept)


@dataclass(frozen=True)
class Evidence:
    """What speaks for a recording being sampled."""

    recording_id: str
    score: float  # similarity of the best window
    lead: float  # of that over the best of another recording
    played: Played
    trace: Trace
    agreement: float = 0.0  # of the nominee
    ahead: float = 0.0  # of the best of another recording
    logit: float = 0.0  # of the nominee
    word: float = 0.0  # what another method says of the recording, see sample_hints


def features(evidence: Sequence[Evidence]) -> Floats:
    """Return what the logistic function sees [shape=(n, 18)].

    One, the similarity and its lead, how far pitch and tempo stand out for all patches and for the
    best, the correlation there, how far the places stand out, best and pooled, the agreement of
    nodes, how far it is ahead, 0 of an encoder without short ones; whether the recording is
    untouched, at another speed, stretched or pitched, none of them where it is both, and by how
    much tempo and pitch differ, in octaves: what is found by chance has any pitch and tempo, what
    is sampled mostly one of its own; what another method says of the recording, 0 where that is
    little or nothing; and the logit of a classifier, 0 without one.
    """
    rows = [
        (
            1.0,
            e.score,
            e.lead,
            min(e.played.z, MOST_DEVIATIONS),
            min(e.played.patch_z, MOST_DEVIATIONS),
            e.played.correlation,
            np.log1p(max(e.trace.z, 0.0)),
            np.log1p(max(e.trace.pooled, 0.0)),
            np.log1p(max(e.agreement, 0.0)),
            np.sign(e.ahead) * np.log1p(abs(e.ahead)),
            *changes(e.played.semitones, e.played.tempo),
            e.word,
            e.logit,
        )
        for e in evidence
    ]
    return np.array(rows, np.float64).reshape(-1, N_FEATURES)


def changes(semitones: float, tempo_ratio: float) -> tuple[float, ...]:
    """Return what was done to a recording as six features, see :func:`features`."""
    name = transformation(semitones, tempo_ratio)
    kinds = (float(name == kind) for kind in ("untouched", "varispeed", "stretched", "pitched"))
    return *kinds, abs(float(np.log2(tempo_ratio))), abs(semitones) / 12.0


@dataclass(frozen=True)
class SampleCalibration:
    """A fitted logistic function over the evidence, and where a sample counts as found."""

    weights: tuple[float, ...]  # of features(); see there
    threshold: float  # probability
    false_alarms: float = 0.01  # share of sample-free tracks above the threshold
    n_tracks: int = 0  # it was fitted on
    n_free: int = 0  # of which sample nothing

    def probability(self, evidence: Evidence) -> float:
        """Return the probability that a recording is sampled."""
        return float(logistic(features([evidence])[0] @ np.asarray(self.weights)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a model's metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SampleCalibration:
        """Read what :meth:`to_dict` wrote; raises ParameterError where it is incomplete."""
        try:
            found = cls(**{**values, "weights": tuple(values["weights"])})
        except (KeyError, TypeError) as error:
            raise ParameterError(
                f"not a calibration of samples ({error}); calibrate the model again"
            ) from error
        if len(found.weights) != N_FEATURES:
            raise ParameterError(
                f"a calibration of samples has {N_FEATURES} weights, not {len(found.weights)}; "
                "calibrate the model again"
            )
        return found


# Without a fit: a guess by which one sample-free track in ten seems to sample something. A
# classifier's logit counts half, since it hears much of what the similarity says already.
UNFITTED = SampleCalibration(
    (-13.5, 2.0, 2.0, 0.3, 0.8, 2.0, 0.5, 0.5, 0.5, 0.5, *[0.0] * 6, 0.3, 0.5), 0.9
)


def calibration_of(values: Mapping[str, Any]) -> SampleCalibration:
    """Return the calibration of a model's card, or a rough one for a model without."""
    return SampleCalibration.from_dict(values) if values else UNFITTED


@dataclass(frozen=True)
class SampleMatch:
    """A recording that a query samples."""

    recording: Recording
    probability: float  # calibrated on tracks whose samples are known
    score: float  # similarity of the best window
    tempo_ratio: float  # seconds of the recording per second of the query
    semitones: float  # how much higher the query sounds
    part: Part | None  # of the recording that is heard; None: not measured
    occurrences: tuple[Occurrence, ...]  # in order of the query's time, at least one
    features: tuple[float, ...] = ()  # what the probability was computed from
    decided: bool = False  # whether it passed the threshold

    @property
    def transformation(self) -> Transformation:
        """What was done to it."""
        return transformation(self.semitones, self.tempo_ratio)

    @property
    def coverage(self) -> float:
        """Seconds of the query that play the recording."""
        total, end = 0.0, 0.0
        for o in self.occurrences:
            total += max(0.0, o.query_end - max(o.query_start, end))
            end = max(end, o.query_end)
        return total

    def to_dict(self) -> dict[str, Any]:
        """Return the match as it stands in JSON."""
        first = self.occurrences[0]
        return {
            "recording": self.recording.to_dict(),
            "probability": round(self.probability, 4),
            "score": round(self.score, 4),
            "query_start": round(first.query_start, 3),
            "query_end": round(max(o.query_end for o in self.occurrences), 3),
            "reference_start": round(min(o.reference_start for o in self.occurrences), 3),
            "reference_end": round(max(o.reference_end for o in self.occurrences), 3),
            "speed": round(self.tempo_ratio, 4),
            "tempo_ratio": round(self.tempo_ratio, 4),
            "semitones": round(self.semitones, 2),
            "transformation": self.transformation,
            "part": self.part,
            "coverage": round(self.coverage, 3),
            "method": "samples",
            "decided": self.decided,
            "occurrences": [
                {k: round(v, 3) for k, v in asdict(o).items()} for o in self.occurrences
            ],
        }


def match_of(
    recording: Recording, evidence: Evidence, probability: float, part: Part | None
) -> SampleMatch:
    """Return a match; its occurrences, good to a frame, end where the recording does."""
    occurrences = (_within(o, recording.duration) for o in evidence.trace.occurrences)
    return SampleMatch(
        recording,
        probability,
        evidence.score,
        evidence.played.tempo,
        evidence.played.semitones,
        part,
        tuple(occurrences),
        tuple(features([evidence])[0].tolist()),
    )


def _within(occurrence: Occurrence, duration: float) -> Occurrence:
    """Return an occurrence without what it would play beyond a recording's end."""
    o, over = occurrence, occurrence.reference_end - duration
    if over <= 0:
        return o
    tempo = (o.reference_end - o.reference_start) / (o.query_end - o.query_start)
    return replace(o, query_end=o.query_end - over / tempo, reference_end=duration)


@dataclass(frozen=True)
class Samples:
    """What one query samples."""

    query: str  # its path or name
    duration: float  # seconds
    seconds: float  # time that the answer took
    matches: list[SampleMatch] = field(default_factory=list)  # most probable first
    fingerprint: Fingerprint | None = field(default=None, repr=False)  # of the query

    @property
    def found(self) -> list[SampleMatch]:
        """The matches that passed the threshold."""
        return [match for match in self.matches if match.decided]

    @property
    def decided(self) -> bool:
        """Whether a match passed the threshold."""
        return bool(self.found)

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as it stands in JSON."""
        return {
            "query": self.query,
            "duration": round(self.duration, 3),
            "seconds": round(self.seconds, 4),
            "decided": self.decided,
            "matches": [match.to_dict() for match in self.matches],
        }
