"""Short nodes: what a classifier compares, kept beside the vectors of ``samples``.

An encoder that is convolutional in time makes a column of nodes every hop, and a window of seven of
them. So a recording's columns, one row each in 8 bits, stand for the nodes of all its windows: 704
bytes every 0.512 s, 5 MB an hour. They are not searched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from spolia.audio import Audio
from spolia.calibration import UNFITTED, Calibration
from spolia.encoders import ModelCard
from spolia.errors import ParameterError
from spolia.fingerprints.base import UNCHANGED, Change, Fingerprint
from spolia.fingerprints.samples import Columns, Rows, SampleFingerprinter


class NodeFingerprinter:
    """Keeps the nodes that the encoder of samples makes on its way to vectors."""

    method = "nodes"
    accompanies = "samples"
    confirmation = None
    calibration: Calibration = UNFITTED
    delay: Mapping[str, Any] = MappingProxyType({})
    query_changes: Sequence[Change] = ()

    def __init__(self, samples: SampleFingerprinter) -> None:
        """Take the fingerprinter of samples, whose encoder has short nodes."""
        self.samples = samples
        self.model_id, self.sample_rate = samples.model_id, samples.sample_rate
        self.hop_seconds = self.segment_seconds = samples.hop_seconds

    def both(self, blocks: Iterator[Audio]) -> tuple[Fingerprint, Fingerprint]:
        """Return the fingerprint of samples and this one, of one pass."""
        return self.samples.with_nodes(blocks)

    def fingerprint(self, audio: Audio) -> Fingerprint:
        """Return the columns of a recording."""
        return self.fingerprint_blocks(iter([audio]))

    def fingerprint_blocks(self, blocks: Iterator[Audio]) -> Fingerprint:
        """Return the columns of consecutive blocks in bounded memory."""
        return self.both(blocks)[1]

    def fingerprint_query(self, audio: Audio, change: Change = UNCHANGED) -> Fingerprint:
        """Return the columns of a query."""
        if change != UNCHANGED:
            raise ParameterError(f"nodes are not made of changed queries ({change})")
        return self.fingerprint(audio)


def nodes_at(rows: Columns, starts: Sequence[float], card: ModelCard) -> Rows:
    """Return node matrices of windows, float32 [shape=(n, n_nodes, d)].

    rows: a recording's columns; starts: seconds at which windows begin; the nearest column begins
    them, and zeros follow where columns end.
    """
    n, dim = int(card.architecture["columns"]), int(card.architecture["node_dim"])
    first = np.round(np.asarray(starts) * card.sample_rate / card.hop).astype(np.int64)
    places = np.maximum(first, 0)[:, None] + np.arange(n)
    inside = places < len(rows)
    found = rows[np.where(inside, places, 0)] * inside[:, :, None]
    grid = found.reshape(len(first), n, -1, dim).transpose(0, 2, 1, 3)
    return np.asarray(grid.reshape(len(first), -1, dim), np.float32)
