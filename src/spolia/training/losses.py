"""Contrastive losses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def nt_xent(
    anchors: Tensor, positives: Tensor, groups: Tensor, temperature: Tensor | float
) -> Tensor:
    """Return the normalised temperature-scaled cross-entropy (Chen et al. 2020, eq. 1).

    anchors, positives: unit vectors [shape=(n, dim)]; row i of each belongs together. groups:
    int64 [shape=(n,)]; rows of one group share material and are not negatives of each other.
    Both sides serve as anchors, so a row has 2n − 2 negatives less its own group's.
    """
    n = len(anchors)
    vectors = torch.cat([anchors, positives]).float()
    similarity = vectors @ vectors.T / temperature
    both = torch.cat([groups, groups])
    partner = torch.arange(2 * n, device=vectors.device).roll(n)
    ignored = both[:, None] == both[None, :]
    ignored[torch.arange(2 * n, device=vectors.device), partner] = False
    return F.cross_entropy(similarity.masked_fill(ignored, float("-inf")), partner)


def mixture_nt_xent(
    anchors: Tensor, mixtures: Tensor, groups: Tensor, others: Tensor, temperature: Tensor | float
) -> Tensor:
    """Return the cross-entropy of mixtures, each of which holds two rows' sound.

    anchors, mixtures: unit vectors [shape=(n, dim)]; groups: of the rows, int64 [shape=(n,)];
    others: mixture i holds rows i and ``others[i]``, int64 [shape=(n,)]. Both rows are positives,
    each in a softmax of its own, as in supervised contrastive learning (Khosla et al. 2020, eq. 2);
    what shares a group with a mixture is no negative of it. Anchors look for mixtures likewise.
    """
    n = len(anchors)
    vectors = torch.cat([anchors, mixtures]).float()
    similarity = vectors @ vectors.T / temperature
    parts = torch.stack([torch.cat([groups, groups]), torch.cat([groups, groups[others]])], dim=1)
    related = (parts[:, None, :, None] == parts[None, :, None, :]).any((2, 3))
    negatives = similarity.masked_fill(related, float("-inf")).logsumexp(1)
    row = torch.arange(n, device=vectors.device)
    pairs = torch.stack([torch.cat([row, row]), torch.cat([row, others])])  # mixture, row in it
    positive = similarity[pairs[0] + n, pairs[1]]
    of_mixtures = F.softplus(negatives[pairs[0] + n] - positive)
    of_anchors = F.softplus(negatives[pairs[1]] - positive)
    return (of_mixtures.mean() + of_anchors.mean()) / 2


def semi_hard_triplet(anchors: Tensor, positives: Tensor, groups: Tensor, margin: float) -> Tensor:
    """Return the triplet loss with semi-hard negatives (Schroff et al. 2015).

    Arguments as of :func:`nt_xent`; distances are squared. Each anchor's negative is the nearest of
    the batch that is further away than its positive, or the farthest where none is. Anchors without
    any negative do not count; a batch of one group loses nothing.
    """
    positive = _squared(anchors, positives).diagonal()
    others = torch.cat([anchors, positives])
    distance = _squared(anchors, others)
    is_negative = groups[:, None] != torch.cat([groups, groups])[None, :]
    beyond = is_negative & (distance > positive[:, None])
    nearest = distance.masked_fill(~beyond, float("inf")).amin(1)
    farthest = distance.masked_fill(~is_negative, float("-inf")).amax(1)
    negative = torch.where(beyond.any(1), nearest, farthest)
    has_negative = is_negative.any(1)
    losses = F.relu(positive - negative + margin)[has_negative]
    return losses.sum() / has_negative.sum().clamp(min=1)


def similarity_distillation(
    vectors: Tensor, teacher: Tensor, temperature: float, teacher_temperature: float
) -> Tensor:
    """Return how far a student's similarities within a batch are from its teacher's.

    vectors: unit vectors of the student [shape=(n, dim)]; teacher: of the teacher, whatever their
    size [shape=(n, teacher_dim)]. The Kullback–Leibler divergence of each row's softmax over all
    others, as in Fang et al., *SEED: Self-supervised distillation* (ICLR 2021, eq. 5).
    """
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)

    def rows(of: Tensor, tau: float) -> Tensor:
        similarity = of.float() @ of.float().T / tau
        return similarity[~itself].reshape(len(of), len(of) - 1)

    return divergence(rows(vectors, temperature), rows(teacher, teacher_temperature))


def divergence(scores: Tensor, wanted: Tensor) -> Tensor:
    """Return the Kullback–Leibler divergence of each row's softmax from that of wanted scores.

    scores, wanted: over their temperatures [shape=(n, m)].
    """
    found, target = (of.float().log_softmax(1) for of in (scores, wanted))
    return F.kl_div(found, target, reduction="batchmean", log_target=True)


def _squared(one: Tensor, other: Tensor) -> Tensor:
    """Return squared distances of unit vectors [shape=(n, m)]."""
    return 2.0 - 2.0 * one.float() @ other.float().T
