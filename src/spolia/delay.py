"""How late a query's sound is: what matched vectors still tell of the room it was played in. Pure.

In a room the energy arrives after the direct sound, and what a query's vectors match lies earlier
in the recording. An encoder that is trained to forgive rooms forgets them incompletely: they move
its vectors in the same direction whatever the music. So the delay is read off the mean difference
between the query's vectors and the recording's, and off the shape of the similarity around the
line, by a linear function (ridge regression; ``spolia train delay`` fits it on degraded clips of
training recordings with known truth).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from spolia.alignment import Floats, Line, Window
from spolia.errors import ParameterError

PLACES = np.linspace(-2.0, 2.0, 9)  # hops from the line at which its similarity is looked at
MOST = 0.3  # seconds
REPEATED = 8  # query vectors; with few, the delay is drawn towards nothing


@dataclass(frozen=True)
class Delay:
    """A linear function of :func:`traces`."""

    weights: tuple[float, ...]  # → seconds by which the query's sound is late
    n_clips: int = 0  # it was fitted on
    # share of lines within 0.1 s without and with correction, on clips in rooms of other recordings
    # and other rooms than a first fit had seen
    within: Sequence[float] | None = None

    def apply(self, window: Window, line: Line) -> Line:
        """Return a line where it would be had the query been recorded without a room."""
        seconds = float(np.clip(traces(window, line) @ np.asarray(self.weights), -MOST, MOST))
        return replace(line, offset=line.offset + seconds)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a model's metadata."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Delay:
        """Read what :meth:`to_dict` wrote; raises ParameterError where it is incomplete."""
        try:
            weights = tuple(float(w) for w in values["weights"])
        except (KeyError, TypeError, ValueError) as error:
            raise ParameterError(
                f"not the weights of a delay ({error!r}); fit the model's again with "
                "`spolia train delay`"
            ) from error
        return cls(weights, values.get("n_clips", 0), values.get("within"))


def n_traces(dim: int) -> int:
    """Return the number of traces of vectors of size ``dim``."""
    return 2 + len(PLACES) + dim


def traces(window: Window, line: Line) -> Floats:
    """Return what a match shows of a room [shape=(n_traces(dim),)].

    One, the line's score, its mean similarity at PLACES around it, and the mean difference between
    the query's vectors and the recording's (interpolated, of unit length), over the vectors of the
    line's stretch. All are scaled by n / (n + REPEATED), n being the number of these vectors.
    """
    times = window.query_times
    inside = window.inside(line)
    n = len(times[inside])
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


def fit(x: Floats, delay: Floats, *, ridge: float = 0.01) -> Floats:
    """Return the weights [shape=(n_traces,)] that predict a delay, by ridge regression.

    x: traces [shape=(n, n_traces)]; delay: truth, seconds [shape=(n,)]. Each trace is penalised in
    proportion to its variance, as if all were standardised; the constant is not.
    """
    spread = x.var(0) * len(x) * ridge
    spread[0] = 0.0
    return np.asarray(np.linalg.solve(x.T @ x + np.diag(spread + 1e-9), x.T @ delay), np.float64)
