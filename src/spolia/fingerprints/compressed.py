"""AMG-Embedding: one vector for a run of segment vectors, a tenth of the index or less.

A reference's segment vectors are cut into runs of up to ``longest`` vectors that do not overlap, or
overlap by half; the tail is kept, as a run that ends with the recording. A query is cut into runs
that begin at every vector of every phase, because its runs never begin where a reference's do.

Su, Y. et al.: AMG-Embedding: a self-supervised embedding approach for audio identification. ACM MM
2024.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from spolia.audio import Audio
from spolia.calibration import Calibration
from spolia.confirmation import Confirmation
from spolia.encoders import Compressor
from spolia.errors import IncompatibleModel
from spolia.fingerprints.base import UNCHANGED, Change, Fingerprint, Fingerprinter

SHORTEST = 3  # vectors of a run (2 s) below which the tail is joined to the run before
RUN_STEP = 0.25  # of a run's length: how far apart the runs of a long query begin, at most
HALF = "+half"  # behind a model's name or id: runs that overlap by half
BATCH = 256  # runs that are compressed at once

Vectors = npt.NDArray[np.float32]
Times = npt.NDArray[np.float64]


class CompressedFingerprinter:
    """Makes ``compressed`` fingerprints of ``segments`` ones."""

    method = "compressed"
    derives_from = "segments"

    def __init__(
        self, segments: Fingerprinter, compressor: Compressor, *, half_overlap: bool = False
    ) -> None:
        """Take both models; half_overlap: whether a reference's runs overlap by half.

        Raises IncompatibleModel where the compressor was trained on another model's vectors.
        """
        if compressor.card.base != segments.model_id:
            raise IncompatibleModel(
                f"{compressor.path} compresses vectors of {compressor.card.base}, not of "
                f"{segments.model_id}; give the two models that belong together"
            )
        self.segments, self.compressor = segments, compressor
        self.half_overlap = half_overlap

    @property
    def model_id(self) -> str:
        """The compressing model's id, with HALF behind it where runs overlap."""
        return self.compressor.card.id + HALF * self.half_overlap

    @property
    def underlying(self) -> Fingerprinter:
        """What makes the segments."""
        return self.segments

    @property
    def sample_rate(self) -> int:
        """The sample rate in Hz of the sound that segments are made of."""
        return self.segments.sample_rate

    @property
    def hop_seconds(self) -> float:
        """Seconds between the beginnings of a reference's runs."""
        return self._step * self.segments.hop_seconds

    @property
    def span_seconds(self) -> float:
        """Seconds that a whole run covers: between beginnings of runs that do not overlap."""
        return self.compressor.longest * self.segments.hop_seconds

    @property
    def segment_seconds(self) -> float:
        """Seconds of sound that a whole run sees."""
        return self.compressor.card.segment / self.sample_rate

    @cached_property
    def calibration(self) -> Calibration:
        """That of matches by runs alone; the segments' for a compressor that has none."""
        fitted = self.compressor.card.calibration
        return Calibration.from_dict(fitted) if fitted else self.segments.calibration

    @cached_property
    def confirmation(self) -> Confirmation | None:
        """What the recordings' sound adds to it; where that was never fitted, the segments'."""
        fitted = self.compressor.card.calibration.get("confirmation")
        return Confirmation.from_dict(fitted) if fitted else self.segments.confirmation

    @property
    def delay(self) -> Mapping[str, Any]:
        """That of the segments."""
        return self.segments.delay

    @property
    def query_changes(self) -> Sequence[Change]:
        """Those of the segments."""
        return self.segments.query_changes

    def fingerprint(self, audio: Audio) -> Fingerprint:
        """Return the runs' vectors of a reference."""
        return self.derive(self.segments.fingerprint(audio))

    def fingerprint_blocks(self, blocks: Iterator[Audio]) -> Fingerprint:
        """Return the runs' vectors of consecutive blocks of a reference, in bounded memory."""
        return self.derive(self.segments.fingerprint_blocks(blocks))

    def fingerprint_query(self, audio: Audio, change: Change = UNCHANGED) -> Fingerprint:
        """Return the runs' vectors of a query."""
        return self.derive_query(self.segments.fingerprint_query(audio, change))

    def derive(self, segments: Fingerprint) -> Fingerprint:
        """Return the runs of a reference's segment vectors; times are those of their first ones.

        Silent stretches have no vectors: a run covers a span of time, whatever is heard in it.
        """
        hop, longest = self.segments.hop_seconds, self.compressor.longest
        places = np.round(segments.times / hop).astype(np.int64)
        runs = []
        last = int(places[-1]) if len(places) else -1
        ends = max(last + 1 - (longest - self._step), min(last + 1, 1))
        for first in range(0, ends, self._step):
            inside = np.flatnonzero((places >= first) & (places < first + longest))
            if len(inside):
                runs.append(inside)
        if len(runs) > 1 and len(runs[-1]) < SHORTEST:
            runs[-1] = np.flatnonzero((places > last - longest) & (places <= last))
        return self._compressed(segments, runs)

    def derive_query(self, segments: Fingerprint) -> Fingerprint:
        """Return the runs of a query's segment vectors, which stand at several phases of the hop.

        Each phase gives runs of its own, so that a run's vectors are a hop apart. Runs as long as
        possible see most; of half that length, one at least falls into a single stored run. Of
        both, as many are taken, evenly over time, as there are phases, and of long queries one
        every RUN_STEP of a stored run's length.
        """
        hop, longest = self.segments.hop_seconds, self.compressor.longest
        phase = np.round(np.mod(segments.times, hop), 4) % hop
        members = [np.flatnonzero(phase == of) for of in np.unique(phase)]
        most = max(map(len, members), default=0)
        whole = min(longest, most)
        half = max(min(SHORTEST, whole), (whole + 1) // 2)
        parts = []
        for length in sorted({whole, half}):
            n = max(len(members), int(np.ceil((most - length) / (RUN_STEP * longest))) + 1)
            parts.append(self._compressed(segments, _spread(segments, members, length, n)))
        times = np.concatenate([part.times for part in parts])
        values = np.concatenate([part.values for part in parts])
        order = np.argsort(times, kind="stable")
        return replace(parts[0], times=times[order], values=values[order])

    @property
    def _step(self) -> int:
        """Vectors between the beginnings of a reference's runs."""
        longest = self.compressor.longest
        return (longest + 1) // 2 if self.half_overlap else longest

    def _compressed(
        self, segments: Fingerprint, runs: Sequence[npt.NDArray[np.int64]]
    ) -> Fingerprint:
        vectors = [np.zeros((0, self.compressor.card.dim), np.float32)]
        for first in range(0, len(runs), BATCH):
            some = runs[first : first + BATCH]
            lengths = np.array([len(run) for run in some])
            longest = int(lengths.max())  # what lies behind it would be computed for nothing
            values = np.zeros((len(some), longest, segments.values.shape[1]), np.float32)
            for row, run in zip(values, some, strict=True):
                row[: len(run)] = segments.values[run]
            vectors.append(self.compressor.compress(values, np.arange(longest) >= lengths[:, None]))
        times = np.array([segments.times[run[0]] for run in runs], np.float64)
        return Fingerprint(
            self.method, self.model_id, times, np.concatenate(vectors), segments.duration
        )


def _spread(
    segments: Fingerprint, members: Sequence[npt.NDArray[np.int64]], length: int, n: int
) -> list[npt.NDArray[np.int64]]:
    """Return at most ``n`` runs of ``length`` vectors of any phase's members, even over time."""
    runs = [m[i : i + length] for m in members for i in range(max(1, len(m) - length + 1))]
    if len(runs) <= n:
        return runs
    runs.sort(key=lambda run: segments.times[run[0]])
    return [runs[i] for i in np.linspace(0, len(runs) - 1, n).round().astype(int)]
