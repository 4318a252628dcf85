"""A recording's levels in small, and whether a sample may be in it. Pure.

An encoder's vector of a window under a loud bed is near many windows of other recordings. Comparing
sound tells them apart, but decoding and comparing hundreds of places takes too long. A sketch has a
row every 96 ms and a band a semitone, 78 bytes a row: a place is heard in a hundredth of a second.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spolia.sample_alignment import BANDS_PER_SEMITONE, FRAME, N_BANDS, joined
from spolia.sample_patches import Bands, Pair, Patches

FRAMES = 6  # of levels in a row of a sketch
ROW = FRAMES * FRAME  # 96 ms
WIDTH = N_BANDS // BANDS_PER_SEMITONE  # bands of a sketch, one a semitone
PATCH = 4.0  # seconds of the query that are compared at once, fewer of a shorter one
REACH = 6.0  # seconds by which a place may be wrong
TEMPO_STEP = 0.04  # natural logarithm
N_HELD = 64  # patches that stay prepared, 1.4 MB each


def sketch(levels: Bands) -> Bands:
    """Return rows of a sketch, float32 [shape=(n, WIDTH)], from levels of sound.

    levels: see :func:`spolia.sample_alignment.levels`; row i is centred on (i + 0.42) · ROW.
    """
    return joined(levels, FRAMES)


class Screen:
    """Tells how well places of recordings fit a query, by their sketches."""

    def __init__(self, heard: Bands) -> None:
        """Take the levels of the query."""
        first = (FRAMES - 1) / 2 * FRAME
        self.patches = Patches(
            sketch(heard),
            ROW,
            first=first,
            seconds=min(PATCH, FRAME * len(heard)),
            reach=REACH,
            tempo_step=TEMPO_STEP,
            n_held=N_HELD,
        )

    def standing(self, recording: Bands, pairs: Sequence[Pair]) -> float:
        """Return by how much one pitch and tempo stands out where pairs of places lie.

        recording: its sketch; pairs: places of one stretch, see :class:`Pair`. In standard
        deviations of all pitches and tempos, for all patches of the query together; -inf where
        nothing sounds.
        """
        middle = float(np.mean([pair.recording for pair in pairs]))
        found = self.patches.fit(recording, [Pair(pair.query, middle) for pair in pairs])
        return -np.inf if found is None else found.z
