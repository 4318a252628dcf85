"""Effects: what producers do to the sound of a sample. None of them moves it in time.

Each is drawn as numbers before any sound is heard and applied later, so that plans can be counted
and written down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from spolia import degradation
from spolia.audio import Audio
from spolia.samples import Part

Rng = np.random.Generator
Values = tuple[float, ...]

OCTAVES = 7  # bands of the equaliser, up to half the sample rate
CODECS = (("libopus", 16000), ("libopus", 32000), ("libmp3lame", 24000), ("libmp3lame", 48000))


@dataclass(frozen=True)
class Effect:
    """One effect with its settings."""

    name: str  # a key of EFFECTS
    values: Values  # as its drawing made them

    def apply(self, audio: Audio) -> Audio:
        """Return the sound with the effect, of the same length; its level may differ."""
        return EFFECTS[self.name].apply(audio, self.values)


@dataclass(frozen=True)
class _Unit:
    """A kind of effect."""

    draw: Callable[[Rng], Values]
    apply: Callable[[Audio, Values], Audio]


def draw_effects(rng: Rng, *, chance: float, part: Part) -> tuple[Effect, ...]:
    """Return random effects in the order of a channel strip, each with the same chance.

    A bass keeps its lows: it gets no high-pass.
    """
    chosen = [name for name in EFFECTS if rng.random() < chance]
    usable = [name for name in chosen if not (name == "high_pass" and part == "bass")]
    return tuple(Effect(name, EFFECTS[name].draw(rng)) for name in usable)


def _between(low: float, high: float) -> Callable[[Rng], Values]:
    return lambda rng: (float(np.exp(rng.uniform(np.log(low), np.log(high)))),)


def _equalised(audio: Audio, decibels: Values) -> Audio:
    return degradation.filtered(audio, degradation.octave_gains(decibels))


def _low_passed(audio: Audio, values: Values) -> Audio:
    return degradation.band_pass(audio, 0.0, values[0], order=2)


def _high_passed(audio: Audio, values: Values) -> Audio:
    return degradation.band_pass(audio, values[0], audio.sample_rate, order=2)


def _driven(audio: Audio, values: Values) -> Audio:
    """Overload softly: amplify the peaks to 1 and by decibels, and bend them back."""
    peak = max(float(np.abs(audio.samples).max(initial=0.0)), 1e-9)
    driven = np.tanh(audio.samples / peak * 10 ** (values[0] / 20))
    return Audio(np.asarray(driven * peak, np.float32), audio.sample_rate)


def _crushed(audio: Audio, values: Values) -> Audio:
    """Reduce to a number of bits, and hold every ``hold``-th sample, as old samplers do."""
    bits, hold = values
    peak = max(float(np.abs(audio.samples).max(initial=0.0)), 1e-9)
    steps = 2.0 ** (bits - 1)
    held = np.repeat(audio.samples[:: int(hold)], int(hold))[: len(audio)]
    rounded = np.round(held / peak * steps) * (peak / steps)
    return Audio(np.asarray(rounded, np.float32), audio.sample_rate)


def _compressed(audio: Audio, values: Values) -> Audio:
    return degradation.compress(audio, strength=values[0])


def _in_a_room(audio: Audio, values: Values) -> Audio:
    seed, rt60, wet = values
    return degradation.room(audio, np.random.default_rng(int(seed)), rt60=rt60, wet=wet)


def _coded(audio: Audio, values: Values) -> Audio:
    codec, bit_rate = CODECS[int(values[0])]
    return degradation.codec(audio, codec=codec, bit_rate=bit_rate)


EFFECTS: dict[str, _Unit] = {
    "equaliser": _Unit(lambda rng: tuple(map(float, rng.normal(0, 6, OCTAVES))), _equalised),
    "low_pass": _Unit(_between(800.0, 5000.0), _low_passed),
    "high_pass": _Unit(_between(60.0, 600.0), _high_passed),
    "drive": _Unit(_between(3.0, 15.0), _driven),
    "bits": _Unit(lambda r: (float(r.integers(7, 13)), float(r.integers(1, 3))), _crushed),
    "compressor": _Unit(_between(0.3, 0.8), _compressed),
    "reverb": _Unit(
        lambda r: (float(r.integers(1 << 31)), float(r.uniform(0.3, 2)), float(r.uniform(0.1, 1))),
        _in_a_room,
    ),
    "codec": _Unit(lambda rng: (float(rng.integers(len(CODECS))),), _coded),
}
