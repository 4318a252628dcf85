"""Judges nominees of samples by the nodes of their windows: the cross-attention classifier.

Search compares one vector a window; the classifier compares all of a window's nodes with all of
another's (:mod:`spolia.networks.cross_attention`). Nodes are not stored: those of the few windows
that are nominated are computed from sound, each once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spolia.audio import Audio, is_silent
from spolia.encoders import Classifier, Encoder
from spolia.sample_patches import Pair

NEUTRAL = 0.0  # logit where there is no sound to judge: as likely right as wrong
BATCH = 8  # windows that are encoded at once, by each thread
HUNDREDTHS = 2  # decimals of seconds to which two windows are one

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]
Key = tuple[int, float]  # of a window: which recording, and the seconds of its middle
QUERY = -1  # in place of a recording


@dataclass(frozen=True)
class Claim:
    """That places of a query and of a recording sound alike."""

    recording: int  # a number that is not negative
    pairs: tuple[Pair, ...]  # middles of windows
    sound: Audio | None  # a stretch of the recording; None: its file is gone
    start: float = 0.0  # of the stretch, in seconds of the recording


class Judge:
    """A classifier, and the encoder whose nodes it compares."""

    def __init__(self, encoder: Encoder, classifier: Classifier, *, threads: int = 2) -> None:
        self.encoder, self.classifier, self.threads = encoder, classifier, threads

    @property
    def model_id(self) -> str:
        """The classifier's id."""
        return self.classifier.card.id

    def logits(self, query: Audio, claims: Sequence[Claim]) -> Floats:
        """Return the logit of each claim's best pair, that the same sound is in both [shape=(n,)].

        NEUTRAL where a file is gone or all windows of the query or of the recording are silent.
        """
        cuts = self._cuts(query, claims)
        keys = [
            (i, _of_query(pair), _of_recording(claim, pair))
            for i, claim in enumerate(claims)
            for pair in claim.pairs
        ]
        keys = [(i, asking, asked) for i, asking, asked in keys if asking in cuts and asked in cuts]
        best = np.full(len(claims), -np.inf)
        if keys:
            nodes = self._nodes(cuts)
            logits = self.classifier.compare(
                np.stack([nodes[asking] for _, asking, _ in keys]),
                np.stack([nodes[asked] for _, _, asked in keys]),
            )
            np.maximum.at(best, [i for i, *_ in keys], logits.astype(np.float64))
        return np.where(np.isfinite(best), best, NEUTRAL)

    def _cuts(self, query: Audio, claims: Sequence[Claim]) -> dict[Key, Vectors]:
        """Return the sound of each window to be compared, once; silent ones are left out."""
        query = self._heard(query)
        cuts: dict[Key, Vectors | None] = {}
        for claim in claims:
            if claim.sound is None:
                continue
            sound = self._heard(claim.sound)
            for pair in claim.pairs:
                asking, asked = _of_query(pair), _of_recording(claim, pair)
                if asking not in cuts:
                    cuts[asking] = self._window(query, pair.query)
                if asked not in cuts:
                    cuts[asked] = self._window(sound, pair.recording - claim.start)
        return {key: window for key, window in cuts.items() if window is not None}

    def _heard(self, audio: Audio) -> Audio:
        return audio.resample(self.encoder.card.sample_rate)

    def _window(self, audio: Audio, middle: float) -> Vectors | None:
        """Return the window around a place, silence where the sound ends; None for silence."""
        n = self.encoder.card.segment
        first = round(middle * audio.sample_rate - n / 2)
        samples = audio.samples[max(0, first) : max(0, first + n)]
        if is_silent(Audio(samples, audio.sample_rate)):
            return None
        before = max(0, -first)
        return np.pad(samples, (before, n - before - len(samples)))

    def _nodes(self, cuts: Mapping[Key, Vectors]) -> dict[Key, Vectors]:
        """Return node matrices of windows, float32 [shape=(n_nodes, d)]."""
        windows = list(cuts.values())
        batches = [np.stack(windows[i : i + BATCH]) for i in range(0, len(windows), BATCH)]
        with ThreadPoolExecutor(self.threads) as pool:
            nodes = np.concatenate(list(pool.map(self.encoder.nodes, batches)))
        return dict(zip(cuts, nodes[:, 0], strict=True))


def _of_query(pair: Pair) -> Key:
    return QUERY, round(pair.query, HUNDREDTHS)


def _of_recording(claim: Claim, pair: Pair) -> Key:
    return claim.recording, round(pair.recording, HUNDREDTHS)
