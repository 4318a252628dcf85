"""Trains the cross-attention classifier on what a frozen encoder takes for samples and is not.

What is compared with what says ``pairs.py``.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from spolia.errors import TrainingError
from spolia.networks.architectures import sized
from spolia.networks.cross_attention import SIZES, CrossAttentionClassifier, CrossAttentionConfig
from spolia.networks.node_matching import NodeMatching, NodeMatchingConfig
from spolia.networks.sample_encoder import SampleEncoder
from spolia.networks.windows import NodeEncoder
from spolia.training.batches import BatchMaker, plan
from spolia.training.fingerprint import make_batches
from spolia.training.initial import load_checkpoint, network_of
from spolia.training.pairs import PairConfig, PairMaker, Pairs, Prepared
from spolia.training.recipe import DataConfig, Recipe, SamplingConfig
from spolia.training.running import Report, ResumableRun, RunOptions, learning_rate
from spolia.training.warp import MaskConfig, WarpConfig

N_HELD_OUT = 4  # batches that are validated with
MATCHING = "matching"  # size of a classifier that begins as late interaction

NodeClassifier = CrossAttentionClassifier | NodeMatching


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


def train_classifier(
    recipe: ClassifierRecipe,
    options: RunOptions,
    report: Report,
    prepared: Prepared | None = None,
) -> Path:
    """Train to the recipe's last step, or until ``stop_after``; return the checkpoint's path.

    Continues from the folder's checkpoint, to the same weights as without the interruption.
    prepared: gets (done, all) windows of possible negatives while they are encoded.
    """
    torch.set_num_threads(options.threads)
    return ClassifierRun(recipe, options, prepared).run(report)


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

    def __init__(
        self, recipe: ClassifierRecipe, options: RunOptions, prepared: Prepared | None = None
    ) -> None:
        super().__init__(recipe, options)
        self.prepared = prepared
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
        n_kept = recipe.pairs.n_batches if split == "train" else N_HELD_OUT
        return PairMaker(
            self.encoder,
            batches,
            recipe.pairs,
            self.options.cache,
            seed=recipe.seed,
            n_kept=n_kept,
            report=self.prepared,
        )

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
        self.move(loss, 1.0)
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
