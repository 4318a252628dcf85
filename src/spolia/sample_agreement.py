"""Compares a track with recordings node by node: late interaction, after a search by vectors.

A window's vector is made of all that sounds in it, so a loud bed moves it far from the
recording's. Of its nodes, one for half a second and two thirds of an octave, a bed leaves some as
they were. Here each node of the track looks for its most similar one at about its place in a
recording's window (Khattab and Zaharia, *ColBERT*, SIGIR 2020), and counts only by how far that is
beyond what the node finds in the library at large: what is common is no evidence. Windows are
judged the same way, by what theirs add up to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from spolia.encoders import ModelCard
from spolia.fingerprints.samples import Columns, Rows
from spolia.sample_patches import Pair
from spolia.samples import CELL, N_OF_RECORDING, Nominee, apart
from spolia.store.hits import Hits, chosen
from spolia.store.rows import unit_vectors

N_HITS = 1000  # per window of a track that name places
N_PLACES = 3000  # that are compared node by node, for each stretch of a track
AROUND = 12  # columns around such a place, either way
STRETCH = 128  # columns of a track that are compared with the same places
BATCH = 512  # columns of recordings that are compared at once
BESIDE = 0.97  # of a cosine that counts one column sooner or later, as tempos differ
RARE = 2.5  # deviations from which a similarity counts
SOFTENING = 0.02, 0.5  # of deviations: of a node's cosines, of a window's sums
ALONE = 0.3, 0.15  # mean and deviation of cosines where the library holds nothing else, or too
FEW = 2  # recordings, and fewer, to tell
N_SAMPLED, SAMPLE = 640, 10  # recordings that stand for the library, and columns of each

Grid = npt.NDArray[np.float32]  # unit nodes [shape=(n_rows, n_columns, d)]
Matrix = npt.NDArray[np.float32]
Nodes = Callable[[int], Columns | None]
Search = Callable[[float, float], Hits]


@dataclass(frozen=True)
class Piece:
    """Consecutive columns of a recording."""

    recording: int
    first: int  # column
    columns: Columns


@dataclass(frozen=True)
class NodeSearch:
    """Finds the places of recordings whose nodes a track's agree with."""

    query: Rows  # columns of the track, from its beginning on
    card: ModelCard  # of the encoder that made all nodes
    nodes: Nodes  # gives a recording's columns, by its number, or None
    n_recordings: int
    threads: int = 1

    @property
    def hop(self) -> float:
        """Seconds between columns."""
        return self.card.hop / self.card.sample_rate

    @property
    def half(self) -> float:
        """Seconds from the beginning of a window to its middle."""
        return self.card.segment / self.card.sample_rate / 2

    @property
    def width(self) -> int:
        """Columns of a window."""
        return int(self.card.architecture["columns"])

    def nominees(self, search: Search) -> list[Nominee]:
        """Return places with the agreement of their best windows, the best first.

        search: gives the hits of the track's vectors between two times, the second not included;
        they say which places are compared at all, for each stretch of the track, so that a long one
        takes as long a second as a short one.
        """
        overlap = self.width - 1
        found: list[Nominee] = []
        for first in range(0, max(1, len(self.query) - overlap), STRETCH - overlap):
            last = first + STRETCH - overlap
            found += self._agreeing(first, _places(search(first * self.hop, last * self.hop)))
        return sorted(found, key=lambda nominee: -nominee.agreement)

    def _agreeing(self, first: int, places: Hits) -> list[Nominee]:
        """Return places for the stretch of the track that begins at a column."""
        grid = self._grid(self.query[first : first + STRETCH])
        similar: dict[int, Hits] = {
            int(r): chosen(places, places.recordings == r) for r in np.unique(places.recordings)
        }

        def compare(stretch: Stretch, pieces: list[Piece]) -> list[Nominee]:
            return [
                nominee
                for piece, found in zip(pieces, self._compared(stretch, pieces), strict=True)
                for nominee in self._nominated(piece, found, first, similar[piece.recording])
            ]

        found: list[Nominee] = []
        for members, background in self._backgrounds:
            of = {r: similar[r] for r in similar if members is None or r in members}
            stretch = Stretch(grid, background, self.width)
            with ThreadPoolExecutor(self.threads) as pool:
                for part in pool.map(partial(compare, stretch), self._batches(of)):
                    found += part
            similar = {r: similar[r] for r in similar if r not in of}
        return found

    def _compared(self, stretch: Stretch, pieces: Sequence[Piece]) -> Iterator[Matrix]:
        """Yield the agreement of a stretch's windows with those of each piece."""
        gap = np.zeros((1, self.query.shape[1]), np.float32)
        columns = np.concatenate([of for piece in pieces for of in (piece.columns, gap)])
        agreement = stretch.agreement(self._grid(columns))
        start = 0
        for piece in pieces:
            yield agreement[:, start : start + len(piece.columns) - stretch.width + 1]
            start += len(piece.columns) + 1

    def _batches(self, similar: dict[int, Hits]) -> Iterator[list[Piece]]:
        """Yield what is compared at once."""
        batch, n_columns = list[Piece](), 0
        for recording, places in similar.items():
            rows = self.nodes(recording)
            for piece in [] if rows is None else self._pieces(recording, rows, places):
                batch.append(piece)
                n_columns += len(piece.columns)
                if n_columns >= BATCH:
                    yield batch
                    batch, n_columns = [], 0
        if batch:
            yield batch

    def _pieces(self, recording: int, rows: Columns, places: Hits) -> Iterator[Piece]:
        """Yield the columns of a recording around places, each once."""
        width = self.width
        wanted = np.zeros(max(len(rows), width) + 1, bool)
        for column in np.round(places.reference_times / self.hop).astype(int).tolist():
            wanted[max(0, column - AROUND) : max(0, column + width + AROUND)] = True
        wanted[-1] = False
        edges = np.flatnonzero(np.diff(wanted, prepend=False))
        for start, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            start = max(0, min(start, end - width))
            columns = rows[start:end]
            missing = end - start - len(columns)
            yield Piece(recording, start, np.pad(columns, ((0, missing), (0, 0))))

    def _nominated(
        self, piece: Piece, agreement: Matrix, first: int, similar: Hits
    ) -> Iterator[Nominee]:
        """Yield the places of a piece that agree most, as far apart as places are."""
        best, cell = agreement.max(axis=0), round(CELL / self.hop)
        for _ in range(N_OF_RECORDING):
            column = int(best.argmax())
            if best[column] == -np.inf:
                return
            low, high = max(0, column - cell + 1), column + cell
            near = agreement[:, low:high]
            order, at = np.argsort(-near.max(axis=1), kind="stable"), near.argmax(axis=1)
            pairs = apart(
                self._middles(first + order), self._middles(piece.first + low + at[order])
            )
            yield Nominee(
                piece.recording,
                pairs,
                self._similarity(similar, pairs[0]),
                agreement=float(best[column]),
            )
            best[low:high] = -np.inf

    def _similarity(self, similar: Hits, pair: Pair) -> float:
        """Return the cosine of the similar place that is nearest to a pair."""
        distances = np.abs(similar.reference_times + self.half - pair.recording)
        return float(similar.scores[distances.argmin()])

    def _middles(self, columns: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return seconds in the middle of the windows that begin at columns."""
        return np.asarray(columns * self.hop + self.half, np.float64)

    def _grid(self, columns: Columns) -> Grid:
        """Return columns' nodes, unit norm."""
        dim = int(self.card.architecture["node_dim"])
        units = unit_vectors(columns.reshape(-1, dim)).reshape(len(columns), -1, dim)
        return np.ascontiguousarray(units.swapaxes(0, 1))

    @cached_property
    def _backgrounds(self) -> list[tuple[set[int] | None, list[Grid]]]:
        """Two samples of the library, and which recordings are measured against each; None: all.

        None is measured against itself: in a small library what is sampled would seem common.
        """
        numbers = np.linspace(0, self.n_recordings - 1, min(N_SAMPLED, self.n_recordings))
        chosen_ones = np.unique(numbers.round().astype(int)).tolist()
        one, other = chosen_ones[::2], chosen_ones[1::2]
        return [(set(one), self._middle_of(other)), (None, self._middle_of(one))]

    def _middle_of(self, recordings: Sequence[int]) -> list[Grid]:
        """Return nodes from the middle of each recording that has enough."""
        found = []
        for rows in map(self.nodes, recordings):
            if rows is not None and len(rows) >= self.width:
                start = max(0, (len(rows) - SAMPLE) // 2)
                found.append(self._grid(rows[start : start + SAMPLE]))
        return found


class Stretch:
    """A stretch of a track, and what it would find anywhere."""

    def __init__(self, grid: Grid, background: Sequence[Grid], width: int) -> None:
        """Take its nodes, those of stretches of the library, and the columns of a window."""
        self.grid, self.width = grid, width
        if len(background) <= FEW:  # their spread is not that of a library
            self.least = np.full((*grid.shape[:2], 1), ALONE[0] + RARE * ALONE[1], np.float32)
            self.scale = np.full_like(self.least, 1.0 / ALONE[1])
            self.mean, self.spread = np.zeros(grid.shape[1] - width + 1), np.float64(1.0)
            return
        joined = np.concatenate(background, axis=1)
        found = [_cosines(grid, joined, row) for row in range(len(grid))]
        spread = np.stack([of.std(1) for of in found]) + SOFTENING[0]
        mean = np.stack([of.mean(1) for of in found])
        self.least, self.scale = (mean + RARE * spread)[:, :, None], 1.0 / spread[:, :, None]
        sums = np.concatenate([self._sums(of) for of in background], axis=1)
        self.mean, self.spread = sums.mean(1), sums.std(1)[:, None] + SOFTENING[1]

    def agreement(self, columns: Grid) -> Matrix:
        """Return how far windows agree beyond what any would, in deviations.

        Shape (n_windows of the stretch, n_windows of the columns).
        """
        sums = self._sums(columns)
        return np.asarray((sums - self.mean[:, None]) / self.spread, np.float32)

    def _sums(self, columns: Grid) -> Matrix:
        """Return what rare similarities add up to in each pair of windows."""
        evidence = np.zeros((self.grid.shape[1], columns.shape[1]), np.float32)
        for row, (least, scale) in enumerate(zip(self.least, self.scale, strict=True)):
            cosines = _cosines(self.grid, columns, row)  # a row at a time stays in the cache
            beside = BESIDE * cosines
            np.maximum(cosines[:, 1:], beside[:, :-1], out=cosines[:, 1:])
            np.maximum(cosines[:, :-1], beside[:, 1:], out=cosines[:, :-1])
            cosines -= least
            np.maximum(cosines, 0.0, out=cosines)
            cosines *= scale
            evidence += cosines
        m, n = (max(0, size - self.width + 1) for size in evidence.shape)
        sums = np.zeros((m, n), np.float32)
        for d in range(self.width):
            sums += evidence[d : d + m, d : d + n]
        return sums


def _cosines(query: Grid, columns: Grid, row: int) -> Matrix:
    """Return how similar the most similar node is, of the rows at and beside a node's own.

    Shape (columns of the query, columns of the recording).
    """
    found: Matrix = query[row] @ columns[row].T
    for other in (row - 1, row + 1):
        if 0 <= other < len(query):
            np.maximum(found, query[row] @ columns[other].T, out=found)
    return found


def _places(hits: Hits) -> Hits:
    """Return the best hit of each stretch of CELL seconds of a recording, the best N_PLACES."""
    order = np.argsort(-hits.scores, kind="stable")
    cells = (hits.reference_times[order] // CELL).astype(np.int64)
    _, firsts = np.unique(
        (hits.recordings[order].astype(np.int64) << 32) | cells, return_index=True
    )
    return chosen(hits, order[np.sort(firsts)[:N_PLACES]])
