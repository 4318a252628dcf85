"""Changes of pitch, speed and tempo as one interpolation of a log-frequency spectrogram.

A frequency ratio r shifts the log-frequency axis by bands_per_octave · log2 r; playing s times as
fast scales the time axis. Varispeed (a turntable) does both with one factor; pitch shifting only
the first; time stretching only the second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spolia.networks.nafp import LogMel
from spolia.training.degrade import chance, uniform

NEPERS = math.log(10) / 10  # of power per decibel


@dataclass(frozen=True)
class WarpConfig:
    """Ranges of the changes; each row gets at most one kind, or a pitch shift and a stretch."""

    pitch: float = 0.3  # probability of a pitch shift
    semitones: float = 2.5  # largest shift either way
    speed: float = 0.25  # probability of varispeed
    speed_change: float = 0.08  # largest relative change
    tempo: float = 0.25  # probability of a time stretch
    tempo_change: float = 0.12  # largest relative change
    both: float = 0.0  # probability of a pitch shift and a time stretch at once

    @property
    def largest_stretch(self) -> float:
        """The longest source span over output span."""
        return 1.0 + max(self.speed_change, self.tempo_change)


@dataclass(frozen=True)
class MaskConfig:
    """Masking of the spectrogram."""

    bands: float = 0.3  # probability of masking a run of bands
    n_bands: int = 14  # longest run
    time: float = 0.2  # probability of masking a run of frames
    n_frames: int = 8  # longest run
    holes: float = 0.3  # probability of raising the floor, as low-bit-rate codecs drop bins
    holes_db: tuple[float, float] = (12.0, 40.0)  # floor below each frame's loudest band


def draw_factors(
    rows: int, config: WarpConfig, like: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return (semitones, tempo factor) per row, float32 [shape=(n_rows,)] each."""
    kind = torch.rand(rows, generator=rng, device=like.device)
    is_pitch = kind < config.pitch
    is_speed = (kind >= config.pitch) & (kind < config.pitch + config.speed)
    from_tempo = config.pitch + config.speed
    is_tempo = (kind >= from_tempo) & (kind < from_tempo + config.tempo)
    amount = uniform((rows,), -1.0, 1.0, like, rng)
    speed = torch.log1p(config.speed_change * amount)
    semitones = torch.where(is_pitch, config.semitones * amount, torch.zeros_like(amount))
    semitones = torch.where(is_speed, speed * 12 / math.log(2), semitones)
    tempo = torch.where(is_speed, speed.exp(), torch.ones_like(amount))
    tempo = torch.where(is_tempo, 1 + config.tempo_change * amount, tempo)
    if config.both:
        is_both = (kind >= from_tempo + config.tempo) & (
            kind < from_tempo + config.tempo + config.both
        )
        other = uniform((rows,), -1.0, 1.0, like, rng)
        semitones = torch.where(is_both, config.semitones * other, semitones)
        tempo = torch.where(is_both, 1 + config.tempo_change * amount, tempo)
    return semitones, tempo


def warp(
    log_power: Tensor, semitones: Tensor, tempo: Tensor, *, n_frames: int, bands_per_octave: int
) -> Tensor:
    """Return the centre of each spectrogram, changed [shape=(n_rows, n_bands, n_frames)].

    log_power: [shape=(n_rows, n_bands, n_source)], n_source ≥ n_frames · tempo.
    """
    rows, n_bands, n_source = log_power.shape
    device = log_power.device
    time = torch.arange(n_frames, device=device) - (n_frames - 1) / 2
    x = (n_source - 1) / 2 + tempo[:, None] * time
    y = torch.arange(n_bands, device=device) - semitones[:, None] * (bands_per_octave / 12)
    grid = torch.stack(
        [
            (2 * x / (n_source - 1) - 1)[:, None, :].expand(rows, n_bands, n_frames),
            (2 * y / (n_bands - 1) - 1)[:, :, None].expand(rows, n_bands, n_frames),
        ],
        dim=-1,
    )
    source = log_power[:, None].contiguous()
    return F.grid_sample(source, grid, padding_mode="border", align_corners=True)[:, 0]


def decibel_of(log_bands: nn.Module) -> float:
    """Return what a decibel is in a front end's unit: natural logarithms of power but of NAFP's."""
    return 1 / 20 if isinstance(log_bands, LogMel) else NEPERS  # log10 of magnitude


def mask(
    log_power: Tensor, config: MaskConfig, rng: torch.Generator, *, decibel: float = NEPERS
) -> Tensor:
    """Return the spectrograms with runs of bands or frames replaced by their mean, and holes.

    decibel: in the unit of ``log_power``, see :func:`decibel_of`.
    """
    rows, n_bands, n_frames = log_power.shape
    mean = log_power.mean((1, 2), keepdim=True)
    bands = _runs(rows, n_bands, config.n_bands, config.bands, log_power, rng)[:, :, None]
    frames = _runs(rows, n_frames, config.n_frames, config.time, log_power, rng)[:, None, :]
    depth = uniform((rows, 1, 1), *config.holes_db, log_power, rng) * decibel
    used = chance(rows, config.holes, log_power, rng)[:, None, None]
    floor = log_power.amax(1, keepdim=True) - depth
    holed = torch.where(used, torch.maximum(log_power, floor), log_power)
    return torch.where(bands | frames, mean, holed)


def _runs(
    rows: int, length: int, longest: int, probability: float, like: Tensor, rng: torch.Generator
) -> Tensor:
    """Return a boolean run in some rows [shape=(n_rows, length)]."""
    size = torch.randint(1, longest + 1, (rows, 1), generator=rng, device=like.device)
    start = torch.randint(0, length, (rows, 1), generator=rng, device=like.device)
    place = torch.arange(length, device=like.device)
    used = chance(rows, probability, like, rng)[:, None]
    return (place >= start) & (place < start + size) & used
