"""A recording's levels in small, and whether a sample may be in it. Pure.

An encoder's vector of a window under a loud bed is near many windows of other recordings. Comparing
sound tells them apart, but decoding and comparing hundreds of places takes too long. A sketch has a
row every 96 ms and a band a semitone, 78 bytes a row: a place is heard in a hundredth of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from spolia.sample_alignment import (
    BANDS_PER_SEMITONE,
    FRAME,
    MOST_SEMITONES,
    N_BANDS,
    QUICKEST,
    SLOWEST,
    Bands,
    Pair,
    fast_size,
    joined,
)
from spolia.spectral_alignment import rows_at

FRAMES = 6  # of levels in a row of a sketch
ROW = FRAMES * FRAME  # 96 ms
WIDTH = N_BANDS // BANDS_PER_SEMITONE  # bands of a sketch, one a semitone
PATCH = 4.0  # seconds of the query that are compared at once
REACH = 6.0  # seconds by which a place may be wrong
TEMPOS = np.exp(np.arange(np.log(SLOWEST), np.log(QUICKEST), 0.04))
N_HELD = 64  # patches that stay prepared, 1.4 MB each

LONGEST = round(PATCH / ROW * QUICKEST)  # rows of a patch as the recording has it
N_LAGS = round(2 * REACH / ROW) + 1
N_ROWS = LONGEST + N_LAGS - 1  # of a recording that are compared
SIZE = fast_size(N_ROWS)  # of their Fourier transforms

Complex = npt.NDArray[np.complex64]


def sketch(levels: Bands) -> Bands:
    """Return rows of a sketch, float32 [shape=(n, WIDTH)], from levels of sound.

    levels: see :func:`spolia.sample_alignment.levels`; row i is centred on (i + 0.42) · ROW.
    """
    return joined(levels, FRAMES)


class Screen:
    """Tells how well places of recordings fit a query, by their sketches."""

    def __init__(self, heard: Bands) -> None:
        """Take the levels of the query."""
        self.rows = sketch(heard)
        self._patch = lru_cache(maxsize=N_HELD)(self._prepared)

    def standing(self, recording: Bands, pairs: Sequence[Pair]) -> float:
        """Return by how much one pitch and tempo stands out where pairs of places lie.

        recording: its sketch; pairs: places of one stretch, see :class:`Pair`. In standard
        deviations of all pitches and tempos, for all patches of the query together; -inf where
        nothing sounds.
        """
        middle = float(np.mean([pair.recording for pair in pairs]))
        first = middle / ROW - (N_ROWS - 1) / 2
        known = rows_at(recording, first + np.arange(N_ROWS))
        known = known - known.mean(0)
        energy = np.concatenate([[0.0], np.cumsum(np.square(known).sum(0))])
        prepared = (self._patch(round(pair.query / ROW)) for pair in pairs)
        patches = [patch for patch in prepared if patch is not None]
        if energy[-1] < 1e-6 or not patches:
            return -np.inf
        spectrum = np.fft.rfft(known.T, SIZE).astype(np.complex64)  # (WIDTH, n_bins)
        padded = np.pad(spectrum.T, ((0, 0), (MOST_SEMITONES, MOST_SEMITONES)))
        shifted = np.lib.stride_tricks.sliding_window_view(padded, WIDTH, axis=1)
        shifts = MOST_SEMITONES - np.arange(2 * MOST_SEMITONES + 1)  # of the query, upwards
        low, high = np.maximum(0, -shifts), WIDTH + np.minimum(0, -shifts)
        norm = np.sqrt(energy[high] - energy[low]).astype(np.float32) + 1e-6
        shifted = np.ascontiguousarray(shifted)
        heights = [_heights(shifted @ patch, norm) for patch in patches]
        total = np.sum(heights, axis=0)
        return float((total.max() - total.mean()) / max(float(total.std()), 1e-6))

    def _prepared(self, row: int) -> Complex | None:
        """Return the spectra of a patch at all tempos [shape=(n_bins, WIDTH, n_tempos)]."""
        half = round(PATCH / ROW / 2)
        patch = self.rows[max(0, row - half) : row + half]
        patch = patch - patch.mean(0) if len(patch) else patch
        if len(patch) < half or float(np.square(patch).sum()) < 1e-6:
            return None
        spectra = np.zeros((SIZE // 2 + 1, WIDTH, len(TEMPOS)), np.complex64)
        for i, tempo in enumerate(TEMPOS):
            away = (np.arange(LONGEST) - (LONGEST - 1) / 2) / tempo
            played = rows_at(patch, away + (len(patch) - 1) / 2)
            scale = float(np.sqrt(np.square(played).sum() * np.count_nonzero(played.any(1))))
            spectra[:, :, i] = np.conj(np.fft.rfft(played.T / max(scale, 1e-9), SIZE)).T
        return spectra


def _heights(product: Complex, norm: Bands) -> Bands:
    """Return the best correlation of each pitch and tempo, in deviations of all lags' too.

    product: spectra of correlations [shape=(n_bins, n_shifts, n_tempos)]; norm: of the recording
    at each shift.
    """
    lines = np.fft.irfft(product.transpose(1, 2, 0), SIZE)[:, :, :N_LAGS]
    lines = lines / norm[:, None, None]
    deviation = max(float(lines.std()), 1e-9)
    return np.asarray((lines.max(2) - lines.mean()) / deviation, np.float32)
