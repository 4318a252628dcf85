"""Levels of sounds that come and go: measured where they sound. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from spolia.audio import Audio

BLOCK = 0.05  # seconds whose power is one value
SOUNDING = 1e-4  # power of a block over that of the loudest: above it (−40 dB) a sound sounds


def block_powers(audio: Audio) -> npt.NDArray[np.float64]:
    """Return the power of every BLOCK, the incomplete last one left out [shape=(n_blocks,)]."""
    size = round(BLOCK * audio.sample_rate)
    blocks = audio.samples[: len(audio) // size * size].reshape(-1, size)
    return np.asarray(np.square(blocks, dtype=np.float64).mean(1))


def sounding_power(audio: Audio) -> float:
    """Return the mean power of the blocks in which it sounds; 0 of silence."""
    powers = block_powers(audio)
    loud = powers[powers > SOUNDING * powers.max(initial=0.0)]
    return float(loud.mean()) if len(loud) else 0.0


def level_over(overlay: Audio, sound: Audio) -> float | None:
    """Return the power of an overlay over a sound's in decibels, where both sound.

    Both begin together. None where they never sound at the same time.
    """
    above, below = block_powers(overlay), block_powers(sound)
    both = (above > SOUNDING * above.max(initial=0.0)) & (below > SOUNDING * below.max(initial=0.0))
    if not both.any():
        return None
    return float(10 * np.log10(above[both].sum() / below[both].sum()))


def summed(sounds: Sequence[Audio], n_samples: int, sample_rate: int) -> Audio:
    """Return the sum of sounds of ``n_samples``; silence where there are none."""
    mix = np.zeros(n_samples, np.float32)
    for sound in sounds:
        mix += sound.samples
    return Audio(mix, sample_rate)


def scaled(audio: Audio, factor: float) -> Audio:
    """Return the sound times a factor."""
    return Audio(audio.samples * np.float32(factor), audio.sample_rate)
