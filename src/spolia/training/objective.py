"""What a batch of a fingerprint encoder is scored by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from spolia.errors import TrainingError
from spolia.training.losses import (
    mixture_nt_xent,
    nt_xent,
    semi_hard_triplet,
    similarity_distillation,
)
from spolia.training.recipe import OptimiserConfig, TeacherConfig

LOSSES = ("nt_xent", "triplet")


class Objective:
    """A contrastive loss, mixed with the imitation of a teacher where there is one."""

    def __init__(
        self, optimiser: OptimiserConfig, config: TeacherConfig, teacher: Any = None
    ) -> None:
        """Take settings and, if the recipe names one, a trained encoder with the same front end."""
        if optimiser.loss not in LOSSES:
            raise TrainingError(f"unknown loss {optimiser.loss!r}; known: {', '.join(LOSSES)}")
        self.optimiser, self.config, self.teacher = optimiser, config, teacher

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
        anchors, positives = (v.flatten(0, 1) for v in vectors.chunk(2))
        n_segments = vectors.shape[1]
        of = groups[:, None].expand(len(groups), n_segments).flatten()
        if others is not None:
            step = torch.arange(n_segments, device=others.device)
            second = (others[:, None] * n_segments + step).flatten()
            loss = mixture_nt_xent(anchors, positives, of, second, self.optimiser.temperature)
        elif self.optimiser.loss == "triplet":
            loss = semi_hard_triplet(anchors, positives, of, self.optimiser.margin)
        else:
            loss = nt_xent(anchors, positives, of, self.optimiser.temperature)
        if wanted is None:
            return loss
        imitation = similarity_distillation(
            vectors.flatten(0, 1),
            wanted.flatten(0, 1),
            self.optimiser.temperature,
            self.config.temperature,
        )
        return (1 - self.config.share) * loss + self.config.share * imitation
