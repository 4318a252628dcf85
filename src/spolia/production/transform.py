"""What is done to an excerpt: its change of pitch and tempo, then effects. Exact in time. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spolia import degradation
from spolia.audio import Audio
from spolia.production.effects import Effect
from spolia.production.plan import Change

CONTEXT = 0.4  # seconds around an excerpt that are changed with it and cut off: filters ring
SAME = 1e-6  # below this, a stretch is none


def changed(audio: Audio, change: Change) -> Audio:
    """Return the sound higher by ``semitones`` and ``tempo_ratio`` times as fast.

    By playing it faster, as a record is, then stretching it back at that pitch, as far as need be;
    so a varispeed is exact, and anything else is stretched once.
    """
    speed = 2.0 ** (change.semitones / 12)
    rest = change.tempo_ratio / speed
    played = degradation.change_speed(audio, speed) if abs(speed - 1.0) > SAME else audio
    return degradation.stretch(played, rest) if abs(rest - 1.0) > SAME else played


def transformed(
    sound: Audio, start: float, end: float, *, change: Change, effects: Sequence[Effect]
) -> Audio:
    """Return what becomes of a sound from ``start`` to ``end`` seconds.

    Lasts (end − start) / tempo_ratio, to the nearest sample. Sound t seconds after the start is
    heard t / tempo_ratio after the result's.
    """
    rate = sound.sample_rate
    context = min(CONTEXT, start)
    result = changed(sound.slice(start - context, end + CONTEXT), change)
    for effect in effects:
        result = effect.apply(result)
    first = round(context / change.tempo_ratio * rate)
    n_samples = round((end - start) / change.tempo_ratio * rate)
    samples = result.samples[first : first + n_samples]
    return Audio(np.pad(samples, (0, n_samples - len(samples))), rate)
