"""Landmarks: pairs of spectral peaks, each packed into one integer.

A peak of the spectrogram survives noise, equalisers and codecs, and a pair of peaks says enough to
be looked up: two frequencies and the time between them. A peak is kept where few stronger ones lie
within half a second of it, a rule that looks only at the neighbourhood: an excerpt has the same
peaks as its recording, and a long recording can be processed in blocks. Pure functions on arrays.

Wang, A.: An industrial-strength audio search algorithm. ISMIR 2003.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint32]

SAMPLE_RATE = 8000
N_FFT = 512
HOP = 128  # 16 ms: every time is a whole number of milliseconds
N_BINS = 256  # the bin at 4 kHz is left out, so that a bin fits into 8 bits
LOWEST_BIN = 6  # 94 Hz; below are hum, rumble and the room
FLOOR = 1e-4  # −80 dBFS: the amplitude of a sine too weak to be a peak

PEAK_FRAMES, PEAK_BINS = 3, 6  # a peak exceeds all that is this near
MEAN_FRAMES, MEAN_BINS = 31, 24  # its strength is the level above the mean of this neighbourhood
RANK_FRAMES = 31  # half a second

MIN_DT, MAX_DT = 6, 125  # frames between the peaks of a pair: 0.1 to 2 s
MAX_DF = 60  # bins between them
DT_BITS, DF_BITS = 7, 7
DF_BIAS = 1 << (DF_BITS - 1)

MARGIN_BEFORE = RANK_FRAMES + MEAN_FRAMES  # frames that a landmark depends on before its time
MARGIN_AFTER = MAX_DT + RANK_FRAMES + MEAN_FRAMES  # and after it


@dataclass(frozen=True)
class Density:
    """How many landmarks a second of sound gives at most."""

    n_peaks: int  # in any one second
    n_targets: int  # pairs that begin at one peak


REFERENCE = Density(n_peaks=25, n_targets=5)
# A query pairs more than a reference: peaks that noise puts between the old ones must not push
# the pairs of the reference out of the list.
QUERY = Density(n_peaks=50, n_targets=14)


def find_landmarks(samples: Samples, density: Density = REFERENCE) -> tuple[Ints, Hashes]:
    """Return the landmarks of a sound: the frame of each first peak, ascending, and the hash.

    samples: float32 [shape=(n_samples,)] at 8 kHz. Both arrays [shape=(n,)]. Frame ``i`` begins
    at sample ``i * HOP``.
    """
    frames, bins = find_peaks(measure_levels(samples), n_peaks=density.n_peaks)
    return pair_peaks(frames, bins, n_targets=density.n_targets)


def measure_levels(samples: Samples) -> Samples:
    """Return the spectrogram's level, ln of amplitude, float32 [shape=(n_frames, N_BINS)]."""
    if len(samples) < N_FFT:
        return np.zeros((0, N_BINS), np.float32)
    window = np.hanning(N_FFT + 1)[:-1].astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(samples, N_FFT)[::HOP] * window
    spectrum = np.fft.rfft(frames)[:, :N_BINS]
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    full_scale = np.float32((window.sum() / 2) ** 2)
    return np.asarray(np.log(power / full_scale + 1e-12) / 2, np.float32)


def find_peaks(level: Samples, *, n_peaks: int) -> tuple[Ints, Ints]:
    """Return frames and bins of the strongest local maxima, in order of frame, then bin.

    Strength is the level above the mean of the surroundings, so that weak treble counts as much
    as loud bass. Fewer than ``n_peaks`` stronger peaks lie within half a second of each peak.
    """
    if len(level) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    highest = running_maximum(running_maximum(level, PEAK_BINS, axis=1), PEAK_FRAMES, axis=0)
    is_peak = (level == highest) & (level > np.float32(np.log(FLOOR)))
    is_peak[:, :LOWEST_BIN] = False
    frames, bins = np.nonzero(is_peak)
    strength = level[frames, bins] - _mean_around(level, frames, bins)
    keep = _n_stronger(frames, strength) < n_peaks
    return frames[keep], bins[keep]


def running_maximum(values: Samples, radius: int, *, axis: int) -> Samples:
    """Return the maximum of every value and its ``radius`` neighbours on both sides of an axis.

    The window doubles until two overlapping ones cover it: log₂ passes instead of ``radius``.
    """
    moved = np.moveaxis(values, axis, 0)
    border = np.full((radius, *moved.shape[1:]), -np.inf, moved.dtype)
    maxima = np.concatenate([border, moved, border])
    width, covered = 2 * radius + 1, 1
    while covered < width:
        step = min(covered, width - covered)
        maxima = np.maximum(maxima[:-step], maxima[step:])
        covered += step
    return np.moveaxis(maxima, 0, axis)


def _mean_around(level: Samples, frames: Ints, bins: Ints) -> npt.NDArray[np.float64]:
    """Return the mean level of the neighbourhood of each peak, by an integral image."""
    integral = np.zeros((level.shape[0] + 1, level.shape[1] + 1))
    np.cumsum(level, axis=0, out=integral[1:, 1:])
    np.cumsum(integral[1:, 1:], axis=1, out=integral[1:, 1:])
    top = np.maximum(frames - MEAN_FRAMES, 0)
    bottom = np.minimum(frames + MEAN_FRAMES + 1, level.shape[0])
    left = np.maximum(bins - MEAN_BINS, 0)
    right = np.minimum(bins + MEAN_BINS + 1, level.shape[1])
    total = (
        integral[bottom, right]
        - integral[top, right]
        - integral[bottom, left]
        + integral[top, left]
    )
    return np.asarray(total / ((bottom - top) * (right - left)))


def _n_stronger(frames: Ints, strength: npt.NDArray[np.float64]) -> Ints:
    """Count the stronger peaks within half a second of each; of equals the earlier is stronger."""
    count = np.zeros(len(frames), np.int64)
    for step in range(1, len(frames)):
        near = frames[step:] - frames[:-step] <= RANK_FRAMES
        if not near.any():
            break
        later_wins = strength[step:] > strength[:-step]
        count[:-step] += near & later_wins
        count[step:] += near & ~later_wins
    return count


def pair_peaks(frames: Ints, bins: Ints, *, n_targets: int) -> tuple[Ints, Hashes]:
    """Pair each peak with the next ``n_targets`` in its zone; return first frames and hashes.

    The zone lies 0.1 to 2 s ahead, within ``MAX_DF`` bins.
    """
    n_paired = np.zeros(len(frames), np.int64)
    anchors: list[Ints] = [np.zeros(0, np.int64)]
    targets: list[Ints] = [np.zeros(0, np.int64)]
    for step in range(1, len(frames)):
        dt = frames[step:] - frames[:-step]
        if dt.min() > MAX_DT:
            break
        df = bins[step:] - bins[:-step]
        wanted = (dt >= MIN_DT) & (dt <= MAX_DT) & (np.abs(df) <= MAX_DF)
        chosen = np.flatnonzero(wanted & (n_paired[:-step] < n_targets))
        n_paired[chosen] += 1
        anchors.append(chosen)
        targets.append(chosen + step)
    first, second = np.concatenate(anchors), np.concatenate(targets)
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    hashes = pack(bins[first], bins[second] - bins[first], frames[second] - frames[first])
    return frames[first], hashes


def pack(first_bin: Ints, df: Ints, dt: Ints) -> Hashes:
    """Pack the first peak's bin (8 bits), the bins to the second (7) and the frames to it (7)."""
    packed = (first_bin << (DF_BITS + DT_BITS)) | ((df + DF_BIAS) << DT_BITS) | dt
    return np.asarray(packed, np.uint32)


def unpack(hashes: Hashes) -> tuple[Ints, Ints, Ints]:
    """Return first bin, bins to the second peak, frames to it; the inverse of :func:`pack`."""
    wide = hashes.astype(np.int64)
    df = ((wide >> DT_BITS) & ((1 << DF_BITS) - 1)) - DF_BIAS
    return wide >> (DF_BITS + DT_BITS), df, wide & ((1 << DT_BITS) - 1)
