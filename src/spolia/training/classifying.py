"""Trains the cross-attention classifier on what a frozen encoder takes for samples and is not.

A query is a mixture of two windows (``sampling.py``); both are its positives. Its negatives are the
windows of other recordings that the encoder finds most similar to it, and windows of the same
recording elsewhere. Neither can hold a positive: recordings that share a group with one of the two
are left out, and of the sampled recording what overlaps the window or repeats it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spolia.errors import TrainingError
from spolia.networks.architectures import sized
from spolia.networks.cross_attention import SIZES, CrossAttentionClassifier, CrossAttentionConfig
from spolia.networks.node_matching import NodeMatching, NodeMatchingConfig
from spolia.networks.sample_encoder import SampleEncoder
from spolia.networks.windows import NodeEncoder
from spolia.training.batches import Batch, BatchMaker, plan
from spolia.training.fingerprint import make_batches
from spolia.training.initial import load_checkpoint, network_of
from spolia.training.mining import embedded_with_nodes
from spolia.training.recipe import DataConfig, Recipe, SamplingConfig
from spolia.training.running import Report, ResumableRun, RunOptions, learning_rate
from spolia.training.warp import MaskConfig, WarpConfig

N_HELD_OUT = 4  # batches that are validated with
MATCHING = "matching"  # size of a classifier that begins as late interaction

NodeClassifier = CrossAttentionClassifier | NodeMatching


@dataclass(frozen=True)
class PairConfig:
    """Which windows are compared."""

    n_queries: int = 32  # mixtures per batch, each with two positives
    n_batches: int = 0  # different ones, repeated with new negatives; 0: each step has a new one
    offset: float = 0.25  # seconds by which a positive may be shifted, either way
    n_places: int = 24  # windows of each group that may be negatives
    n_nearest: int = 20  # hits of a query, of which its hard negatives are drawn
    n_hard: int = 5  # negatives of other recordings, per query
    n_same: int = 2  # negatives of the same recording; hard ones where it has too few
    most_alike: float = 0.95  # cosine above which the same recording repeats the window


@dataclass(frozen=True)
class ClassifierOptimiser:
    """How the weights move."""

    steps: int = 2000
    learning_rate: float = 1e-3  # peak; linear warm-up, then cosine to 1 %
    warmup: int = 100  # steps
    weight_decay: float = 0.01
    ranking: float = 1.0  # weight of the ranking loss beside the cross-entropies


@dataclass(frozen=True)
class ClassifierRecipe:
    """One training run of a classifier."""

    name: str
    encoder: str = ""  # checkpoint of an encoder with nodes
    model: dict[str, Any] = field(default_factory=dict)  # size, and overrides of its config
    seed: int = 0
    pairs: PairConfig = field(default_factory=PairConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    warp: WarpConfig = field(default_factory=WarpConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    optimiser: ClassifierOptimiser = field(default_factory=ClassifierOptimiser)


def train_classifier(recipe: ClassifierRecipe, options: RunOptions, report: Report) -> Path:
    """Train to the recipe's last step, or until ``stop_after``; return the checkpoint's path.

    Continues from the folder's checkpoint, to the same weights as without the interruption.
    """
    torch.set_num_threads(options.threads)
    return ClassifierRun(recipe, options).run(report)


def load_encoder(source: str) -> NodeEncoder:
    """Return the frozen encoder of a checkpoint; raises TrainingError where it has no nodes."""
    if not source.endswith(".pt"):
        raise TrainingError(f"encoder is {source!r}; give the checkpoint (.pt) of an encoder")
    network = network_of(load_checkpoint(Path(source)))
    if not isinstance(network, NodeEncoder):
        raise TrainingError(
            f"{source} is of an encoder without nodes; give one of sample, graph or sample-resnet"
        )
    return network.eval().requires_grad_(False)


def frozen_batches(
    encoder: NodeEncoder, recipe: Recipe, options: RunOptions, split: str
) -> BatchMaker:
    """Return what draws windows of a split for a trained encoder."""
    config = encoder.config
    geometry = plan(
        recipe,
        encoder.log_bands,
        segment_frames=config.segment_frames,
        hop_frames=config.hop_frames,
    )
    return make_batches(recipe, options, encoder, geometry, split)


def build_classifier(settings: dict[str, Any], encoder: NodeEncoder) -> NodeClassifier:
    """Return a new classifier of an encoder's nodes.

    settings: a ``size`` and what overrides it; of size "matching" is a :class:`NodeMatching`.
    """
    front = encoder.config.front_end
    with torch.no_grad():
        nodes = encoder.nodes(torch.zeros(1, front.n_bands, encoder.config.segment_frames))
    n_nodes, dim_in = nodes.shape[2:]
    if settings.get("size") == MATCHING:
        return _node_matching(settings, encoder, n_nodes, dim_in)
    values = {**sized(SIZES, settings), "n_nodes": n_nodes, "dim_in": dim_in}
    return CrossAttentionClassifier(CrossAttentionConfig(**values))


def _node_matching(
    settings: dict[str, Any], encoder: NodeEncoder, n_nodes: int, dim_in: int
) -> NodeMatching:
    if not isinstance(encoder, SampleEncoder):
        raise TrainingError('classifiers of size "matching" know the places of nodes of "sample"')
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()
    }
    del values["size"]
    n_columns = encoder.config.columns
    values |= {"n_nodes": n_nodes, "dim_in": dim_in, "n_columns": n_columns}
    return NodeMatching(NodeMatchingConfig(**values))


class Pairs(NamedTuple):
    """Node matrices of queries and of what each is compared with; two positives come first."""

    queries: Tensor  # [shape=(n, n_nodes, d)]
    candidates: Tensor  # [shape=(n, 2 + n_negatives, n_nodes, d)]
    similarity: Tensor  # cosines of the encoder's vectors [shape=(n, 2 + n_negatives)]


class Encoded(NamedTuple):
    """A batch of mixtures as the frozen encoder sees it."""

    batch: Batch  # without its spectrograms
    queries: Tensor  # nodes, float16 [shape=(n, n_nodes, d)]
    vectors: Tensor  # of the queries [shape=(n, dim)]
    clean: Tensor  # nodes of the first positives, float16 [shape=(n, n_nodes, d)]
    own: Tensor  # vectors of these [shape=(n, dim)]


class PairMaker:
    """Draws pairs by step number; the same seed and step give the same pairs.

    The encoder is frozen, so what it made of a window is kept, in half precision: of all windows
    that may be negatives, and of ``n_batches`` batches of mixtures. On a CPU encoding takes nearly
    all of a step.
    """

    def __init__(
        self, encoder: NodeEncoder, batches: BatchMaker, config: PairConfig, *, seed: int
    ) -> None:
        self.encoder, self.batches, self.config = encoder, batches, config
        self.places, self.vectors, self.nodes = embedded_with_nodes(
            encoder, batches, config.n_places, seed=seed
        )
        self._kept = lru_cache(maxsize=max(config.n_batches, N_HELD_OUT))(self._encoded)

    @torch.no_grad()
    def draw(self, step: int, *, seed: int) -> Pairs:
        """Return the pairs of a step."""
        number = step % self.config.n_batches if self.config.n_batches else step
        batch, queries, vectors, clean, own = self._kept(number, seed)
        rng = torch.Generator(device=self.batches.device).manual_seed(seed * 1_000_003 + step)
        second = _second(batch)
        chosen = self.negatives(batch, vectors, own, rng)
        positives = torch.stack([clean, clean[second]], dim=1)
        found = torch.cat([torch.stack([own, own[second]], dim=1), self.vectors[chosen]], dim=1)
        return Pairs(
            queries.float(),
            torch.cat([positives, self.nodes[chosen]], dim=1).float(),
            (found @ vectors[:, :, None])[:, :, 0],
        )

    def _encoded(self, number: int, seed: int) -> Encoded:
        batch = self.batches.draw(number, seed=seed)
        vectors, queries = (of[:, 0] for of in self.encoder.with_nodes(batch.positives))
        own, clean = (of[:, 0] for of in self.encoder.with_nodes(batch.anchors))
        nothing = batch.anchors[:0]
        batch = replace(batch, anchors=nothing, positives=nothing)
        return Encoded(batch, queries.half(), vectors, clean.half(), own)

    def negatives(self, batch: Batch, vectors: Tensor, own: Tensor, rng: torch.Generator) -> Tensor:
        """Return numbers of places that are no samples of a query, int64 [shape=(n, n_negatives)].

        vectors: of the queries; own: of their first positives, unit norm [shape=(n, dim)].
        """
        config = self.config
        related = self._related(batch)
        n_free = int((~related).sum(1).min())
        wanted = config.n_hard + config.n_same
        if n_free < wanted:
            raise TrainingError(
                f"{n_free} windows of other recordings are there and {wanted} are wanted; "
                "add recordings or lower n_hard and n_same in [pairs]"
            )
        similarity = (vectors @ self.vectors.T).masked_fill(related, -2.0)
        near = similarity.topk(max(wanted, min(config.n_nearest, n_free)), dim=1).indices
        order = torch.rand(near.shape, generator=rng, device=near.device).argsort(1)
        hard = near.gather(1, order)[:, :wanted]
        draw = torch.rand(related.shape, generator=rng, device=related.device)
        same = draw.masked_fill(~self._elsewhere(batch, own), -1.0).topk(config.n_same, dim=1)
        replaced = torch.where(same.values >= 0, same.indices, hard[:, config.n_hard :])
        return torch.cat([hard[:, : config.n_hard], replaced], dim=1)

    def _related(self, batch: Batch) -> Tensor:
        """Tell which places share a group with one of the two rows of a mixture."""
        groups = torch.stack([batch.groups, batch.groups[_second(batch)]], dim=1)
        return (groups[:, :, None] == self.places.groups).any(1)

    def _elsewhere(self, batch: Batch, own: Tensor) -> Tensor:
        """Tell which places are of the sampled recording, beyond its window, and unlike it."""
        geometry = self.batches.geometry
        distance = self.batches.anchor_starts(self.places.starts) - batch.starts[:, None]
        beyond = distance.abs() >= geometry.anchor + geometry.shift
        unlike = own @ self.vectors.T < self.config.most_alike
        return (batch.files[:, None] == self.places.files) & beyond & unlike


def _second(batch: Batch) -> Tensor:
    rows = torch.arange(len(batch.groups), device=batch.groups.device)
    return rows if batch.others is None else batch.others


def classifier_loss(logits: Tensor, ranking: float) -> Tensor:
    """Return the cross-entropies of positives and negatives and the ranking loss.

    logits: [shape=(n, 2 + n_negatives)], two positives first. Ranking: −log σ of how far each
    positive stands above each negative of its query (Burges et al., *RankNet*, ICML 2005).
    """
    positive, negative = logits[:, :2], logits[:, 2:]
    entropy = F.softplus(-positive).mean() + F.softplus(negative).mean()
    behind = F.softplus(negative[:, None, :] - positive[:, :, None]).mean()
    return entropy + ranking * behind


class ClassifierRun(ResumableRun):
    """The state of one training run."""

    def __init__(self, recipe: ClassifierRecipe, options: RunOptions) -> None:
        super().__init__(recipe, options)
        self.encoder = load_encoder(recipe.encoder)
        torch.manual_seed(recipe.seed)
        self.model = build_classifier(recipe.model, self.encoder).to(self.device)
        self.encoder.to(self.device)
        self.pairs = self._pairs("train", recipe.pairs.n_queries)
        self.held_out = self._pairs("val", 10**6)
        self.optimiser = torch.optim.AdamW(
            self.model.parameters(),
            lr=recipe.optimiser.learning_rate,
            weight_decay=recipe.optimiser.weight_decay,
        )
        self.parts = {"model": self.model, "optimiser": self.optimiser}
        self.restore()

    def _pairs(self, split: str, n_queries: int) -> PairMaker:
        recipe = self.recipe
        as_recipe = Recipe(
            recipe.name,
            seed=recipe.seed,
            data=DataConfig(n_queries, 1, recipe.pairs.offset, context=0.0, simulated_rooms=1),
            warp=recipe.warp,
            mask=recipe.mask,
            sampling=SamplingConfig(**{**vars(recipe.sampling), "use": True}),
        )
        batches = frozen_batches(self.encoder, as_recipe, self.options, split)
        return PairMaker(self.encoder, batches, recipe.pairs, seed=recipe.seed)

    def logits(self, pairs: Pairs) -> Tensor:
        """Return a logit per pair [shape=(n, 2 + n_negatives)]."""
        n, n_candidates = pairs.candidates.shape[:2]
        queries = pairs.queries[:, None].expand(n, n_candidates, -1, -1).flatten(0, 1)
        return self.model(queries, pairs.candidates.flatten(0, 1)).view(n, n_candidates)

    def advance(self, report: Report) -> None:
        """Do one step, and validate where the step is due."""
        optimiser, begun = self.recipe.optimiser, time.perf_counter()
        pairs = self.pairs.draw(self.step, seed=self.recipe.seed)
        rate = learning_rate(self.step, optimiser.steps, optimiser.warmup, optimiser.learning_rate)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.model.train()
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.step)  # of the dropout
        self.optimiser.zero_grad(set_to_none=True)
        loss = classifier_loss(self.logits(pairs), optimiser.ranking)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        seconds = time.perf_counter() - begun
        entry = {
            "step": float(self.step),
            "loss": float(loss.detach()),
            "pairs_per_second": pairs.similarity.numel() / seconds,
        }
        if self.validates():
            entry |= self.validate()
        self.log(entry)
        report(entry)

    @torch.no_grad()
    def validate(self, n_batches: int = N_HELD_OUT) -> dict[str, float]:
        """Return how well positives of val recordings stand above their hard negatives.

        val_first: share of positives above all negatives of their query, by the classifier and by
        the encoder's cosine; val_auc: probability that a positive of any query stands above a
        negative of any query.
        """
        self.model.eval()
        drawn = [self.held_out.draw(i, seed=977) for i in range(n_batches)]
        logits = torch.cat([self.logits(pairs) for pairs in drawn])
        cosines = torch.cat([pairs.similarity for pairs in drawn])
        return {
            "val_first": _first(logits),
            "val_first_cosine": _first(cosines),
            "val_auc": _auc(logits),
            "val_auc_cosine": _auc(cosines),
            "val_n": float(len(logits)),
        }


def _first(scores: Tensor) -> float:
    return float((scores[:, :2] > scores[:, 2:].amax(1, keepdim=True)).float().mean())


def _auc(scores: Tensor) -> float:
    above = scores[:, :2].flatten()[:, None] - scores[:, 2:].flatten()
    return float(((above > 0).float() + 0.5 * (above == 0).float()).mean())
