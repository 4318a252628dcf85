"""What matched vectors still tell: how late a query's sound is, and how much higher it plays.

An encoder that is trained to forgive rooms and pitch forgets them incompletely. In a room the
energy arrives after the direct sound, and what its vectors match lies earlier in the recording; a
higher pitch moves the vectors too. Both move them in the same direction whatever the music, so
both are read off the mean difference between the query's vectors and the recording's, and off the
shape of the similarity around the line, by linear functions (ridge regression; ``spolia train
corrections`` fits them on degraded clips of training recordings with known truth).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from spolia.alignment import Floats, Line, Window
from spolia.errors import ParameterError

PLACES = np.linspace(-2.0, 2.0, 9)  # hops from the line at which its similarity is looked at
MOST_DELAY = 0.3  # seconds
MOST_SEMITONES = 1.5
REPEATED = 8  # query vectors; with few, corrections are drawn towards nothing


@dataclass(frozen=True)
class Corrections:
    """Two linear functions of :func:`traces`."""

    delay: tuple[float, ...]  # → seconds by which the query's sound is late
    semitones: tuple[float, ...]  # → semitones by which the query sounds higher
    n_clips: int = 0  # it was fitted on
    # deviations (root mean square) without and with correction, on clips of other recordings in
    # other rooms than a first fit had seen
    deviations: Mapping[str, Sequence[float]] | None = None

    def apply(self, window: Window, line: Line) -> Line:
        """Return a line of a query as if it had no room, and how much higher the query sounds."""
        x = traces(window, line)
        delay = float(np.clip(x @ np.asarray(self.delay), -MOST_DELAY, MOST_DELAY))
        higher = float(np.clip(x @ np.asarray(self.semitones), -MOST_SEMITONES, MOST_SEMITONES))
        return line.moved(delay, higher)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a model's metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Corrections:
        """Read what :meth:`to_dict` wrote; raises ParameterError where it is incomplete."""
        try:
            delay, semitones = tuple(values["delay"]), tuple(values["semitones"])
        except (KeyError, TypeError) as error:
            raise ParameterError(f"not corrections ({error}); fit the model's again") from error
        if len(delay) != len(semitones):
            raise ParameterError(
                f"corrections have {len(delay)} weights for the delay but {len(semitones)} for the "
                "pitch; fit the model's again"
            )
        return cls(delay, semitones, values.get("n_clips", 0), values.get("deviations"))


def n_traces(dim: int) -> int:
    """Return the number of traces of vectors of size ``dim``."""
    return 2 + len(PLACES) + dim


def traces(window: Window, line: Line) -> Floats:
    """Return what a match shows of room and pitch [shape=(n_traces(dim),)].

    One, the line's score, its mean similarity at PLACES around it, and the mean difference between
    the query's vectors and the recording's (interpolated, of unit length), over the vectors of the
    line's stretch. All are scaled by n / (n + REPEATED), n being the number of these vectors.
    """
    times = window.query_times
    inside = (times >= line.query_start - 1e-9) & (times < line.query_end)
    n = int(inside.sum())
    middle = float(times.mean())
    centres = line.offset + line.speed * middle + PLACES * window.hop
    around = window.along(np.full(len(PLACES), line.speed), centres, middle)[:, inside]
    difference = window.query[inside] - _along(window, line, times[inside])
    parts = [[1.0, line.score], around.mean(1), difference.mean(0)]
    return np.concatenate(parts).astype(np.float64) * (n / (n + REPEATED))


def _along(window: Window, line: Line, times: Floats) -> npt.NDArray[np.float32]:
    """Return the recording's vectors along the line [shape=(n, dim)], zero where it has none."""
    place = (line.speed * times + line.offset - window.start) / window.hop
    left = np.clip(np.floor(place).astype(np.int64), 0, len(window.reference) - 2)
    share = np.clip(place - left, 0.0, 1.0).astype(np.float32)[:, None]
    vectors = (1 - share) * window.reference[left] + share * window.reference[left + 1]
    norm = np.sqrt(np.square(vectors).sum(1, keepdims=True))
    return np.asarray(vectors / np.maximum(norm, 1e-6), np.float32)


def fit(
    x: Floats, delay: Floats, semitones: Floats, *, ridge: float = 0.03
) -> tuple[Floats, Floats]:
    """Return the weights of delay and semitones [shape=(n_traces,)] by ridge regression.

    x: traces [shape=(n, n_traces)]; delay, semitones: truth [shape=(n,)]. Each trace is penalised
    in proportion to its variance, as if all were standardised; the constant is not.
    """
    spread = x.var(0) * len(x) * ridge
    spread[0] = 0.0
    truth = np.stack([delay, semitones], axis=1)
    weights = np.asarray(np.linalg.solve(x.T @ x + np.diag(spread + 1e-9), x.T @ truth), np.float64)
    return weights[:, 0], weights[:, 1]
