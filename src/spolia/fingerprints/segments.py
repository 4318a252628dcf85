"""Neural segment fingerprints: one unit vector per second of sound, every half second.

The encoder is convolutional in time, so a long recording goes through it in blocks, and the
vectors of a block are those of the whole: every block carries a margin whose vectors are dropped.
Queries are encoded at several phases of the hop, because a query never begins on a reference's
grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import soxr

from spolia.audio import Audio
from spolia.calibration import UNFITTED, Calibration
from spolia.encoders import DEFAULT_SEGMENT_MODEL, Encoder, ModelCard, open_model
from spolia.errors import ParameterError
from spolia.fingerprints.base import Fingerprint
from spolia.timing import n_segments

SILENCE_RMS = 1e-4  # −80 dBFS: segments below are neither stored nor searched
BLOCK_SEGMENTS = 120  # one minute
QUERY_PHASES = 4  # a query vector every 0.125 s
SHIFTED_PHASES = 2  # of a query that is played again at another rate
SHIFT = 1.6  # semitones by which such a query is shifted, up and down

Vectors = npt.NDArray[np.float32]


class SegmentFingerprinter:
    """Makes ``segments`` fingerprints with an encoder."""

    method = "segments"

    def __init__(
        self, encoder: Encoder | None = None, *, model: str = DEFAULT_SEGMENT_MODEL
    ) -> None:
        self.encoder = encoder or open_model(model)

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

    @cached_property
    def calibration(self) -> Calibration:
        """The encoder's calibration, or a rough one for a model that was never calibrated."""
        fitted = self.card.calibration
        return Calibration.from_dict(fitted) if fitted else UNFITTED

    def fingerprint(self, audio: Audio) -> Fingerprint:
        """Return the vectors of a reference, one every hop; silent segments are left out."""
        return self.fingerprint_blocks(iter([audio]))

    def fingerprint_blocks(self, blocks: Iterator[Audio]) -> Fingerprint:
        """Return the reference fingerprint of consecutive blocks in bounded memory."""
        vectors = [np.zeros((0, self.card.dim), np.float32)]
        times: list[npt.NDArray[np.float64]] = [np.zeros(0)]
        windows = _Windows(self.card)
        for window in windows.cut(self._checked(block) for block in blocks):
            encoded = self.encoder.encode(window.samples[None])[0]
            keep = np.flatnonzero(self._loud(window.samples, len(encoded)))
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

    def _loud(self, samples: Vectors, n_segments: int) -> npt.NDArray[np.bool_]:
        """Tell which segments are not silent [shape=(n_segments,)]."""
        energy = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
        starts = np.arange(n_segments) * self.card.hop
        mean = (energy[starts + self.card.segment] - energy[starts]) / self.card.segment
        return np.asarray(mean > SILENCE_RMS**2)

    @property
    def query_rates(self) -> Sequence[float]:
        """Rates that bring shifts of pitch beyond a semitone back into the encoder's reach."""
        return 2.0 ** (SHIFT / 12), 2.0 ** (-SHIFT / 12)

    def fingerprint_query(self, audio: Audio, *, rate: float = 1.0) -> Fingerprint:
        """Return vectors at several phases of the hop, in order of time.

        rate: how many times as fast, and so higher, the query is played before it is encoded. Each
        vector keeps the place of its middle in the query as it was given.
        """
        original, n_phases = audio, QUERY_PHASES
        if rate != 1.0:
            samples = soxr.resample(audio.samples, rate, 1.0, quality="HQ")
            audio, n_phases = Audio(samples, audio.sample_rate), SHIFTED_PHASES
        shift = self.card.hop // n_phases
        times: list[npt.NDArray[np.float64]] = []
        vectors: list[Vectors] = []
        for phase in range(n_phases):
            part = audio.samples[phase * shift :]
            if phase and n_covering(len(part), self.card) == 0:
                break
            one = self.fingerprint(Audio(part, audio.sample_rate))
            times.append(one.times + phase * shift / self.sample_rate)
            vectors.append(one.values)
        played = np.concatenate(times)
        order = np.argsort(played, kind="stable")
        return Fingerprint(
            self.method,
            self.model_id,
            rate * played[order] + (rate - 1.0) * self.segment_seconds / 2,
            np.concatenate(vectors)[order],
            original.duration,
        )

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
class _Window:
    """A stretch of samples to encode, and which of its segments to keep."""

    samples: Vectors
    first: int  # number of the first segment kept, counted from the recording's start
    n_dropped: int  # segments before it, there only for the sake of the border
    n_kept: int


class _Windows:
    """Cuts a stream of blocks into overlapping windows of about a minute."""

    def __init__(self, card: ModelCard) -> None:
        self.card = card
        self.n_samples = 0  # seen so far

    def cut(self, blocks: Iterable[Audio]) -> Iterator[_Window]:
        hop, segment, margin = self.card.hop, self.card.segment, self.card.margin
        length = (BLOCK_SEGMENTS + 2 * margin - 1) * hop + segment
        buffer = np.zeros(0, np.float32)
        start = done = 0  # the segments at which the buffer begins and the next window's do
        for block in blocks:
            buffer = np.concatenate([buffer, block.samples])
            self.n_samples += len(block)
            while len(buffer) >= length:
                n_kept = start + BLOCK_SEGMENTS + margin - done
                yield _Window(buffer[:length], done, done - start, n_kept)
                done += n_kept
                buffer = buffer[(done - margin - start) * hop :]
                start = done - margin
        n_all = n_covering(len(buffer), self.card)
        if n_all > done - start:
            whole = (n_all - 1) * hop + segment
            padded = np.pad(buffer, (0, max(0, whole - len(buffer))))[:whole]
            yield _Window(padded, done, done - start, n_all - (done - start))
