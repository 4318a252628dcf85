"""Music by the thousand: pieces drawn from a seed and rendered in batches on the device.

Every piece has a tempo, a key, chords, and up to six players: drums, bass, chords, lead, arpeggio
and a voice of two formants. Notes lie on a grid of sixteenths with swing; every player has a timbre
of its own (partials, attack, decay, vibrato, brightness). The aim is not beauty but variety of
spectra and rhythms, without end and without a licence: negatives that no corpus can give.

A note reads a table of one period, made for its pitch so that no partial is above half the sample
rate: a tenth of the work of summing sines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SCALES = torch.tensor(
    [
        [0, 2, 4, 5, 7, 9, 11],  # major
        [0, 2, 3, 5, 7, 8, 10],  # minor
        [0, 2, 3, 5, 7, 9, 10],  # Dorian
        [0, 1, 4, 5, 7, 8, 10],  # Phrygian dominant
        [0, 3, 5, 6, 7, 10, 12],  # blues
    ]
)
BATCH = 32  # pieces made at once
N_PARTIALS = 10
TABLE = 1024  # samples of a period
NOTE = 0.6  # seconds: the longest note
HIT = 0.25  # seconds: the longest stroke of a drum
STEPS_PER_BEAT = 4
STEPS_PER_BAR = 16
# Octave above the key, chance of a note on a step, loudness, longest part of NOTE.
PLAYERS = {
    "bass": (-2, 0.35, 0.5, 0.8),
    "chord": (0, 0.18, 0.22, 1.0),
    "third": (0, 0.18, 0.2, 1.0),
    "fifth": (0, 0.18, 0.2, 1.0),
    "lead": (1, 0.4, 0.35, 0.7),
    "arpeggio": (1, 0.7, 0.18, 0.4),
    "voice": (0, 0.3, 0.45, 1.0),
}
DRUMS = {"kick": (45.0, 0.35, 0.9), "snare": (180.0, 0.2, 0.5), "hat": (4000.0, 0.6, 0.25)}
FORMANTS = ((300.0, 900.0), (800.0, 2600.0))  # Hz, ranges of the first and the second


@dataclass(frozen=True)
class Frame:
    """What the pieces of a batch have in common with time: a grid of steps, in samples."""

    starts: Tensor  # int64 [shape=(n, n_steps)], where each step begins
    n_samples: int
    sample_rate: int


class Draws:
    """Random numbers on one device, for a batch of ``n`` pieces."""

    def __init__(self, n: int, seed: int, device: torch.device) -> None:
        self.n, self.device = n, device
        self.rng = torch.Generator(device=device).manual_seed(seed)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return float32 numbers from [low, high) [shape=(n, *shape)]."""
        drawn = torch.rand(self.n, *shape, generator=self.rng, device=self.device)
        return low + (high - low) * drawn

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Return int64 numbers from [low, high) [shape=(n, *shape)]."""
        return torch.randint(low, high, (self.n, *shape), generator=self.rng, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        """Return normal numbers [shape=(n, *shape)]."""
        return torch.randn(self.n, *shape, generator=self.rng, device=self.device)


def generate(
    n: int, *, seconds: float, seed: int, device: torch.device, sample_rate: int = 8000
) -> Tensor:
    """Return ``n`` pieces of music, float32 [shape=(n, round(seconds · sample_rate))], peak 0.9."""
    draws = Draws(n, seed, device)
    frame = _grid(draws, round(seconds * sample_rate), sample_rate)
    mix = torch.zeros(n, frame.n_samples + round(NOTE * sample_rate) + 1, device=device)
    degrees, root, scale = _harmony(draws, frame)
    for name, (octave, density, level, longest) in PLAYERS.items():
        plays = draws.uniform(0, 1) < (1.0 if name == "bass" else 0.6)
        pitch = root[:, None] + 12 * octave + _line(draws, name, degrees, scale)
        struck = _rhythm(draws, frame, density) * plays[:, None]
        loudness = level * torch.exp(0.5 * draws.normal(1)) * struck
        _add_notes(mix, draws, frame, pitch, loudness, longest, voice=name == "voice")
    for frequency, density, level in DRUMS.values():
        plays = draws.uniform(0, 1) < 0.75
        struck = _rhythm(draws, frame, density) * plays[:, None]
        _add_hits(mix, draws, frame, frequency, level * torch.exp(0.5 * draws.normal(1)) * struck)
    return _mastered(mix[:, : frame.n_samples], draws, sample_rate)


def generate_many(
    n: int, *, seconds: float, seed: int, device: torch.device, sample_rate: int = 8000
) -> npt.NDArray[np.int16]:
    """Return ``n`` pieces, int16 [shape=(n, n_samples)], on the CPU.

    Fewer pieces of a seed are the first of more.
    """
    out = np.zeros((n, round(seconds * sample_rate)), np.int16)
    for first in range(0, n, BATCH):
        number = seed * 1_000_003 + first // BATCH
        pieces = generate(
            BATCH, seconds=seconds, seed=number, device=device, sample_rate=sample_rate
        )[: n - first]
        out[first : first + BATCH] = (pieces * 32767).round().short().cpu().numpy()
    return out


def _grid(draws: Draws, n_samples: int, sample_rate: int) -> Frame:
    beats_per_minute = torch.exp(draws.uniform(math.log(65.0), math.log(175.0), 1))
    step = 60.0 * sample_rate / beats_per_minute / STEPS_PER_BEAT
    n_steps = math.ceil(n_samples / (60.0 * sample_rate / 175.0 / STEPS_PER_BEAT))
    number = torch.arange(n_steps, device=draws.device)
    swing = draws.uniform(0.0, 0.33, 1) * (draws.uniform(0, 1, 1) < 0.4)
    starts = (number + swing * (number % 2)) * step
    return Frame(starts.long(), n_samples, sample_rate)


def _harmony(draws: Draws, frame: Frame) -> tuple[Tensor, Tensor, Tensor]:
    """Return each step's chord degree, the key as a MIDI note, and the scale."""
    scale = SCALES.to(draws.device)[draws.integers(0, len(SCALES))]
    root = draws.integers(48, 60)
    chords = draws.integers(0, 7, 4)
    bar = torch.arange(frame.starts.shape[1], device=draws.device) // STEPS_PER_BAR % 4
    return chords[:, bar], root, scale


def _line(draws: Draws, name: str, degrees: Tensor, scale: Tensor) -> Tensor:
    """Return a player's pitch on each step, in semitones above the key."""
    n_steps = degrees.shape[1]
    if name in ("lead", "voice"):
        walk = draws.integers(-2, 3, n_steps).cumsum(1)
        degree = degrees + walk % 9 - 2
    elif name == "arpeggio":
        pattern = 2 * draws.integers(0, 4, STEPS_PER_BAR)
        place = torch.arange(n_steps, device=draws.device) % STEPS_PER_BAR
        degree = degrees + pattern[:, place]
    else:
        degree = degrees + {"bass": 0, "chord": 0, "third": 2, "fifth": 4}[name]
    return scale.gather(1, degree % 7) + 12 * torch.div(degree, 7, rounding_mode="floor")


def _rhythm(draws: Draws, frame: Frame, density: float) -> Tensor:
    """Return which steps are struck: a pattern of a bar with some steps changed in each bar."""
    n_steps = frame.starts.shape[1]
    amount = density * torch.exp(0.5 * draws.normal(1))
    pattern = draws.uniform(0, 1, STEPS_PER_BAR) < amount
    place = torch.arange(n_steps, device=draws.device) % STEPS_PER_BAR
    anew = draws.uniform(0, 1, n_steps) < amount
    changed = draws.uniform(0, 1, n_steps) < 0.2
    return torch.where(changed, anew, pattern[:, place]).float()


def _add_notes(
    mix: Tensor,
    draws: Draws,
    frame: Frame,
    pitch: Tensor,
    loudness: Tensor,
    longest: float,
    *,
    voice: bool,
) -> None:
    """Add a player's notes to ``mix``: partials with an envelope, vibrato and brightness."""
    rate, device = frame.sample_rate, draws.device
    time = torch.arange(round(NOTE * rate), device=device) / rate
    partial = torch.arange(1, N_PARTIALS + 1, device=device).float()
    period = torch.arange(TABLE, device=device) / TABLE
    waves = torch.sin(2 * math.pi * partial[:, None] * period)  # (n_partials, n_table)
    spectrum = _spectrum(draws, partial)
    dulled = spectrum * torch.exp(-draws.uniform(0.0, 6.0, 1) * partial / N_PARTIALS)
    attack, decay = draws.uniform(0.003, 0.08, 1), draws.uniform(0.08, longest * NOTE, 1)
    fade = ((NOTE - time) / 0.05).clamp(0, 1)
    envelope = (time / attack).clamp(max=1.0) * torch.exp(-time / decay) * fade
    depth, speed = draws.uniform(0.0, 0.012, 1), draws.uniform(4.0, 7.0, 1)
    played = time + depth / (2 * math.pi * speed) * (1 - torch.cos(2 * math.pi * speed * time))
    vowels = [draws.uniform(low, high, loudness.shape[1]) for low, high in FORMANTS]
    later = (time / NOTE).clamp(max=1.0)  # a note begins bright and ends dull
    for i in range(frame.starts.shape[1]):
        rows = (loudness[:, i] > 0).nonzero().flatten()
        frequency = 440.0 * 2.0 ** ((pitch[rows, i, None] - 69.0) / 12.0)
        gains = (partial * frequency < 0.48 * rate).float()
        if voice:
            gains = gains * _vowel(partial * frequency, [v[rows, i, None] for v in vowels])
        place = (frequency * played[rows] * TABLE).long() % TABLE
        bright = ((spectrum[rows] * gains) @ waves).gather(1, place)
        dull = ((dulled[rows] * gains) @ waves).gather(1, place)
        sound = torch.lerp(bright, dull, later) * envelope[rows] * loudness[rows, i, None]
        _put(mix, rows, frame.starts[rows, i], sound)


def _spectrum(draws: Draws, partial: Tensor) -> Tensor:
    """Return the partials' amplitudes of each piece [shape=(n, n_partials)]."""
    slope, odd = draws.uniform(0.3, 2.5, 1), draws.uniform(0, 1, 1)
    even = torch.where(partial % 2 == 0, odd, torch.ones_like(odd))
    return partial**-slope * even * torch.exp(0.7 * draws.normal(N_PARTIALS))


def _vowel(frequency: Tensor, formants: list[Tensor]) -> Tensor:
    """Return the gains of two resonances, 120 Hz wide."""
    peaks = [torch.exp(-(((frequency - formant) / 240.0) ** 2)) for formant in formants]
    return 0.05 + peaks[0] + 0.6 * peaks[1]


def _add_hits(mix: Tensor, draws: Draws, frame: Frame, frequency: float, loudness: Tensor) -> None:
    """Add a drum's strokes to ``mix``: a falling tone and filtered noise, alike in each stroke."""
    rate = frame.sample_rate
    time = torch.arange(round(HIT * rate), device=draws.device) / rate
    start = frequency * torch.exp(0.25 * draws.normal(1))
    fall, decay = draws.uniform(0.01, 0.05, 1), draws.uniform(0.02, 0.12, 1)
    tone = torch.sin(2 * math.pi * start * (time + 2 * fall * (1 - torch.exp(-time / fall))))
    noise = draws.normal(len(time))
    brightness = draws.uniform(-0.9, 0.9, 1)
    noise = noise + brightness * torch.roll(noise, 1, 1)
    share = draws.uniform(0.0, 0.4, 1) if frequency < 100 else draws.uniform(0.5, 1.0, 1)
    fade = ((HIT - time) / 0.02).clamp(0, 1)
    stroke = ((1 - share) * tone + 0.5 * share * noise) * torch.exp(-time / decay) * fade
    for i in range(frame.starts.shape[1]):
        rows = (loudness[:, i] > 0).nonzero().flatten()
        _put(mix, rows, frame.starts[rows, i], stroke[rows] * loudness[rows, i, None])


def _put(mix: Tensor, rows: Tensor, starts: Tensor, sound: Tensor) -> None:
    """Add a sound to some rows of ``mix`` where it starts; beyond the end nothing is added."""
    length = mix.shape[1]
    place = starts[:, None] + torch.arange(sound.shape[1], device=mix.device)
    inside = place < length
    flat = rows[:, None] * length + place.clamp(max=length - 1)
    mix.view(-1).index_add_(0, flat.flatten(), (sound * inside).flatten())


def _mastered(mix: Tensor, draws: Draws, sample_rate: int) -> Tensor:
    """Return the mixes in a room of their own, driven a little, at a peak of 0.9."""
    time = torch.arange(round(0.8 * sample_rate), device=mix.device) / sample_rate
    tail = draws.normal(len(time)) * torch.exp(-time / draws.uniform(0.03, 0.3, 1))
    tail = tail / tail.square().sum(1, keepdim=True).sqrt()
    size = 1 << (mix.shape[1] + len(time)).bit_length()
    wet = torch.fft.irfft(torch.fft.rfft(mix, size) * torch.fft.rfft(tail, size), size)
    mix = mix + draws.uniform(0.0, 0.5, 1) * wet[:, : mix.shape[1]]
    driven = torch.tanh(
        mix / mix.abs().amax(1, keepdim=True).clamp(min=1e-6) * draws.uniform(0.5, 3.0, 1)
    )
    return 0.9 * driven / driven.abs().amax(1, keepdim=True).clamp(min=1e-6)
