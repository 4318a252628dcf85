"""Judges places that may be sampled by stored nodes: cross-attention over all nominees.

Search compares one vector a window. Here all nodes of a query's window are compared with all of a
recording's (:mod:`spolia.networks.node_matching`). A library keeps recordings' nodes, so that
hundreds of places are judged in a second, before any of their sound is decoded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from spolia.encoders import Classifier, Encoder
from spolia.fingerprints.nodes import nodes_at
from spolia.fingerprints.samples import Columns, Rows
from spolia.samples import Nominee

BATCH = 48  # pairs that are compared at once, by each thread
N_PAIRS = 2  # of a nominee, the most similar, that are compared

Compared = tuple[int, Rows, Rows]  # which nominee, nodes of a query's window and of a recording's


@dataclass(frozen=True)
class NodeJudge:
    """A classifier of an encoder's short nodes."""

    classifier: Classifier
    encoder: Encoder

    @property
    def model_id(self) -> str:
        """The classifier's id."""
        return self.classifier.card.id

    def judged(
        self,
        query: Sequence[Rows],
        nominees: Sequence[Nominee],
        nodes: Callable[[int], Columns | None],
        *,
        threads: int = 1,
    ) -> list[Nominee]:
        """Return nominees with the logit of their best pair, that the same sound is in both.

        query: columns of a query's nodes, at each phase; nodes: gives a recording's columns, by its
        number, or None. What has none keeps its logit of 0: as likely right as wrong.
        """
        compared = list(self._windows(query, nominees, nodes))
        batches = [compared[i : i + BATCH] for i in range(0, len(compared), BATCH)]
        with ThreadPoolExecutor(threads) as pool:
            logits = [x for of in pool.map(self._logits, batches) for x in of.tolist()]
        best: dict[int, float] = {}
        for (number, *_), logit in zip(compared, logits, strict=True):
            best[number] = max(logit, best.get(number, -np.inf))
        return [replace(n, logit=best.get(i, n.logit)) for i, n in enumerate(nominees)]

    def _windows(
        self,
        query: Sequence[Rows],
        nominees: Sequence[Nominee],
        nodes: Callable[[int], Columns | None],
    ) -> Iterator[Compared]:
        """Yield the windows of each nominee's pairs, a recording's columns being read once."""
        card = self.encoder.card
        half, hop = card.segment / card.sample_rate / 2, card.hop / card.sample_rate
        of_recording: dict[int, list[int]] = defaultdict(list)
        for number, nominee in enumerate(nominees):
            of_recording[nominee.recording].append(number)
        for recording, numbers in of_recording.items():
            rows = nodes(recording)
            if rows is None:
                continue
            for number, pair in ((n, p) for n in numbers for p in nominees[n].pairs[:N_PAIRS]):
                start = max(0.0, pair.query - half)
                phase = round(start / hop * len(query)) % len(query)
                asking = nodes_at(query[phase], [start - phase * hop / len(query)], card)
                yield number, asking[0], nodes_at(rows, [pair.recording - half], card)[0]

    def _logits(self, compared: Sequence[Compared]) -> npt.NDArray[np.float32]:
        queries, candidates = (np.stack([of[i] for of in compared]) for i in (1, 2))
        return self.classifier.compare(queries, candidates)
