"""The one contract of all fingerprint methods: Audio → Fingerprint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from spolia.audio import Audio
from spolia.calibration import Calibration
from spolia.confirmation import Confirmation
from spolia.errors import ParameterError


@dataclass(frozen=True)
class Fingerprint:
    """A sequence of vectors or hashes with the time at which each begins."""

    method: str  # "segments", "landmarks", …
    model_id: str | None  # id of the model that made it; None for methods without weights
    times: npt.NDArray[np.float64]  # seconds [shape=(n,)], ascending
    values: npt.NDArray[Any]  # float32 [shape=(n, dim)] unit norm, or uint32 [shape=(n,)] hashes
    duration: float  # seconds of audio that were fingerprinted

    def __post_init__(self) -> None:
        """Check that times and values go together."""
        if len(self.times) != len(self.values):
            raise ParameterError(
                f"a fingerprint has {len(self.times)} times but {len(self.values)} values; "
                "give one time for each value"
            )

    def __len__(self) -> int:
        """Return the number of vectors or hashes."""
        return len(self.times)


@dataclass(frozen=True)
class Change:
    """How a query is played before it is fingerprinted."""

    semitones: float = 0.0  # higher by
    tempo: float = 1.0  # times as fast


UNCHANGED = Change()


class Fingerprinter(Protocol):
    """Turns audio into a fingerprint."""

    @property
    def method(self) -> str:
        """The name of the method, as in ``--method``."""

    @property
    def model_id(self) -> str | None:
        """The id of the model, or None for a method without weights."""

    @property
    def sample_rate(self) -> int:
        """The sample rate in Hz at which audio must be given."""

    def fingerprint(self, audio: Audio) -> Fingerprint:
        """Return the reference fingerprint of ``audio``; silence gives no entries."""

    @property
    def calibration(self) -> Calibration:
        """How scores of this method become probabilities."""

    @property
    def confirmation(self) -> Confirmation | None:
        """What the recordings' sound adds to it; None: matches are not to be aligned before."""

    @property
    def delay(self) -> Mapping[str, Any]:
        """How a room's delay shows in matches, see spolia.delay; empty: it was never fitted."""

    @property
    def hop_seconds(self) -> float:
        """Seconds between the times of a reference's entries, or their resolution."""

    @property
    def segment_seconds(self) -> float:
        """Seconds of sound that one entry describes."""

    def fingerprint_blocks(self, blocks: Iterator[Audio]) -> Fingerprint:
        """Return the reference fingerprint of consecutive blocks, in bounded memory."""

    @property
    def query_changes(self) -> Sequence[Change]:
        """Changes with which a query that found nothing sure is tried again."""

    def fingerprint_query(self, audio: Audio, change: Change = UNCHANGED) -> Fingerprint:
        """Return the fingerprint of a query, which may be denser than a reference's.

        change: what is done to the query first. The times returned are those of the query as it
        was given.
        """


class Listener(Protocol):
    """Makes a fingerprint of blocks as they come."""

    def hear(self, block: Audio) -> None:
        """Take the next block."""

    def fingerprint(self) -> Fingerprint:
        """Return the fingerprint of all that was heard."""


@runtime_checkable
class Beside(Fingerprinter, Protocol):
    """A fingerprinter that hears what another reads, so that a file is decoded once."""

    @property
    def beside(self) -> str:
        """The other's method, which takes the same sample rate."""

    def listener(self) -> Listener:
        """Return what listens to one recording."""


@runtime_checkable
class Accompanying(Fingerprinter, Protocol):
    """A fingerprinter of what another makes on its way, so that both are made at once."""

    @property
    def accompanies(self) -> str:
        """The other's method."""

    def both(self, blocks: Iterator[Audio]) -> tuple[Fingerprint, Fingerprint]:
        """Return the other's fingerprint of consecutive blocks, and this one's."""


@runtime_checkable
class Derived(Fingerprinter, Protocol):
    """A fingerprinter whose fingerprints can be made of another method's instead of sound."""

    @property
    def derives_from(self) -> str:
        """The other method."""

    @property
    def underlying(self) -> Fingerprinter:
        """What makes the other method's fingerprints."""

    @property
    def span_seconds(self) -> float:
        """Seconds that one entry covers, at most."""

    def derive(self, fingerprint: Fingerprint) -> Fingerprint:
        """Return the reference fingerprint of the same recording by this method."""

    def derive_query(self, fingerprint: Fingerprint) -> Fingerprint:
        """Return the query fingerprint of the same query by this method."""
