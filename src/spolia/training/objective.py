"""What a batch of a fingerprint encoder is scored by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from spolia.errors import TrainingError
from spolia.training.late import Late, mixture_contrast
from spolia.training.losses import (
    mixture_nt_xent,
    nt_xent,
    semi_hard_triplet,
    similarity_distillation,
)
from spolia.training.recipe import OptimiserConfig, TeacherConfig

LOSSES = ("nt_xent", "triplet")
TEMPERATURES = (0.01, 0.2)  # between which a learned one stays


class Temperature(nn.Module):
    """A temperature that is learned, by its logarithm (Radford et al. 2021, *CLIP*)."""

    def __init__(self, first: float) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.tensor(first).log())

    def forward(self) -> Tensor:
        """Return the temperature [shape=()]."""
        return self.log.exp().clamp(*TEMPERATURES)


class Objective:
    """A contrastive loss, mixed with that of nodes and with the imitation of a teacher."""

    def __init__(
        self,
        optimiser: OptimiserConfig,
        config: TeacherConfig,
        teacher: Any = None,
        late: Late | None = None,
        learned: Temperature | None = None,
    ) -> None:
        """Take settings and, if the recipe names one, a trained encoder with the same front end.

        late: what nodes are packed and scored by; vectors come with their nodes then. learned: the
        temperature of NT-Xent in place of the settings'.
        """
        if optimiser.loss not in LOSSES:
            raise TrainingError(f"unknown loss {optimiser.loss!r}; known: {', '.join(LOSSES)}")
        if learned is not None and optimiser.loss != "nt_xent":
            raise TrainingError(
                f"a {optimiser.loss} loss has no temperature; take out learn_temperature"
            )
        self.optimiser, self.config, self.teacher, self.late = optimiser, config, teacher, late
        self.learned = learned

    @property
    def temperature(self) -> Tensor | float:
        """What similarities are divided by."""
        return self.optimiser.temperature if self.learned is None else self.learned()

    @torch.no_grad()
    def wanted(self, rows: Tensor) -> Tensor | None:
        """Return the teacher's vectors of a batch's rows [shape=(n, n_segments, dim)], or None."""
        return None if self.teacher is None else self.teacher.embed(rows)

    def __call__(
        self,
        vectors: Tensor,
        groups: Tensor,
        wanted: Tensor | None,
        others: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of anchors followed by positives [shape=(2 · n_rows, n_segments, dim)].

        groups: of the rows, int64 [shape=(n_rows,)]; wanted: see :meth:`wanted`; others: of
        mixtures, the second row in each, int64 [shape=(n_rows,)].
        """
        of = groups[:, None].expand(len(groups), vectors.shape[1]).flatten()
        second = None if others is None else _spread(others, vectors.shape[1])
        loss = self._contrast(vectors, of, second)
        if self.late is not None:
            vectors = self.late.vectors(vectors)
        if wanted is None:
            return loss
        imitation = similarity_distillation(
            vectors.flatten(0, 1),
            wanted.flatten(0, 1),
            self.optimiser.temperature,
            self.config.temperature,
        )
        return (1 - self.config.share) * loss + self.config.share * imitation

    def _contrast(self, rows: Tensor, groups: Tensor, others: Tensor | None) -> Tensor:
        """Return the loss by what belongs together; arguments by segment, not by row."""
        packed = [of.flatten(0, 1) for of in rows.chunk(2)]
        anchors, positives = packed if self.late is None else map(self.late.vectors, packed)
        if others is not None:
            loss = mixture_nt_xent(anchors, positives, groups, others, self.temperature)
        elif self.optimiser.loss == "triplet":
            loss = semi_hard_triplet(anchors, positives, groups, self.optimiser.margin)
        else:
            loss = nt_xent(anchors, positives, groups, self.temperature)
        if self.late is None or others is None:
            return loss
        agreement = self.late.agreement(packed[1], packed[0])
        share = self.late.config.share
        return (1 - share) * loss + share * mixture_contrast(agreement, groups, others)


def _spread(rows: Tensor, n_segments: int) -> Tensor:
    """Return the numbers of rows' segments, of the numbers of rows."""
    step = torch.arange(n_segments, device=rows.device)
    return (rows[:, None] * n_segments + step).flatten()
