"""Class-level losses with proxies: ArcFace and PAM, and the pairwise losses beside them.

Su, Y. et al.: AMG-Embedding. ACM MM 2024, equations 1–5 (PAM).
Deng, J. et al.: ArcFace: additive angular margin loss for deep face recognition. CVPR 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spolia.errors import TrainingError


@dataclass(frozen=True)
class MarginConfig:
    """Settings of PAM; each of its three measures can be switched off."""

    scale: float = 32.0  # s
    lower: float = 0.2  # margin of a piece that shares nothing with the anchor, radians
    upper: float = 0.4  # margin of a piece that is the anchor, radians
    alignment: float = 10.0  # λ of the proxy–anchor alignment
    initialise: bool = True  # PI: proxies begin as the mean of their anchor's segment vectors
    overlap_margin: bool = True  # OM: the margin grows with the overlap; else it is ``upper``
    align: bool = True  # PA: proxies are drawn to the vectors of their anchors

    def margin(self, overlap: Tensor) -> Tensor:
        """Return the margin of pieces by their overlap (eq. 5) [shape=(n,)]."""
        if not self.overlap_margin:
            return torch.full_like(overlap, self.upper)
        return overlap * (self.upper - self.lower) + self.lower


class Proxies(nn.Module):
    """A learned direction for every class."""

    def __init__(self, n_classes: int, dim: int, *, rng: torch.Generator) -> None:
        super().__init__()
        if n_classes < 2:
            raise TrainingError(f"{n_classes} classes cannot be told apart; give at least 2 clips")
        bound = math.sqrt(6 / (n_classes + dim))  # Glorot & Bengio 2010
        start = torch.rand(n_classes, dim, generator=rng, device=rng.device)
        self.weight = nn.Parameter(bound * (2 * start - 1))

    @torch.no_grad()
    def initialise(self, means: Tensor) -> None:
        """Begin at the mean segment vectors of the classes' anchors [shape=(n_classes, dim)]."""
        if means.shape != self.weight.shape:
            raise TrainingError(
                f"proxies have size {self.weight.shape[1]} but segment vectors {means.shape[1]}; "
                "initialise = false, or give both one size"
            )
        self.weight.copy_(means)

    def cosines(self, vectors: Tensor) -> Tensor:
        """Return cosines of unit vectors to all proxies [shape=(n, n_classes)]."""
        return F.linear(vectors, F.normalize(self.weight, dim=1))


def pam(
    cosines: Tensor,
    labels: Tensor,
    overlap: Tensor,
    is_anchor: Tensor,
    config: MarginConfig,
    *,
    groups: Tensor | None = None,
) -> Tensor:
    """Return the proxy–anchor aligned margin loss (eq. 2).

    cosines: of unit vectors to all proxies [shape=(n, n_classes)]; labels: int64 [shape=(n,)];
    overlap: of each piece with its anchor, share of the longest duration [shape=(n,)]; is_anchor:
    bool [shape=(n,)]; groups: of the classes, int64 [shape=(n_classes,)]: other classes of one
    group share material and are no negatives. A batch without anchors has no alignment. The margin
    touches the target column only, and the sum over classes is taken in single precision whatever
    came in.
    """
    target = cosines.gather(1, labels[:, None])[:, 0].float()
    logits = config.scale * cosines.float()
    if groups is not None:
        logits = logits.masked_fill(groups[labels][:, None] == groups[None, :], float("-inf"))
    wanted = config.scale * with_margin(target, config.margin(overlap.float()))
    logits = logits.scatter(1, labels[:, None], wanted[:, None])
    loss = (logits.logsumexp(1) - wanted).mean()
    if config.align:
        anchors = is_anchor.float()
        aligned = (anchors * (1 - target)).sum() / anchors.sum().clamp(min=1.0)
        loss = loss + config.alignment * aligned
    return loss


def with_margin(cosine: Tensor, margin: Tensor) -> Tensor:
    """Return cos(θ + margin), continued by a line where θ + margin would exceed π.

    The line keeps it falling: cos θ − sin(margin) · margin, as in ArcFace's published code.
    """
    cosine = cosine.clamp(-1.0, 1.0)
    sine = (1.0 - cosine.square()).clamp(min=1e-6).sqrt()
    shifted = cosine * margin.cos() - sine * margin.sin()
    return torch.where(cosine > -margin.cos(), shifted, cosine - margin.sin() * margin)


def info_nce(
    pieces: Tensor, anchors: Tensor, owner: Tensor, groups: Tensor, temperature: float
) -> Tensor:
    """Return the cross-entropy of each piece's own anchor among all (van den Oord et al. 2018).

    pieces: unit vectors [shape=(n, dim)]; anchors: [shape=(m, dim)]; owner: number of each piece's
    anchor [shape=(n,)]; groups: of the anchors [shape=(m,)]: others of one group are ignored.
    """
    similarity = pieces.float() @ anchors.float().T / temperature
    ignored = groups[owner][:, None] == groups[None, :]
    ignored[torch.arange(len(owner), device=owner.device), owner] = False
    return F.cross_entropy(similarity.masked_fill(ignored, float("-inf")), owner)


def exhaustive_scores(pieces: Tensor, anchors: Tensor, padding: Tensor) -> Tensor:
    """Return what an exhaustive search makes of pieces and anchors [shape=(n, m)].

    The mean, over a piece's vectors, of the similarity to the nearest of an anchor's. pieces: unit
    vectors [shape=(n, longest, dim)]; padding: True behind a piece's end [shape=(n, longest)];
    anchors: [shape=(m, longest, dim)].
    """
    nearest = torch.stack([(pieces @ anchor.T).amax(2) for anchor in anchors], dim=2)
    heard = (~padding)[:, :, None].float()
    return (nearest * heard).sum(1) / heard.sum(1).clamp(min=1.0)
