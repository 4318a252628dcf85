"""Vectors that find samples: one unit vector for four seconds of sound, every half second.

A window's time is that of its beginning. What is shorter than a window is followed by silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from spolia.audio import Audio
from spolia.calibration import UNFITTED, Calibration
from spolia.encoders import DEFAULT_SAMPLE_MODEL, Encoder, open_encoder
from spolia.errors import ParameterError
from spolia.fingerprints.base import UNCHANGED, Change, Fingerprint, Fingerprinter
from spolia.fingerprints.segments import SegmentFingerprinter, Vectors, Window

Rows = npt.NDArray[np.float32]  # columns of nodes [shape=(n_columns, n_rows * d)]
Columns = npt.NDArray[Any]  # the same up to a factor, int8 as stored

QUERY_PHASES = 2  # a query vector every quarter of a second
SHORTEST = 1.0  # seconds of a reference: a loop is shorter than a window
LONG = 90.0  # seconds beyond which a query has one, every half second: it repeats itself


class SampleFingerprinter(SegmentFingerprinter):
    """Makes ``samples`` fingerprints with an encoder."""

    method = "samples"
    phases = QUERY_PHASES
    shortest_seconds = SHORTEST
    query_changes = ()  # the encoder forgives half an octave

    def __init__(
        self, encoder: Encoder | None = None, *, model: str = DEFAULT_SAMPLE_MODEL
    ) -> None:
        super().__init__(encoder or open_encoder(model, kind="sample"))

    @cached_property
    def calibration(self) -> Calibration:
        """None of segments: the card's is of evidence, see ``spolia.samples.calibration_of``."""
        return UNFITTED

    def with_nodes(self, blocks: Iterator[Audio]) -> tuple[Fingerprint, Fingerprint]:
        """Return the fingerprint of blocks, and their columns of nodes as one of ``nodes``.

        Columns of silence are kept. Only where the encoder has short nodes.
        """
        architecture = self.card.architecture
        n, dim = int(architecture["columns"]), int(architecture["node_dim"])
        columns, rest = [np.zeros((0, 0), np.float32)], np.zeros((0, 0), np.float32)

        def encode(window: Window) -> Vectors:
            nonlocal rest
            (vectors,), (nodes,) = self.encoder.with_nodes(window.samples[None])
            kept = nodes[window.n_dropped : window.n_dropped + window.n_kept]
            grid = kept.reshape(len(kept), -1, n, dim).swapaxes(1, 2).reshape(len(kept), n, -1)
            columns.append(grid[:, 0])
            rest = grid[-1, 1:]
            encoded: Vectors = vectors
            return encoded

        found = self._fingerprinted(blocks, encode)
        rows = np.concatenate([*columns[1:], rest]) if columns[1:] else columns[0]
        times = self.hop_seconds * np.arange(len(rows), dtype=np.float64)
        return found, Fingerprint("nodes", self.model_id, times, rows, found.duration)

    def query_with_nodes(self, audio: Audio) -> tuple[Fingerprint, list[Rows]]:
        """Return the fingerprint of a query, and the columns of nodes of each phase.

        A query of more than LONG seconds has one: encoding takes a quarter of the time then.
        """
        columns = list[Rows]()

        def reference(part: Audio) -> Fingerprint:
            found, nodes = self.with_nodes(iter([part]))
            columns.append(nodes.values)
            return found

        return self._query(audio, reference), columns

    def fingerprint_query(self, audio: Audio, change: Change = UNCHANGED) -> Fingerprint:
        """Return vectors at two phases of the hop, one of a query of more than LONG seconds.

        A short query is followed by silence.
        """
        if change != UNCHANGED:
            raise ParameterError(f"queries of samples are not changed ({change})")
        return self._query(audio, self.fingerprint)

    def _n_phases(self, audio: Audio) -> int:
        return 1 if audio.duration > LONG else self.phases

    def _query(self, audio: Audio, reference: Callable[[Audio], Fingerprint]) -> Fingerprint:
        audio = self._checked(audio)
        missing = self.card.segment - len(audio)
        padded = Audio(np.pad(audio.samples, (0, max(0, missing))), audio.sample_rate)
        parts = list(self._phases(padded, reference))
        times = np.concatenate([times for times, _ in parts])
        vectors = np.concatenate([vectors for _, vectors in parts])
        order = np.argsort(times, kind="stable")[: 1 if missing > 0 else None]
        return Fingerprint(self.method, self.model_id, times[order], vectors[order], audio.duration)


def makes_nodes(fingerprinter: Fingerprinter) -> TypeGuard[SampleFingerprinter]:
    """Tell whether nodes short enough to be stored come with a fingerprinter's vectors."""
    return isinstance(fingerprinter, SampleFingerprinter) and fingerprinter.encoder.has_short_nodes
