"""Neural segment fingerprints: one unit vector per second of sound, every half second.

The encoder is convolutional in time, so a long recording goes through it in blocks, and the
vectors of a block are those of the whole: every block carries a margin whose vectors are dropped.
Queries are encoded at several phases of the hop, because a query never begins on a reference's
grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from spolia.audio import Audio
from spolia.calibration import UNFITTED, Calibration
from spolia.confirmation import UNFITTED as UNCONFIRMED
from spolia.confirmation import Confirmation
from spolia.encoders import DEFAULT_SEGMENT_MODEL, Encoder, ModelCard, open_encoder
from spolia.errors import ParameterError
from spolia.fingerprints.base import UNCHANGED, Change, Fingerprint
from spolia.timing import n_segments

SILENCE_RMS = 1e-4  # −80 dBFS: segments below are neither stored nor searched
BLOCK_SEGMENTS = 120  # one minute
QUERY_PHASES = 4  # a query vector every 0.125 s
CHANGED_PHASES = 2  # of a query that is tried again with a change
# The encoder forgives about a semitone, and 20 % of tempo, so tempo needs no changes. These leave
# at most 0.65 semitones of shifts up to 4.5, and of a speed whose pitch is within that.
CHANGES = tuple(Change(semitones=s) for s in (1.3, -1.3, 2.6, -2.6, 3.9, -3.9))

Vectors = npt.NDArray[np.float32]
Times = npt.NDArray[np.float64]


class SegmentFingerprinter:
    """Makes ``segments`` fingerprints with an encoder."""

    method = "segments"
    phases = QUERY_PHASES

    def __init__(
        self, encoder: Encoder | None = None, *, model: str = DEFAULT_SEGMENT_MODEL
    ) -> None:
        self.encoder = encoder or open_encoder(model)

    @cached_property
    def card(self) -> ModelCard:
        """The encoder's description."""
        return self.encoder.card

    @property
    def model_id(self) -> str:
        """The encoder's id."""
        return self.card.id

    @property
    def sample_rate(self) -> int:
        """The encoder's sample rate in Hz."""
        return self.card.sample_rate

    @property
    def hop_seconds(self) -> float:
        """Seconds between a reference's vectors."""
        return self.card.hop / self.card.sample_rate

    @property
    def segment_seconds(self) -> float:
        """Seconds of sound that one vector sees."""
        return self.card.segment / self.card.sample_rate

    @property
    def shortest_seconds(self) -> float:
        """Seconds of sound below which a reference has no vector."""
        return self.segment_seconds

    @cached_property
    def calibration(self) -> Calibration:
        """The encoder's calibration, or a rough one for a model that was never calibrated."""
        fitted = self.card.calibration
        return Calibration.from_dict(fitted) if fitted else UNFITTED

    @cached_property
    def confirmation(self) -> Confirmation | None:
        """What the recordings' sound adds to the calibration; nothing, if that was never fitted."""
        fitted = self.card.calibration.get("confirmation")
        return Confirmation.from_dict(fitted) if fitted else UNCONFIRMED

    @property
    def delay(self) -> Mapping[str, Any]:
        """How a room's delay shows in the encoder's matches; empty if it was never fitted."""
        return self.card.delay

    def fingerprint(self, audio: Audio) -> Fingerprint:
        """Return the vectors of a reference, one every hop; silent segments are left out."""
        return self.fingerprint_blocks(iter([audio]))

    def fingerprint_blocks(self, blocks: Iterator[Audio]) -> Fingerprint:
        """Return the reference fingerprint of consecutive blocks in bounded memory."""
        return self._fingerprinted(blocks, lambda w: self.encoder.encode(w.samples[None])[0])

    def _fingerprinted(
        self, blocks: Iterator[Audio], encode: Callable[[Window], Vectors]
    ) -> Fingerprint:
        """Return the fingerprint of blocks, given what encodes a window, those dropped too."""
        vectors = [np.zeros((0, self.card.dim), np.float32)]
        times: list[npt.NDArray[np.float64]] = [np.zeros(0)]
        windows = _Windows(self.card, round(self.shortest_seconds * self.sample_rate))
        for window in windows.cut(self._checked(block) for block in blocks):
            encoded = encode(window)
            starts = np.arange(len(encoded), dtype=np.float64) * self.card.hop
            keep = np.flatnonzero(self._loud_from(window.samples, starts))
            keep = keep[(keep >= window.n_dropped) & (keep < window.n_dropped + window.n_kept)]
            vectors.append(encoded[keep])
            first = window.first - window.n_dropped
            times.append((first + keep).astype(np.float64) * self.hop_seconds)
        return Fingerprint(
            self.method,
            self.model_id,
            np.concatenate(times),
            np.concatenate(vectors),
            windows.n_samples / self.sample_rate,
        )

    @property
    def query_changes(self) -> Sequence[Change]:
        """Changes that bring pitch and tempo back into the encoder's reach."""
        return CHANGES if self.encoder.can_warp else ()

    def fingerprint_query(self, audio: Audio, change: Change = UNCHANGED) -> Fingerprint:
        """Return vectors at several phases of the hop, in order of time.

        change: what is done to the query first. Each vector keeps the place of its middle in the
        query as it was given.
        """
        audio = self._checked(audio)
        if change == UNCHANGED:
            parts = list(self._phases(audio, self.fingerprint))
        else:
            parts = list(self._changed(audio, change))
        times = np.concatenate([np.zeros(0), *(times for times, _ in parts)])
        empty = np.zeros((0, self.card.dim), np.float32)
        vectors = np.concatenate([empty, *(vectors for _, vectors in parts)])
        order = np.argsort(times, kind="stable")
        return Fingerprint(self.method, self.model_id, times[order], vectors[order], audio.duration)

    def _phases(
        self, audio: Audio, reference: Callable[[Audio], Fingerprint]
    ) -> Iterator[tuple[Times, Vectors]]:
        shift = self.card.hop // self.phases
        for phase in range(self._n_phases(audio)):
            part = audio.samples[phase * shift :]
            if phase and n_covering(len(part), self.card) == 0:
                return
            one = reference(Audio(part, audio.sample_rate))
            yield one.times + phase * shift / self.sample_rate, one.values

    def _n_phases(self, audio: Audio) -> int:
        """Return the phases at which a query is encoded."""
        return self.phases

    def _changed(self, audio: Audio, change: Change) -> Iterator[tuple[Times, Vectors]]:
        """Yield times and vectors of a changed query, stretch by stretch and phase by phase."""
        card, front = self.card, self.card.architecture["front_end"]
        step, n_fft = front["hop_length"], front["n_fft"]
        n_seen = (card.segment - n_fft) // step + 1  # frames of a segment
        n_hop = card.hop // step
        reach = round((change.tempo * n_seen + 1) * step) + n_fft  # sound that the last one needs
        size = BLOCK_SEGMENTS * card.hop
        for start in range(0, max(1, len(audio) - card.segment), size):
            samples = audio.samples[start : start + size + reach]
            samples = np.pad(samples, (0, max(0, card.segment - len(samples))))
            n_changed = (self.encoder.n_frames(len(samples)) - 1) / change.tempo
            for phase in range(CHANGED_PHASES):
                first = phase * n_hop / CHANGED_PHASES
                n = max(int(n_changed - first) + 1, n_seen if phase == 0 else 0)
                if n < n_seen:
                    continue
                frames = np.asarray((first + np.arange(n)) * change.tempo, np.float32)
                vectors = self.encoder.encode(
                    samples[None], semitones=change.semitones, frames=frames
                )[0]
                begins = frames[: len(vectors) * n_hop : n_hop].astype(np.float64) * step
                # a segment's middle is that many frames after its first, in the query as given
                begins += (change.tempo - 1.0) * (n_seen - 1) / 2 * step
                keep = (begins < size) & self._loud_from(samples, begins)
                yield (start + begins[keep]) / self.sample_rate, vectors[keep]

    def _loud_from(self, samples: Vectors, starts: Times) -> npt.NDArray[np.bool_]:
        """Tell which segments are not silent, from their first samples [shape=(n_segments,)]."""
        energy = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
        first = np.clip(np.round(starts), 0, len(samples)).astype(np.int64)
        last = np.minimum(first + self.card.segment, len(samples))
        return np.asarray((energy[last] - energy[first]) / self.card.segment > SILENCE_RMS**2)

    def _checked(self, audio: Audio) -> Audio:
        if audio.sample_rate != self.sample_rate:
            raise ParameterError(
                f"the audio has {audio.sample_rate} Hz but the model takes {self.sample_rate} Hz; "
                "load it with that sample_rate"
            )
        return audio


def n_covering(n_samples: int, card: ModelCard) -> int:
    """Return the number of segments of a recording; the last may lack an eighth of a hop."""
    return n_segments(n_samples + card.hop // 8, card.segment, card.hop)


@dataclass(frozen=True)
class Window:
    """A stretch of samples to encode, and which of its segments to keep."""

    samples: Vectors
    first: int  # number of the first segment kept, counted from the recording's start
    n_dropped: int  # segments before it, there only for the sake of the border
    n_kept: int


class _Windows:
    """Cuts a stream of blocks into overlapping windows of about a minute."""

    def __init__(self, card: ModelCard, shortest: int) -> None:
        """Take the samples below which nothing is cut; silence follows what is a bit longer."""
        self.card, self.shortest = card, shortest
        self.n_samples = 0  # seen so far

    def cut(self, blocks: Iterable[Audio]) -> Iterator[Window]:
        hop, segment, margin = self.card.hop, self.card.segment, self.card.margin
        length = (BLOCK_SEGMENTS + 2 * margin - 1) * hop + segment
        buffer = np.zeros(0, np.float32)
        start = done = 0  # the segments at which the buffer begins and the next window's do
        for block in blocks:
            buffer = np.concatenate([buffer, block.samples])
            self.n_samples += len(block)
            while len(buffer) >= length:
                n_kept = start + BLOCK_SEGMENTS + margin - done
                yield Window(buffer[:length], done, done - start, n_kept)
                done += n_kept
                buffer = buffer[(done - margin - start) * hop :]
                start = done - margin
        n_all = n_covering(len(buffer), self.card)
        if self.shortest <= self.n_samples < segment:
            n_all = 1
        if n_all > done - start:
            whole = (n_all - 1) * hop + segment
            padded = np.pad(buffer, (0, max(0, whole - len(buffer))))[:whole]
            yield Window(padded, done, done - start, n_all - (done - start))
