"""Tells where a recording repeats the sound that is sampled: such a place is right, too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spolia.audio import Audio
from spolia.production.crate import Reference
from spolia.production.truth import Use
from spolia.sample_alignment import FRAME, SAMPLE_RATE, levels
from spolia.sample_patches import Bands
from spolia.samples import Part

SAME = 0.8  # correlation
SECONDS = 2.0  # that are compared


def sampled_sound(recording: Reference, part: Part) -> list[Path]:
    """Return the stems of a part of a recording, or its mix: what is sampled of it."""
    return [stem.path for kind, stem in recording.stems if kind == part] or [recording.file.path]


def levels_of(path: Path) -> Bands:
    """Return the levels of a file."""
    return levels(Audio.load(path, sample_rate=SAMPLE_RATE).samples)


def sounds_alike(known: Bands, one: float, other: float) -> bool:
    """Tell whether SECONDS of a recording around two places are the same sound, repeated.

    known: levels of the recording, see :func:`spolia.sample_alignment.levels`; places in seconds.
    """
    half = round(SECONDS / 2 / FRAME)
    parts = [known[max(0, round(t / FRAME) - half) :][: 2 * half] for t in (one, other)]
    n = min(map(len, parts))
    a, b = (part[:n] - part[:n].mean(0) if n else part[:n] for part in parts)
    return float((a * b).sum()) >= SAME * float(np.sqrt((a * a).sum() * (b * b).sum())) > 0


def repeats(
    known: Bands, uses: Sequence[Use], occurrences: Sequence[Sequence[float]], start: float
) -> bool:
    """Tell whether one occurrence that was found plays what is sampled, there or repeated.

    occurrences: query start and end, recording start and end; start: seconds of the track at which
    the query begins.
    """
    for query_start, query_end, reference_start, reference_end in occurrences:
        time = (query_start + query_end) / 2 + start
        place = (reference_start + reference_end) / 2
        for use in uses:
            for o in use.occurrences:
                wanted = o.source_start + use.tempo_ratio * (time - o.start)
                if o.start <= time <= o.end and sounds_alike(known, place, wanted):
                    return True
    return False
