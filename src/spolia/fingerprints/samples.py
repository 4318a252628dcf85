"""Vectors that find samples: one unit vector for four seconds of sound, every half second.

A window's time is that of its beginning. What is shorter than a window is followed by silence.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from spolia.audio import Audio
from spolia.calibration import UNFITTED, Calibration
from spolia.encoders import DEFAULT_SAMPLE_MODEL, Encoder, open_encoder
from spolia.fingerprints.base import UNCHANGED, Change, Fingerprint
from spolia.fingerprints.segments import SegmentFingerprinter

QUERY_PHASES = 2  # a query vector every quarter of a second


class SampleFingerprinter(SegmentFingerprinter):
    """Makes ``samples`` fingerprints with an encoder."""

    method = "samples"
    phases = QUERY_PHASES
    query_changes = ()  # the encoder forgives half an octave

    def __init__(
        self, encoder: Encoder | None = None, *, model: str = DEFAULT_SAMPLE_MODEL
    ) -> None:
        super().__init__(encoder or open_encoder(model, kind="sample"))

    @cached_property
    def calibration(self) -> Calibration:
        """None of segments: the card's is of evidence, see ``spolia.samples.calibration_of``."""
        return UNFITTED

    def fingerprint_query(self, audio: Audio, change: Change = UNCHANGED) -> Fingerprint:
        """Return vectors at two phases of the hop; a short query is followed by silence."""
        missing = self.card.segment - len(audio)
        if missing > 0:
            samples = np.pad(audio.samples, (0, missing))
            padded = super().fingerprint_query(Audio(samples, audio.sample_rate), change)
            times, values = padded.times[:1], padded.values[:1]
            return Fingerprint(self.method, self.model_id, times, values, audio.duration)
        return super().fingerprint_query(audio, change)
