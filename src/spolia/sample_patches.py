"""Looks for patches of a query in recordings, at any pitch and tempo. Pure.

On a logarithmic frequency axis a change of pitch is a shift of the bands, a change of tempo a
stretch of the rows. A patch is stretched to every tempo and Fourier-transformed by one matrix; each
stretch of a recording is transformed once, and one matrix product for each frequency of the rows'
courses gives the spectra of the correlations at all pitches and tempos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from spolia.spectral_alignment import rows_at

Floats = npt.NDArray[np.floating]
Bands = npt.NDArray[np.float32]  # [shape=(n_rows, n_bands)]
Complex = npt.NDArray[np.complex64]

SLOWEST, QUICKEST = 0.64, 1.58  # tempo ratios that are looked for
MOST_SEMITONES = 8
NEAR_SEMITONES, NEAR_SECONDS = 2, 0.35  # by which what is known may be wrong
SILENT = 1e-6  # energy below which nothing sounds


@dataclass(frozen=True)
class Pair:
    """Two places that are thought to sound alike."""

    query: float  # seconds, the middle of a patch
    recording: float  # seconds, what sounds there


@dataclass(frozen=True)
class Near:
    """How a recording is played, as another method found it."""

    semitones: float  # how much higher the query sounds
    tempo: float  # seconds of the recording per second of the query
    doubt: float  # largest error of the tempo's natural logarithm


@dataclass(frozen=True)
class Fit:
    """How well patches of one query fit a recording, together."""

    semitones: int  # how much higher the query sounds
    tempo: float  # seconds of the recording per second of the query
    pair: Pair  # the middle of the patch that fits best there, and where it does
    correlation: float  # there, from -1 to 1
    z: float  # of all patches, in standard deviations of what other pitches and tempos reach
    patch_z: float  # of the best, in standard deviations of what pitches, tempos and lags reach


class Patches:
    """Patches of a query, prepared to be looked for."""

    def __init__(
        self,
        rows: Bands,
        row: float,
        *,
        first: float,
        seconds: float,
        reach: float,
        tempo_step: float,
        n_held: int,
    ) -> None:
        """Take the levels of a query, one band a semitone.

        row: seconds between rows, of recordings too; first: seconds of the first; seconds: the
        length of a patch; reach: seconds by which places may be wrong; tempo_step: natural
        logarithm; n_held: patches that stay prepared.
        """
        self.rows, self.row, self.first, self.n_bands = rows, row, first, rows.shape[1]
        self.tempos = np.exp(np.arange(np.log(SLOWEST), np.log(QUICKEST), tempo_step))
        self.half = round(seconds / row / 2)
        self.longest = round(seconds / row * QUICKEST)  # rows of a patch as a recording has it
        self.n_lags = 2 * round(reach / row) + 1
        self.n_rows = self.longest + self.n_lags - 1  # of a recording that are compared
        self.size = fast_size(self.n_rows)  # of Fourier transforms
        self._patch = lru_cache(maxsize=n_held)(self._prepared)
        self._stretches = lru_cache(maxsize=4)(self._stretched)

    def fit(self, recording: Bands, pairs: Sequence[Pair], near: Near | None = None) -> Fit | None:
        """Return how a recording is played where pairs of places lie; None where nothing sounds.

        recording: its levels, rows as the query's. All patches have one pitch and tempo, which the
        largest sum of their best correlations shows. near: where that is looked for, instead of
        everywhere; how far it stands out is measured everywhere.
        """
        within = self._within(near)
        spectra = {pair.recording: self._spectrum(recording, pair.recording) for pair in pairs}
        found = []
        for pair in pairs:
            patch, spectrum = self._patch(round(pair.query / self.row)), spectra[pair.recording]
            if patch is not None and spectrum is not None:
                lines = self._lines(patch, *spectrum)
                found.append((pair, lines, max(float(lines.std()), 1e-9)))
        if not found:
            return None
        total = np.sum([(of.max(2) - of.mean()) / deviation for _, of, deviation in found], axis=0)
        inner = [(of[within].max(2) - of.mean()) / deviation for _, of, deviation in found]
        best = np.sum(inner, axis=0)
        i, j = (int(n) for n in np.unravel_index(int(best.argmax()), best.shape))
        (pair, lines, _), heights = max(
            zip(found, inner, strict=True), key=lambda of: float(of[1][i, j])
        )
        heard = lines[within][i, j]
        first = [axis.start or 0 for axis in within]
        return Fit(
            i + first[0] - MOST_SEMITONES,
            float(self.tempos[j + first[1]]),
            self._placed(pair, int(heard.argmax()) + first[2]),
            float(heard.max()),
            float((best[i, j] - total.mean()) / max(float(total.std()), 1e-6)),
            float(heights[i, j]),
        )

    def _within(self, near: Near | None) -> tuple[slice, slice, slice]:
        """Return the pitches, tempos and lags that are looked at."""
        if near is None:
            return slice(None), slice(None), slice(None)
        tempo = int(np.abs(np.log(self.tempos / near.tempo)).argmin())
        middles = round(near.semitones) + MOST_SEMITONES, tempo, self.n_lags // 2
        sizes = 2 * MOST_SEMITONES + 1, len(self.tempos), self.n_lags
        beside = int(np.ceil(near.doubt / np.log(self.tempos[1] / self.tempos[0])))
        ranges = NEAR_SEMITONES, beside, max(1, round(NEAR_SECONDS / self.row))
        held = (min(max(middle, 0), size - 1) for middle, size in zip(middles, sizes, strict=True))
        pitches, tempos, lags = (
            slice(max(0, middle - reach), middle + reach + 1)
            for middle, reach in zip(held, ranges, strict=True)
        )
        return pitches, tempos, lags

    def forget(self) -> None:
        """Drop what is prepared, which would stay until the garbage collector finds the cycle."""
        self._patch.cache_clear()
        self._stretches.cache_clear()

    def _placed(self, pair: Pair, lag: int) -> Pair:
        """Return the middle of a pair's patch, and what sounds there at a lag, in seconds."""
        rows = np.arange(len(self.rows))[self._around(round(pair.query / self.row))]
        moved = (lag - self.n_lags // 2) * self.row
        return Pair(float(rows.mean()) * self.row + self.first, pair.recording + moved + self.first)

    def _around(self, row: int) -> slice:
        """Return the rows of a patch; a short query's window may be centred beyond its end."""
        row = min(row, max(self.half, len(self.rows) - self.half))
        return slice(max(0, row - self.half), row + self.half)

    def _prepared(self, row: int) -> Complex | None:
        """Return the spectra of a patch at all tempos [shape=(n_bins, n_bands, n_tempos)]."""
        patch = self.rows[self._around(row)]
        patch = patch - patch.mean(0) if len(patch) else patch
        if len(patch) < self.half or float(np.square(patch).sum()) < SILENT:
            return None
        stretched, transformed = self._stretches(len(patch))
        played = stretched @ patch  # (n_tempos, longest, n_bands)
        n_played = np.count_nonzero(played.any(2), axis=1)
        scale = np.sqrt(np.square(played).sum((1, 2)) * n_played)
        spectra = transformed @ patch  # real and imaginary parts
        spectra /= np.maximum(scale, 1e-9)[:, None]
        return np.asarray(spectra[0] + 1j * spectra[1], np.complex64).swapaxes(1, 2)

    def _stretched(self, n: int) -> tuple[Bands, Bands]:
        """Return what stretches a patch of ``n`` rows to all tempos, and its Fourier transform.

        Shapes (n_tempos, longest, n), and (2, n_bins, n_tempos, n): the conjugate's parts.
        """
        away = np.arange(self.longest) - (self.longest - 1) / 2
        one = np.eye(n, dtype=np.float32)
        every = np.stack([rows_at(one, away / tempo + (n - 1) / 2) for tempo in self.tempos])
        spectra = np.conj(np.fft.rfft(every, self.size, axis=1)).swapaxes(0, 1)
        return every, np.stack([spectra.real, spectra.imag]).astype(np.float32)

    def _spectrum(self, recording: Bands, place: float) -> tuple[Complex, Bands] | None:
        """Return spectra at all pitches, and roots of a row's energy; None of silence.

        Spectra: [shape=(n_bins, n_shifts, n_bands)]; roots: [shape=(n_shifts,)].
        """
        known = rows_at(
            recording, place / self.row - (self.n_rows - 1) / 2 + np.arange(self.n_rows)
        )
        known = known - known.mean(0)
        energy = np.concatenate([[0.0], np.cumsum(np.square(known).sum(0))])
        if energy[-1] < SILENT:
            return None
        spectrum = np.fft.rfft(known.T, self.size).astype(np.complex64)
        padded = np.pad(spectrum.T, ((0, 0), (MOST_SEMITONES, MOST_SEMITONES)))
        shifted = np.lib.stride_tricks.sliding_window_view(padded, self.n_bands, axis=1)
        # The query sounds higher by -MOST_SEMITONES first: its lowest band is one of the recording
        # that is as much higher.
        shifted = np.ascontiguousarray(shifted[:, ::-1])
        shifts = np.arange(-MOST_SEMITONES, MOST_SEMITONES + 1)
        low, high = np.maximum(0, -shifts), self.n_bands + np.minimum(0, -shifts)
        per_row = (energy[high] - energy[low]) / self.n_rows
        return shifted, np.sqrt(per_row).astype(np.float32) + 1e-6

    def _lines(self, patch: Complex, shifted: Complex, norm: Bands) -> Bands:
        """Return correlations [shape=(n_shifts, n_tempos, n_lags)]."""
        product = (shifted @ patch).transpose(1, 2, 0)
        lines = np.fft.irfft(product, self.size)[:, :, : self.n_lags]
        return np.asarray(lines / norm[:, None, None], np.float32)


def fast_size(n: int) -> int:
    """Return a length from ``n`` on that a Fourier transform is fast at: 2, 3, 9 times 2^k."""
    return min(m << max(0, (-(-n // m) - 1).bit_length()) for m in (1, 3, 9))
