"""Contrastive losses."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def nt_xent(anchors: Tensor, positives: Tensor, groups: Tensor, temperature: float) -> Tensor:
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
