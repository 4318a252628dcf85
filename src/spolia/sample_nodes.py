"""Judges places that may be sampled by stored nodes: cross-attention over all nominees.

Search compares one vector a window. Here all nodes of a query's window are compared with all of a
recording's (:mod:`spolia.networks.node_matching`). A library keeps recordings' nodes, so that
hundreds of places are judged in a second, before any of their sound is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from spolia.encoders import Classifier, Encoder
from spolia.fingerprints.nodes import nodes_at
from spolia.fingerprints.samples import Rows
from spolia.sample_patches import Pair
from spolia.samples import Nominee

BATCH = 48  # pairs that are compared at once, by each thread
N_PAIRS = 2  # of a nominee, the most similar, that are compared

Task = tuple[int, Pair, Rows]  # which nominee, one of its pairs, the recording's columns


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
        nodes: Callable[[int], Rows | None],
        *,
        threads: int = 1,
    ) -> list[Nominee]:
        """Return nominees with the logit of their best pair, that the same sound is in both.

        query: columns of a query's nodes, at each phase; nodes: gives a recording's columns, by its
        number, or None. What has none keeps its logit of 0: as likely right as wrong.
        """
        tasks = list(_tasks(nominees, nodes))
        batches = [tasks[i : i + BATCH] for i in range(0, len(tasks), BATCH)]
        with ThreadPoolExecutor(threads) as pool:
            logits = list(pool.map(lambda batch: self._logits(query, batch), batches))
        best: dict[int, float] = {}
        for (number, *_), logit in zip(tasks, (x for of in logits for x in of), strict=True):
            best[number] = max(float(logit), best.get(number, -np.inf))
        return [replace(n, logit=best.get(i, n.logit)) for i, n in enumerate(nominees)]

    def _logits(self, query: Sequence[Rows], tasks: Sequence[Task]) -> npt.NDArray[np.float32]:
        card, half = (
            self.encoder.card,
            self.encoder.card.segment / self.encoder.card.sample_rate / 2,
        )
        hop = card.hop / card.sample_rate
        asking, asked = [], []
        for _, pair, rows in tasks:
            start = max(0.0, pair.query - half)
            phase = round(start / hop * len(query)) % len(query)
            asking.append(nodes_at(query[phase], [start - phase * hop / len(query)], card)[0])
            asked.append(nodes_at(rows, [pair.recording - half], card)[0])
        return self.classifier.compare(np.stack(asking), np.stack(asked))


def _tasks(nominees: Sequence[Nominee], nodes: Callable[[int], Rows | None]) -> Iterator[Task]:
    known: dict[int, Rows | None] = {}
    for number, nominee in enumerate(nominees):
        if nominee.recording not in known:
            known[nominee.recording] = nodes(nominee.recording)
        rows = known[nominee.recording]
        if rows is not None:
            yield from ((number, pair, rows) for pair in nominee.pairs[:N_PAIRS])
