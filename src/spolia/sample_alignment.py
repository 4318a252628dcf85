"""How a sample was played: pitch, tempo and exact place, from two spectrograms. Pure.

On a logarithmic frequency axis a change of pitch is a shift of the bands, a change of tempo a
stretch of the frames. A patch of the query is correlated with a stretch of the recording over a
grid of both and over all lags. Levels are taken above their surroundings and rising ones count
double, as in :mod:`spolia.spectral_alignment`, so that what lies over the sample counts little:
where it hides the sample it adds nothing, and elsewhere it correlates with nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from spolia.sample_patches import Bands, Floats, Near, Pair, Patches, fast_size
from spolia.spectral_alignment import rows_at, standing_out, vertex

Samples = npt.NDArray[np.float32]

SAMPLE_RATE = 16000  # Hz
N_FFT = 2048  # 128 ms
HOP = 256
FRAME = HOP / SAMPLE_RATE  # 16 ms
BANDS_PER_SEMITONE = 2
LOWEST, N_BANDS = 80.0, 156  # Hz, and 6.5 octaves up to 7.1 kHz
SURROUND_BANDS = 12  # half an octave on either side
AT_ONCE = 64  # frames that are transformed, 0.5 MB, which the cache holds
QUIET = 0.1  # of a band's mean power: what is far below it counts as silence

TEMPO_STEP = 0.025  # of the first search, natural logarithm
COARSE = 3  # frames in one of the first search
N_HELD = 64  # patches of it that stay prepared, 4.4 MB each
POLISH_STEP = 0.004  # of the last search, natural logarithm
SNAP, MEANT = 0.03, 0.98  # a tempo that is as near, and fits as well, as that is meant
SHARP = 0.15  # seconds by which the first search's place may be off


@dataclass(frozen=True)
class Played:
    """How a stretch of a recording sounds in a query: t_recording = tempo · t_query + offset."""

    offset: float  # seconds
    tempo: float  # seconds of the recording per second of the query
    semitones: float  # how much higher the query sounds
    middle: float  # seconds of the query: of the patch that fits best
    correlation: float  # there, from -1 to 1
    patch_z: float  # there, in standard deviations of what other pitches, tempos and lags reach
    z: float  # of all patches, in standard deviations of what other pitches and tempos reach


def levels(samples: Samples) -> Bands:
    """Return levels above their surroundings, and their rise, a row every FRAME.

    samples: float32 at SAMPLE_RATE [shape=(n_samples,)]; row i is centred on i · FRAME seconds.
    """
    power = powers(samples)
    return standing_out(np.log(power + QUIET * power.mean(0) + 1e-6), SURROUND_BANDS)


def powers(
    samples: Samples, *, hop: int = HOP, lowest: float = LOWEST, n_bands: int = N_BANDS
) -> Bands:
    """Return the power of bands from ``lowest`` Hz up, a row every ``hop`` samples."""
    window = np.hanning(N_FFT + 1)[:-1].astype(np.float32)
    padded = np.pad(samples.astype(np.float32), N_FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::hop]
    power = np.empty((len(frames), n_bands), np.float32)
    left, share = _band_places(lowest, n_bands)
    for start in range(0, len(frames), AT_ONCE):
        spectrum = np.fft.rfft(frames[start : start + AT_ONCE] * window)
        square = np.square(spectrum.real) + np.square(spectrum.imag)
        part = square[:, left] * (1 - share) + square[:, left + 1] * share
        power[start : start + AT_ONCE] = part
    return power


def _band_places(
    lowest: float, n_bands: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    steps = np.arange(n_bands) / (12 * BANDS_PER_SEMITONE)
    place = lowest * 2.0**steps * N_FFT / SAMPLE_RATE
    left = np.minimum(np.floor(place).astype(np.int64), N_FFT // 2 - 1)
    return left, (place - left).astype(np.float32)


def patches_of(query: Bands, *, seconds: float, reach: float) -> Patches:
    """Return patches of a query, to be looked for in recordings' levels joined by COARSE.

    query: its levels; seconds: the length of a patch; reach: seconds by which places may be wrong.
    """
    return Patches(
        joined(query, COARSE),
        COARSE * FRAME,
        first=(COARSE - 1) / 2 * FRAME,
        seconds=seconds,
        reach=reach,
        tempo_step=TEMPO_STEP,
        n_held=N_HELD,
    )


def find(
    query: Bands, recording: Bands, pairs: Sequence[Pair], *, seconds: float, reach: float
) -> Played | None:
    """Return how a query plays a recording, by patches around pairs of places.

    query, recording: levels of the whole; pairs: of one sample, the likeliest first; seconds: the
    length of a patch; reach: seconds by which the places may be wrong. None where nothing sounds.
    """
    near = rough(patches_of(query, seconds=seconds, reach=reach), recording, pairs)
    return None if near is None else sharpened(query, recording, near, seconds=seconds)


def rough(
    patches: Patches, recording: Bands, pairs: Sequence[Pair], near: Near | None = None
) -> Played | None:
    """Return roughly how a query plays a recording, by patches around pairs of places.

    patches: of the query, see :func:`patches_of`; recording: levels of the whole; pairs: of one
    sample, the likeliest first; near: how it is played, where that is known. None where nothing
    sounds. The place is that of the patch that fits best.
    """
    found = patches.fit(joined(recording, COARSE), pairs, near)
    if found is None:
        return None
    return Played(
        found.pair.recording - found.tempo * found.pair.query,
        found.tempo,
        float(found.semitones),
        found.pair.query,
        found.correlation,
        found.patch_z,
        found.z,
    )


def _patch(query: Bands, middle: float, seconds: float) -> tuple[Bands, float]:
    """Return rows around a place of the query, and the seconds of the first."""
    first = max(0, round((middle - seconds / 2) / FRAME))
    last = min(len(query), round((middle + seconds / 2) / FRAME))
    return query[first:last], first * FRAME


def sharpened(query: Bands, recording: Bands, near: Played, *, seconds: float) -> Played:
    """Return the pitch, tempo and place of the patch that was found, frame by frame.

    near: what :func:`rough` found; seconds: the length of a patch.
    """
    patch, start = _patch(query, near.middle, seconds)
    middle = start + (len(patch) - 1) * FRAME / 2
    tempo, shift, exact = near.tempo, round(near.semitones * BANDS_PER_SEMITONE), 0.0
    place, best = tempo * middle + near.offset, 0.0
    search = _Search(patch, recording, FRAME)
    for step in (TEMPO_STEP / 3, min(TEMPO_STEP / 9, 0.02 / (len(patch) * FRAME))):
        tempos = tempo * np.exp(step * np.arange(-3, 4))
        shifts = shift + np.arange(-2, 3)
        found = search.correlate(place, tempos, shifts, SHARP)
        if found is None:
            return near
        i, j, k = (int(m) for m in np.unravel_index(int(found.argmax()), found.shape))
        tempo = float(tempos[i] * np.exp(step * vertex(found[:, j, k], i)))
        place += (k + vertex(found[i, j], k) - found.shape[2] // 2) * FRAME
        best, exact, shift = (
            float(found[i, j, k]),
            float(shifts[j]) + vertex(found[i, :, k], j),
            int(shifts[j]),
        )
    semitones = exact / BANDS_PER_SEMITONE
    offset = place - tempo * middle
    return replace(
        near, offset=offset, tempo=tempo, semitones=semitones, middle=middle, correlation=best
    )


def polish(
    query: Bands, recording: Bands, pairs: Sequence[Pair], near: Played, *, seconds: float
) -> Played:
    """Return pitch, tempo and place more exactly, from patches that hold nothing but the sample.

    pairs: middles of occurrences; seconds: their length. Most samples are untouched or played at
    another speed, pitch and all; where such a tempo fits nearly as well as the best, it is meant.
    """
    middle = round(near.semitones * BANDS_PER_SEMITONE)
    shifts = middle + np.arange(-2, 3)
    coupled = 2.0 ** (near.semitones / 12)
    tempos = np.append(near.tempo * np.exp(POLISH_STEP * np.arange(-8, 9)), [1.0, coupled])
    fits = []
    for pair in pairs:
        patch, start = _patch(query, pair.query, seconds)
        found = _Search(patch, recording, FRAME).correlate(pair.recording, tempos, shifts, SHARP)
        if found is not None:
            fits.append((found, pair, start + (len(patch) - 1) * FRAME / 2))
    if not fits:
        return near
    total = np.mean([found.max(2) for found, *_ in fits], axis=0)  # (n_tempos, n_shifts)
    i, j = (int(n) for n in np.unravel_index(int(total[:-2].argmax()), total[:-2].shape))
    tempo = float(tempos[i] * np.exp(POLISH_STEP * vertex(total[:-2, j], i)))
    for k in (len(tempos) - 2, len(tempos) - 1):
        if abs(np.log(tempos[k] / tempo)) < SNAP and total[k, j] > MEANT * total[i, j]:
            i, tempo = k, float(tempos[k])
            break
    semitones = (float(shifts[j]) + vertex(total[i], j)) / BANDS_PER_SEMITONE
    found, pair, centre = max(fits, key=lambda fit: float(fit[0][i, j].max()))
    best = int(found[i, j].argmax())
    lag = (best + vertex(found[i, j], best) - found.shape[2] // 2) * FRAME
    return replace(
        near,
        offset=pair.recording + lag - tempo * centre,
        tempo=tempo,
        semitones=semitones,
        middle=centre,
        correlation=float(total[i, j]),
    )


class _Search:
    """Correlates one patch with a recording around a place, at few pitches and tempos."""

    def __init__(self, patch: Bands, recording: Bands, frame: float) -> None:
        self.patch = patch - patch.mean(0)
        self.recording, self.frame = recording, frame

    def correlate(
        self, place: float, tempos: Floats, shifts: npt.NDArray[np.int64], seconds: float
    ) -> npt.NDArray[np.float32] | None:
        """Return correlations [shape=(n_tempos, n_shifts, 2 * reach + 1)]; None of silence.

        A positive shift is that of a query that sounds higher, by so many bands.
        """
        (n, n_bands), reach = self.patch.shape, round(seconds / self.frame)
        scale = float(np.sqrt(np.square(self.patch).sum()))
        if scale < 1e-6 or not self.recording.any():
            return None
        found = np.empty((len(tempos), len(shifts), 2 * reach + 1), np.float32)
        # A correlation over shifts and lags at once. Lags are seconds of the recording, so their
        # number of frames depends on the tempo.
        every_lag = [int(np.ceil(reach / tempo)) + 1 for tempo in tempos]
        size = fast_size(n_bands + int(np.abs(shifts).max())), fast_size(n + 2 * max(every_lag))
        conjugate = np.conj(np.fft.rfft2(self.patch.T, size)).astype(np.complex64)
        low, high = np.maximum(0, -shifts), n_bands + np.minimum(0, -shifts)
        for i, (tempo, lags) in enumerate(zip(tempos, every_lag, strict=True)):
            times = (np.arange(n + 2 * lags) - lags - (n - 1) / 2) * self.frame
            played = rows_at(self.recording, (place + tempo * times) / self.frame)
            played = played - played.mean(0)
            spectrum = np.fft.rfft2(played.T, size).astype(np.complex64)
            lines = np.fft.ifft(spectrum * conjugate, axis=0)[-shifts % size[0]]
            lines = np.fft.irfft(lines, size[1])[:, : 2 * lags + 1].astype(np.float32)
            energy = np.concatenate([[0.0], np.cumsum(np.square(played).sum(0))])
            norm = np.sqrt((energy[high] - energy[low]) * n / len(times)) + 1e-6
            wanted = lags + np.arange(-reach, reach + 1) / tempo
            found[i] = rows_at(np.ascontiguousarray(lines.T), wanted).T / (scale * norm[:, None])
        return found


def joined(values: Bands, n: int) -> Bands:
    """Return the means of ``n`` rows and a semitone's bands each.

    The first row is centred on ``(n - 1) / 2``.
    """
    rows, bands = len(values) // n, values.shape[1] // BANDS_PER_SEMITONE
    blocks = values[: rows * n].reshape(rows, n, bands, BANDS_PER_SEMITONE)
    return np.asarray(blocks.mean((1, 3)), np.float32)
