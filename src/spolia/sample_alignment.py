"""How a sample was played: pitch, tempo and exact place, from two spectrograms. Pure.

On a logarithmic frequency axis a change of pitch is a shift of the bands, a change of tempo a
stretch of the frames. A patch of the query is correlated with a stretch of the recording over a
grid of both and over all lags. Levels are taken above their surroundings and rising ones count
double, as in :mod:`spolia.spectral_alignment`, so that what lies over the sample counts little:
where it hides the sample it adds nothing, and elsewhere it correlates with nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spolia.spectral_alignment import running_mean, vertex

Samples = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Bands = npt.NDArray[np.float32]  # [shape=(n_frames, N_BANDS)]

SAMPLE_RATE = 16000  # Hz
N_FFT = 2048  # 128 ms
HOP = 256
FRAME = HOP / SAMPLE_RATE  # 16 ms
BANDS_PER_SEMITONE = 2
LOWEST, N_BANDS = 80.0, 156  # Hz, and 6.5 octaves up to 7.1 kHz
SURROUND_FRAMES, SURROUND_BANDS = 16, 12  # a quarter second and half an octave on either side
RISE_FRAMES = 2  # over which a level rises

SLOWEST, QUICKEST = 0.64, 1.58  # tempo ratios that are looked for
TEMPO_STEP = 0.025  # of the first search, natural logarithm
MOST_SEMITONES = 8
COARSE = 3  # frames in one of the first search


@dataclass(frozen=True)
class Played:
    """How a stretch of a recording sounds in a query: t_recording = tempo · t_query + offset."""

    offset: float  # seconds
    tempo: float  # seconds of the recording per second of the query
    semitones: float  # how much higher the query sounds
    correlation: float  # from -1 to 1
    z: float  # the same, in standard deviations of what other pitches, tempos and lags reach


def levels(samples: Samples) -> Bands:
    """Return levels above their surroundings, and their rise, a row every FRAME.

    samples: float32 at SAMPLE_RATE [shape=(n_samples,)]; row i is centred on i · FRAME seconds.
    """
    window = np.hanning(N_FFT + 1)[:-1].astype(np.float32)
    padded = np.pad(samples.astype(np.float32), N_FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]
    level = np.empty((len(frames), N_BANDS), np.float32)
    left, share = _band_places()
    for start in range(0, len(frames), 2048):
        spectrum = np.fft.rfft(frames[start : start + 2048] * window)
        power = np.log(np.square(spectrum.real) + np.square(spectrum.imag) + 1e-6)
        part = power[:, left] * (1 - share) + power[:, left + 1] * share
        level[start : start + 2048] = part
    around = running_mean(running_mean(level, SURROUND_BANDS, axis=1), SURROUND_FRAMES, axis=0)
    above = np.maximum(level - around, 0.0)
    rise = np.zeros_like(above)
    rise[RISE_FRAMES:] = np.maximum(above[RISE_FRAMES:] - above[:-RISE_FRAMES], 0.0)
    return np.asarray(above + rise, np.float32)


def _band_places() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    steps = np.arange(N_BANDS) / (12 * BANDS_PER_SEMITONE)
    place = LOWEST * 2.0**steps * N_FFT / SAMPLE_RATE
    left = np.minimum(np.floor(place).astype(np.int64), N_FFT // 2 - 1)
    return left, (place - left).astype(np.float32)


def find(
    query: Bands, recording: Bands, *, start: float, place: float, reach: float
) -> Played | None:
    """Return how a patch of a query plays a recording; None where either is silent.

    query: levels of the patch, its first row at ``start`` seconds of the query; recording: of the
    whole recording; place: seconds of the recording that are thought to sound at the patch's
    middle; reach: seconds by which that may be wrong.
    """
    tempos = np.exp(np.arange(np.log(SLOWEST), np.log(QUICKEST), TEMPO_STEP))
    shifts = np.arange(
        -MOST_SEMITONES * BANDS_PER_SEMITONE, MOST_SEMITONES * BANDS_PER_SEMITONE + 1
    )
    patch = _joined(query, COARSE)
    coarse = _Search(patch, _joined(recording, COARSE), place, COARSE * FRAME)
    found = coarse.correlate(tempos, shifts[::BANDS_PER_SEMITONE], reach)
    if found is None:
        return None
    i, j, k = (int(n) for n in np.unravel_index(int(found.argmax()), found.shape))
    mean, deviation = float(found.mean()), float(found.std())
    best = float(found[i, j, k])
    z = (best - mean) / max(deviation, 1e-6)
    middle = place + (k - coarse.reach(reach)) * COARSE * FRAME
    return _sharpen(
        query, recording, tempos[i], int(shifts[::BANDS_PER_SEMITONE][j]), middle, start, z
    )


def _sharpen(
    query: Bands, recording: Bands, tempo: float, shift: int, place: float, start: float, z: float
) -> Played | None:
    """Return the best pitch, tempo and lag near a rough one."""
    seconds = len(query) * FRAME
    for step, n in ((TEMPO_STEP / 3, 3), (min(TEMPO_STEP / 9, 0.02 / seconds), 3)):
        tempos = tempo * np.exp(step * np.arange(-n, n + 1))
        shifts = shift + np.arange(-2, 3)
        fine = _Search(query, recording, place, FRAME)
        found = fine.correlate(tempos, shifts, 0.15)
        if found is None:
            return None
        i, j, k = (int(m) for m in np.unravel_index(int(found.argmax()), found.shape))
        tempo = float(tempos[i] * np.exp(step * vertex(found[:, j, k], i)))
        lag = (k + vertex(found[i, j], k) - fine.reach(0.15)) * FRAME
        place, best = place + lag, float(found[i, j, k])
        exact = float(shifts[j]) + vertex(found[i, :, k], j)
        shift = int(shifts[j])
    middle = start + (len(query) - 1) * FRAME / 2
    return Played(place - tempo * middle, tempo, exact / BANDS_PER_SEMITONE, best, z)


class _Search:
    """Correlates one patch with a recording around one place."""

    def __init__(self, patch: Bands, recording: Bands, place: float, frame: float) -> None:
        self.patch = patch - patch.mean(0)
        self.recording, self.place, self.frame = recording, place, frame

    def reach(self, seconds: float) -> int:
        """Return lags of one side."""
        return round(seconds / self.frame)

    def correlate(
        self, tempos: Floats, shifts: npt.NDArray[np.int64], seconds: float
    ) -> npt.NDArray[np.float32] | None:
        """Return correlations [shape=(n_tempos, n_shifts, 2 * reach + 1)]; None of silence.

        A positive shift is that of a query that sounds higher, by so many bands.
        """
        n, n_bands = self.patch.shape
        scale = float(np.sqrt(np.square(self.patch).sum()))
        if scale < 1e-6 or not self.recording.any():
            return None
        found = np.empty((len(tempos), len(shifts), 2 * self.reach(seconds) + 1), np.float32)
        reach = self.reach(seconds)
        for i, tempo in enumerate(tempos):
            # lags are seconds of the recording, so their number of frames depends on the tempo
            lags = int(np.ceil(reach / tempo)) + 1
            times = (np.arange(n + 2 * lags) - lags - (n - 1) / 2) * self.frame
            played = _at(self.recording, (self.place + tempo * times) / self.frame)
            played = played - played.mean(0)
            size = 1 << (len(times) + 1).bit_length()
            conjugate = np.conj(np.fft.rfft(self.patch, size, axis=0)).astype(np.complex64)
            spectrum = np.fft.rfft(played, size, axis=0).astype(np.complex64)
            energy = np.square(played).sum(0)
            wanted = lags + np.arange(-reach, reach + 1) / tempo
            for j, shift in enumerate(shifts):
                mine = slice(max(0, shift), n_bands + min(0, shift))
                other = slice(max(0, -shift), n_bands + min(0, -shift))
                product = (conjugate[:, mine] * spectrum[:, other]).sum(1)
                line = np.fft.irfft(product, size)[: 2 * lags + 1]
                line = np.interp(wanted, np.arange(len(line)), line)
                norm = np.sqrt(energy[other].sum() * n / len(times)) + 1e-6
                found[i, j] = line / (scale * norm)
        return found


def _at(values: Bands, places: Floats) -> Bands:
    """Return rows at fractional places, interpolated; 0 outside."""
    inside = (places >= 0) & (places <= len(values) - 1)
    left = np.clip(np.floor(places).astype(np.int64), 0, max(len(values) - 2, 0))
    share = np.clip(places - left, 0.0, 1.0).astype(np.float32)[:, None]
    right = np.minimum(left + 1, len(values) - 1)
    return np.asarray((values[left] * (1 - share) + values[right] * share) * inside[:, None])


def _joined(values: Bands, n: int) -> Bands:
    """Return the means of ``n`` rows each; the first is centred on ``(n - 1) / 2``."""
    rows = len(values) // n
    return np.asarray(values[: rows * n].reshape(rows, n, -1).mean(1), np.float32)
