"""What a search returns: places of the query paired with places of recordings that look alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Hits:
    """Places of the query paired with places of recordings, all arrays [shape=(n,)]."""

    recordings: npt.NDArray[np.int32]  # position in the index's ``recording_ids``
    query_times: npt.NDArray[np.float64]  # seconds
    reference_times: npt.NDArray[np.float64]  # seconds
    scores: npt.NDArray[np.float32]  # cosine similarity, or 1.0 for an equal hash

    def __len__(self) -> int:
        """Return the number of hits."""
        return len(self.scores)


def chosen(hits: Hits, wanted: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Hits:
    """Return some of the hits; wanted: which [shape=(n,)], or their numbers."""
    return Hits(
        hits.recordings[wanted],
        hits.query_times[wanted],
        hits.reference_times[wanted],
        hits.scores[wanted],
    )


def joined(parts: Sequence[Hits]) -> Hits:
    """Return several hits as one."""
    return Hits(*(np.concatenate([getattr(of, f.name) for of in parts]) for f in fields(Hits)))


NO_HITS = Hits(np.zeros(0, np.int32), np.zeros(0), np.zeros(0), np.zeros(0, np.float32))
