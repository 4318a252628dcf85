"""Where exactly, how fast and how high a query plays a recording, from both spectrograms. Pure.

Vectors that forgive a room, a pitch and a speed cannot measure them. Where the recording's sound is
at hand, a match is aligned to it: on a logarithmic frequency axis a change of pitch is a shift of
the bands, a change of speed a stretch of the frames, and the best shift, stretch and lag are those
of the largest correlation. Levels are taken above their surroundings, so that noise, equalisers and
microphones count little, and rising levels count as much again: of a sound in a room, the onset is
direct.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
Floats = npt.NDArray[np.floating]
Bands = npt.NDArray[np.float32]

SAMPLE_RATE = 8000  # Hz
N_FFT = 1024  # 128 ms: harmonics a tone apart are separate from 220 Hz on
HOP = 128  # 16 ms
FRAME = HOP / SAMPLE_RATE  # seconds
BANDS_PER_SEMITONE = 3
LOWEST, N_BANDS = 220.0, 140  # Hz, and 3.9 octaves up to 3.3 kHz
SURROUND_FRAMES, SURROUND_BANDS = 16, 18  # a quarter second and half an octave on either side
RISE_FRAMES = 2  # over which a level rises

MOST_BANDS = 5  # by which the pitch may differ from what is known of it: 1.67 semitones
MOST_LAG = 0.4  # seconds by which the place may differ, unless said otherwise
MOST_SPEED = 0.05  # by which the speed may differ,
SPEED_SPREAD = 0.35  # and seconds that such a difference may make over the query
SPEED_STEP = 0.04  # seconds that a step of the speed makes over the query
COARSE = 2  # frames in one of the first search
FINE_STEPS = 4  # of the second search in one of the first
UNCHANGED = 0.98  # share of the largest correlation at which the speed of 1 has another preferred


@dataclass(frozen=True)
class Alignment:
    """The best alignment of a query to a recording: t_recording = speed · t_query + offset."""

    offset: float  # seconds
    speed: float  # seconds of the recording per second of the query
    semitones: float  # how much higher the query sounds
    correlation: float  # of the two, from -1 to 1
    prominence: float  # of the first search's largest, in deviations of all it saw


def align(
    query: Samples,
    recording: Samples,
    *,
    start: float,
    offset: float,
    speed: float,
    semitones: float,
    lag: float = MOST_LAG,
) -> Alignment | None:
    """Return the best alignment near one that is roughly known; None of silence.

    query, recording: float32 at SAMPLE_RATE [shape=(n_samples,)], of at least N_FFT samples;
    start: seconds into the recording where its samples begin; they should reach a little more than
    ``lag`` beyond the query on both sides. offset, speed, semitones: what is known, see Alignment;
    lag: seconds by which the offset may be wrong.
    """
    lowest = LOWEST * 2.0 ** (-(semitones + MOST_BANDS / BANDS_PER_SEMITONE) / 12)
    pair = _Pair(
        _measure(query, LOWEST, N_BANDS),
        _measure(recording, lowest, N_BANDS + 2 * MOST_BANDS),
        offset + speed * len(query) / SAMPLE_RATE / 2 - start,
        len(query) / SAMPLE_RATE / 2,
        lag,
    )
    if not pair.query.any() or not pair.recording.any():
        return None
    near, shift, prominence = _search(pair, speed)
    speed, lag, correlation = _sharpen(pair, near, round(shift))
    return Alignment(
        pair.middle + start + speed * (lag - pair.query_middle),
        speed,
        semitones + shift / BANDS_PER_SEMITONE,
        correlation,
        prominence,
    )


@dataclass(frozen=True)
class _Pair:
    """What is aligned: levels of FRAME each, and what is thought to be at the same place."""

    query: Bands  # [shape=(n_frames, N_BANDS)]
    recording: Bands  # [shape=(n_frames, N_BANDS + 2 * MOST_BANDS)]
    middle: float  # seconds from the recording's first frame
    query_middle: float  # seconds from the query's first frame, its middle
    lag: float  # seconds by which ``middle`` may be wrong

    @property
    def step(self) -> float:
        """The step of speeds in the first search."""
        return SPEED_STEP / (2 * self.query_middle)


def _search(pair: _Pair, speed: float) -> tuple[float, float, float]:
    """Return (speed, shift in bands, prominence) of the largest correlation on a coarse grid."""
    n_steps = int(min(MOST_SPEED, SPEED_SPREAD / (2 * pair.query_middle)) / pair.step)
    speeds = speed + pair.step * np.arange(-n_steps, n_steps + 1, dtype=np.float64)
    shifts = np.arange(-MOST_BANDS, MOST_BANDS + 1)
    joined = replace(pair, query=_joined(pair.query), recording=_joined(pair.recording))
    found = _correlate(joined, COARSE * FRAME, speeds, shifts)
    i, j, k = np.unravel_index(int(found.argmax()), found.shape)
    prominence = (found[i, j, k] - found.mean()) / max(float(found.std()), 1e-6)
    return float(speeds[i]), float(shifts[j]) + vertex(found[i, :, k], int(j)), float(prominence)


def _sharpen(pair: _Pair, speed: float, shift: int) -> tuple[float, float, float]:
    """Return (speed, lag in seconds, correlation) of the largest correlation on a fine grid."""
    step = pair.step / FINE_STEPS
    speeds = speed + step * np.arange(-FINE_STEPS, FINE_STEPS + 1, dtype=np.float64)
    found = _correlate(pair, FRAME, np.append(speeds, 1.0), np.array([shift]))[:, 0]
    i, k = (int(n) for n in np.unravel_index(int(found[:-1].argmax()), found[:-1].shape))
    speed, unchanged = float(speeds[i] + step * vertex(found[:-1, k], i)), found[-1]
    if unchanged.max() > UNCHANGED * found[i, k]:
        i, k, speed = len(speeds), int(unchanged.argmax()), 1.0
    lag = (k + vertex(found[i], k) - _reach(pair.lag, FRAME)) * FRAME
    return speed, lag, float(found[i, k])


def _measure(samples: Samples, lowest: float, n_bands: int) -> Bands:
    """Return levels above their surroundings and their rise [shape=(n_frames, n_bands)]."""
    level = _bands(samples, lowest, n_bands)
    return standing_out(level, SURROUND_BANDS)


def standing_out(level: Bands, surround_bands: int) -> Bands:
    """Return levels above their surroundings, with their rise added [shape=(n_frames, n_bands)].

    surround_bands: to either side; frames: SURROUND_FRAMES.
    """
    around = running_mean(running_mean(level, surround_bands, axis=1), SURROUND_FRAMES, axis=0)
    above = np.maximum(level - around, 0.0)
    rise = np.zeros_like(above)
    rise[RISE_FRAMES:] = np.maximum(above[RISE_FRAMES:] - above[:-RISE_FRAMES], 0.0)
    return np.asarray(above + rise, np.float32)


def _bands(samples: Samples, lowest: float, n_bands: int) -> Bands:
    """Return the levels, ln of power, of logarithmic bands; 0 beyond half the sample rate."""
    window = np.hanning(N_FFT + 1)[:-1].astype(np.float32)
    padded = np.pad(samples.astype(np.float32), N_FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP] * window
    spectrum = np.fft.rfft(frames)
    level = np.log(np.square(spectrum.real) + np.square(spectrum.imag) + 1e-8).astype(np.float32)
    place = lowest * 2.0 ** (np.arange(n_bands) / (12 * BANDS_PER_SEMITONE)) * N_FFT / SAMPLE_RATE
    inside = place < N_FFT // 2
    left = np.minimum(np.floor(place).astype(np.int64), N_FFT // 2 - 1)
    share = (place - left).astype(np.float32)
    return np.asarray((level[:, left] * (1 - share) + level[:, left + 1] * share) * inside)


def running_mean(values: Bands, radius: int, *, axis: int) -> Bands:
    """Return the mean of every value and its ``radius`` neighbours on both sides of an axis."""
    moved = np.moveaxis(values, axis, 0)
    total = np.concatenate([np.zeros((1, *moved.shape[1:])), np.cumsum(moved, 0, np.float64)])
    first = np.maximum(np.arange(len(moved)) - radius, 0)
    last = np.minimum(np.arange(len(moved)) + radius + 1, len(moved))
    mean = (total[last] - total[first]) / (last - first)[:, None]
    return np.asarray(np.moveaxis(mean, 0, axis), np.float32)


def _joined(values: Bands) -> Bands:
    """Return the means of COARSE frames each."""
    n = len(values) // COARSE
    return np.asarray(values[: n * COARSE].reshape(n, COARSE, -1).mean(1), np.float32)


def _correlate(pair: _Pair, frame: float, speeds: Floats, shifts: npt.NDArray[np.int64]) -> Bands:
    """Return correlations [shape=(n_speeds, n_shifts, 2 * reach + 1)] over lags of one frame.

    A positive shift is that of a query that sounds higher, by so many bands.
    """
    reach = _reach(pair.lag, frame)
    query = pair.query - pair.query.mean(0)
    times = np.arange(-reach, len(query) + reach) * frame + (frame - FRAME) / 2
    size = 1 << (len(times) - 1).bit_length()
    conjugate = np.conj(np.fft.rfft(query, size, axis=0)).astype(np.complex64)
    scale = np.sqrt(np.square(query).sum()) + 1e-9
    found = np.empty((len(speeds), len(shifts), 2 * reach + 1), np.float32)
    for i, speed in enumerate(speeds):
        played = _at(pair.recording, pair.middle + speed * (times - pair.query_middle), frame)
        played = played - played.mean(0)
        spectrum = np.fft.rfft(played, size, axis=0).astype(np.complex64)
        energy = np.square(played).sum(0)
        for j, shift in enumerate(shifts):
            of = slice(MOST_BANDS - shift, MOST_BANDS - shift + N_BANDS)
            product = (conjugate * spectrum[:, of]).sum(1)
            found[i, j] = np.fft.irfft(product, size)[: 2 * reach + 1]
            found[i, j] /= scale * (np.sqrt(energy[of].sum()) + 1e-9)
    return found


def _reach(lag: float, frame: float) -> int:
    return round(lag / frame)


def _at(values: Bands, seconds: Floats, frame: float) -> Bands:
    """Return values at times, interpolated; 0 outside."""
    return rows_at(values, (seconds - (frame - FRAME) / 2) / frame)


def rows_at(values: Bands, places: Floats) -> Bands:
    """Return rows at fractional places, interpolated; 0 outside."""
    inside = (places >= 0) & (places <= len(values) - 1)
    left = np.clip(np.floor(places).astype(np.int64), 0, max(len(values) - 2, 0))
    share = np.clip(places - left, 0.0, 1.0).astype(np.float32)[:, None]
    right = np.minimum(left + 1, len(values) - 1)
    return np.asarray((values[left] * (1 - share) + values[right] * share) * inside[:, None])


def vertex(values: Bands, peak: int) -> float:
    """Return where a parabola through a peak and its neighbours is highest, -0.5 to 0.5."""
    if not 0 < peak < len(values) - 1:
        return 0.0
    left, top, right = (float(v) for v in values[peak - 1 : peak + 2])
    bend = left - 2 * top + right
    return 0.0 if bend >= 0 else float(np.clip((left - right) / 2 / bend, -0.5, 0.5))
