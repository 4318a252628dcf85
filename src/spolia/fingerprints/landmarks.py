"""Landmark fingerprints: hashes of peak pairs, the classic that needs no model.

References are stored sparsely. Queries are denser: more peaks, more pairs, and frames at several
phases of the hop, because a query's frames never begin where a reference's do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from types import MappingProxyType
from typing import Any

import numpy as np

from spolia.audio import Audio
from spolia.calibration import Calibration
from spolia.confirmation import Confirmation
from spolia.errors import ParameterError
from spolia.fingerprints.base import UNCHANGED, Change, Fingerprint
from spolia.landmarks import (
    HOP,
    MARGIN_AFTER,
    MARGIN_BEFORE,
    N_FFT,
    QUERY,
    REFERENCE,
    SAMPLE_RATE,
    Hashes,
    Ints,
    Samples,
    find_landmarks,
)
from spolia.timing import frames_to_seconds, samples_to_seconds

BLOCK_FRAMES = 3750  # one minute
QUERY_PHASES = 4  # a frame every 4 ms
CALIBRATION = "landmarks_calibration.json"  # of `spolia evaluate identify --calibrate`, fold 1


class LandmarkFingerprinter:
    """Makes ``landmarks`` fingerprints."""

    method = "landmarks"
    query_changes: Sequence[Change] = ()  # as in Wang 2003
    delay: Mapping[str, Any] = MappingProxyType({})
    model_id = None
    sample_rate = SAMPLE_RATE
    hop_seconds = HOP / SAMPLE_RATE
    segment_seconds = N_FFT / SAMPLE_RATE

    @cached_property
    def calibration(self) -> Calibration:
        """Fitted on the development corpus, see docs/results.md."""
        fitted = resources.files("spolia.fingerprints").joinpath(CALIBRATION).read_text()
        return Calibration.from_dict(json.loads(fitted))

    @property
    def confirmation(self) -> Confirmation | None:
        """Nothing: the yardstick stays what it was."""
        return None

    def fingerprint(self, audio: Audio) -> Fingerprint:
        """Return the hashes of a reference, uint32; silence gives none."""
        return self.fingerprint_blocks(iter([audio]))

    def fingerprint_blocks(self, blocks: Iterator[Audio]) -> Fingerprint:
        """Return the fingerprint of consecutive blocks in bounded memory, equal to the whole's."""
        frames = [np.zeros(0, np.int64)]
        hashes = [np.zeros(0, np.uint32)]
        n_samples = 0

        def counted() -> Iterator[Samples]:
            nonlocal n_samples
            for block in blocks:
                n_samples += len(block.samples)
                yield _checked(block).samples

        for window in _cut(counted()):
            found, values = find_landmarks(window.samples, REFERENCE)
            found += window.start
            keep = (found >= window.first) & (found < window.last)
            frames.append(found[keep])
            hashes.append(values[keep])
        times = frames_to_seconds(np.concatenate(frames), samples_to_seconds(HOP, SAMPLE_RATE))
        duration = samples_to_seconds(n_samples, SAMPLE_RATE)
        return Fingerprint(self.method, None, times, np.concatenate(hashes), duration)

    def fingerprint_query(self, audio: Audio, change: Change = UNCHANGED) -> Fingerprint:
        """Return the hashes of a query at ``QUERY_PHASES`` phases, each once per frame."""
        if change != UNCHANGED:
            raise ParameterError(f"landmarks are not made of changed queries ({change})")
        samples = _checked(audio).samples
        starts: list[Ints] = []
        hashes: list[Hashes] = []
        for shift in range(0, HOP, HOP // QUERY_PHASES):
            frames, values = find_landmarks(samples[shift:], QUERY)
            starts.append(frames * HOP + shift)
            hashes.append(values)
        start, value = np.concatenate(starts), np.concatenate(hashes)
        key = (start // HOP << 32) | value
        _, once = np.unique(key, return_index=True)
        once = once[np.argsort(start[once], kind="stable")]
        times = frames_to_seconds(start[once], samples_to_seconds(1, SAMPLE_RATE))
        return Fingerprint(self.method, None, times, value[once], audio.duration)


def _checked(audio: Audio) -> Audio:
    if audio.sample_rate != SAMPLE_RATE:
        raise ParameterError(
            f"the audio has {audio.sample_rate} Hz but landmarks take {SAMPLE_RATE} Hz; "
            "load it with that sample_rate"
        )
    return audio


@dataclass(frozen=True)
class _Window:
    """A stretch of samples, and which of its frames to keep."""

    samples: Samples
    start: int  # frame of the recording at which the samples begin
    first: int  # the first frame to keep, counted from the recording's start
    last: int  # the frame after the last to keep


def _cut(blocks: Iterable[Samples]) -> Iterator[_Window]:
    """Cut a stream into windows with the margins that make their landmarks those of the whole."""
    n_frames = MARGIN_BEFORE + BLOCK_FRAMES + MARGIN_AFTER
    length = (n_frames - 1) * HOP + N_FFT
    buffer = np.zeros(0, np.float32)
    start = first = 0
    for block in blocks:
        buffer = np.concatenate([buffer, block])
        while len(buffer) >= length:
            last = start + n_frames - MARGIN_AFTER
            yield _Window(buffer[:length], start, first, last)
            buffer = buffer[(last - MARGIN_BEFORE - start) * HOP :]
            start, first = last - MARGIN_BEFORE, last
    yield _Window(buffer, start, first, start + len(buffer) // HOP + 1)
