"""The graph encoder of samples: patches of a spectrogram as nodes that gather from similar ones.

A window is cut into 16 × 16 patches of 9 bands × 8 frames. Each becomes a node that knows its
place. Before every block a node is joined to the nodes of its own window that are most like it, and
adds to itself how far the largest of their features stand above its own. Three times the nodes are
thinned to half. The 32 that remain are what the cross-attention classifier compares
(``cross_attention.py``); their mean, projected, is the vector.

Bhattacharjee, A., Meresman Higgs, I., Sandler, M., Benetos, E.: Refining music sample
identification with a self-supervised graph neural network. ISMIR 2025 (arXiv 2506.14684).
Li, G. et al.: DeepGCNs: can GCNs go as deep as CNNs? ICCV 2019 (max-relative convolution, dilated
neighbours, edge dropout).
Han, K. et al.: Vision GNN: an image is worth graph of nodes. NeurIPS 2022.

Where we differ, and why: docs/explanation/graph.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spolia.errors import TrainingError
from spolia.networks.resnet import Conv
from spolia.networks.windows import GeneralisedMean, WindowConfig, WindowEncoder


@dataclass(frozen=True)
class GraphEncoderConfig(WindowConfig):
    """Shape of the encoder; the defaults are the published ones."""

    patch: tuple[int, int] = (9, 8)  # bands and frames of a node
    patch_features: int = 8  # of a node, before the first stage widens them
    channels: tuple[int, ...] = (64, 128, 256, 512)  # of each stage
    n_blocks: tuple[int, ...] = (2, 2, 6, 2)
    halved: tuple[str, ...] = ("time", "time", "time")  # axis, "time" or "band", between stages
    graph: bool = True  # False: nodes gather nothing; all else is the same
    n_neighbours: int = 5
    self_loops: bool = True  # a node is the first of its own neighbours, or never one
    dilate_every: int = 4  # blocks, after which neighbours are taken one rank further apart
    most_dilated: int = 3  # every third of the 3 · n_neighbours nearest
    edge_dropout: float = 0.2  # of neighbours in training, but not of the nearest
    drop_path: float = 0.1  # of the last block's branches in training, rising from 0
    projected: int = 1024  # of a node, before pooling
    pooling: str = "mean"  # or "generalised", of what is positive
    centred: bool = False  # a batch norm between pooling and head (Luo et al., CVPRW 2019)
    hidden: int = 4096  # of the head

    def __post_init__(self) -> None:
        """Check what can be wrong."""
        if self.pooling not in ("mean", "generalised"):
            raise TrainingError(f"pooling is {self.pooling!r}; choose mean or generalised")
        if set(self.halved) - {"time", "band"} or len(self.halved) != len(self.channels) - 1:
            raise TrainingError(
                f"halved is {list(self.halved)}; give {len(self.channels) - 1} times time or band"
            )
        reach = self.n_neighbours * self.dilation(sum(self.n_blocks) - 1) + (not self.self_loops)
        if self.graph and reach > self.n_nodes:
            raise TrainingError(
                f"{reach} neighbours are wanted of {self.n_nodes} nodes; "
                "lower n_neighbours or most_dilated"
            )

    def dilation(self, block: int) -> int:
        """Return how many ranks lie between the neighbours of a block, counted from 0."""
        return min(block // self.dilate_every + 1, self.most_dilated)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows (bands) and columns (frames) of nodes after the last stage."""
        rows = self.front_end.n_bands // self.patch[0]
        columns = self.segment_frames // self.patch[1]
        for axis in self.halved:
            rows, columns = (-(-rows // 2), columns) if axis == "band" else (rows, -(-columns // 2))
        return rows, columns

    @property
    def n_nodes(self) -> int:
        """Nodes after the last stage."""
        return self.grid[0] * self.grid[1]


SIZES: dict[str, dict[str, Any]] = {
    "as-printed": {},
    "nano": {
        "patch_features": 32,
        "channels": (32, 64, 128, 256),
        "n_blocks": (1, 1, 3, 1),
        "halved": ("time", "band", "time"),
        "projected": 256,
        "pooling": "generalised",
        "hidden": 512,
    },
}


def nearest(x: Tensor, n: int, dilation: int, *, self_loops: bool) -> Tensor:
    """Return each node's neighbours, the nearest first, int64 [shape=(n_batch, n_nodes, n)].

    x: [shape=(n_batch, n_nodes, d)]. Of the n · dilation nodes of its own row that are nearest by
    Euclidean distance, every ``dilation``-th. The node itself comes first or is left out.
    """
    x = x.detach()
    with torch.autocast(x.device.type, enabled=False):  # ranks need more digits than products
        x = x.float() - x.float().mean(1, keepdim=True)
        square = x.square().sum(-1)
        distance = square[:, :, None] + square[:, None, :] - 2 * x @ x.transpose(1, 2)
    itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    distance = distance.masked_fill(itself, -1e30 if self_loops else 1e30)
    return distance.topk(n * dilation, dim=2, largest=False).indices[:, :, ::dilation]


def gathered(x: Tensor, neighbours: Tensor) -> Tensor:
    """Return the features of neighbours (B, n, k, d) of nodes (B, n, d), given (B, n, k)."""
    n_batch, n, d = x.shape
    first = torch.arange(n_batch, device=x.device)[:, None, None] * n
    rows = x.reshape(n_batch * n, d).index_select(0, (neighbours + first).flatten())
    return rows.reshape(n_batch, n, neighbours.shape[2], d)


def largest_rise(x: Tensor, neighbours: Tensor, dropout: float = 0.0) -> Tensor:
    """Return max_j (x_j − x_i) over a node's neighbours j, feature by feature (B, n, d).

    Li et al. 2019, eq. 6. dropout: share of neighbours not asked, never the first.
    """
    rise = gathered(x, neighbours) - x[:, :, None]
    if dropout > 0:
        dropped = torch.rand(neighbours.shape, device=x.device) < dropout
        dropped[:, :, 0] = False
        rise = rise.masked_fill(dropped[..., None], float("-inf"))
    return rise.amax(2)


class MaxRelative(nn.Module):
    """Max-relative graph convolution: a node beside what its neighbours have more of, mixed."""

    def __init__(self, width: int, dilation: int, config: GraphEncoderConfig) -> None:
        super().__init__()
        self.config, self.dilation = config, dilation
        self.mix = nn.Conv2d((1 + config.graph) * width, 2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map a grid of nodes (N, width, H, W) to (N, 2 · width, H, W)."""
        if not self.config.graph:
            return F.relu(self.mix(x))
        nodes = x.flatten(2).transpose(1, 2)
        config = self.config
        around = nearest(nodes, config.n_neighbours, self.dilation, self_loops=config.self_loops)
        rise = largest_rise(nodes, around, config.edge_dropout if self.training else 0.0)
        return F.relu(self.mix(torch.cat([x, rise.transpose(1, 2).reshape(x.shape)], dim=1)))


class DropPath(nn.Module):
    """Leaves a branch out of some rows in training (Huang et al., ECCV 2016)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (N, …) and the expected value."""
        if not self.training or self.share == 0:
            return x
        kept = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= self.share
        return x * kept / (1 - self.share)


class GraphBlock(nn.Module):
    """A graph convolution between two layers, then a feed-forward network, each with a residual."""

    def __init__(
        self, width: int, dilation: int, drop_path: float, config: GraphEncoderConfig
    ) -> None:
        super().__init__()
        self.grapher = nn.Sequential(
            Conv(width, width, 1),
            MaxRelative(width, dilation, config),
            Conv(2 * width, width, 1, active=None),
            DropPath(drop_path),
        )
        self.feed_forward = nn.Sequential(
            Conv(width, 4 * width, 1), Conv(4 * width, width, 1, active=None), DropPath(drop_path)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (N, width, H, W)."""
        x = F.relu(x + self.grapher(x))
        return F.relu(x + self.feed_forward(x))


class Thinned(nn.Sequential):
    """Halves the nodes along one axis of the grid by a convolution over three of them."""

    def __init__(self, n_in: int, n_out: int, axis: str) -> None:
        by_time = axis == "time"
        size, stride = ((1, 3), (1, 2)) if by_time else ((3, 1), (2, 1))
        padding = (0, 1) if by_time else (1, 0)
        super().__init__(
            nn.Conv2d(n_in, n_out, size, stride, padding, bias=False),
            nn.BatchNorm2d(n_out),
            nn.ReLU(inplace=True),
        )


class PatchNodes(nn.Module):
    """Cuts windows into patches and describes each, with its time and its frequency, by a few
    numbers.
    """

    def __init__(self, config: GraphEncoderConfig) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, config.patch_features, config.patch, config.patch)
        bands = torch.linspace(0, 1, config.front_end.n_bands)[:, None]
        frames = torch.linspace(0, 1, config.segment_frames)[None]
        ramps = torch.stack(torch.broadcast_tensors(frames, bands))
        self.register_buffer("ramps", ramps.contiguous(), persistent=False)

    def forward(self, windows: Tensor) -> Tensor:
        """Map (N, 1, n_bands, n_frames) to a grid of nodes (N, patch_features, H, W)."""
        ramps = self.ramps.expand(windows.shape[0], -1, -1, -1)
        return F.relu(self.conv(torch.cat([ramps, windows], dim=1)))


class GraphEncoder(WindowEncoder):
    """Waveform → one unit vector, or 32 nodes, per window, one window every half second."""

    config: GraphEncoderConfig

    def __init__(self, config: GraphEncoderConfig) -> None:
        super().__init__(config)
        leaky = partial(nn.LeakyReLU, 0.2)
        stem = Conv(config.patch_features, config.channels[0], 1, active=leaky)
        self.patches = nn.Sequential(PatchNodes(config), stem)
        self.stages = nn.Sequential(*_stages(config))
        self.project = nn.Conv2d(config.channels[-1], config.projected, 1)
        self.pool = GeneralisedMean() if config.pooling == "generalised" else None
        self.head = nn.Sequential(
            nn.BatchNorm1d(config.projected) if config.centred else nn.Identity(),
            nn.Linear(config.projected, config.hidden),
            nn.ELU(),
            nn.Linear(config.hidden, config.dim),
        )

    def features(self, windows: Tensor) -> Tensor:
        """Map standardised windows (N, 1, n_bands, n_frames) to the last nodes (N, d, H, W)."""
        return self.stages(self.patches(windows))

    def pooled(self, grid: Tensor) -> Tensor:
        """Map nodes (N, d, H, W) to vectors (N, dim); their order does not matter."""
        x = self.project(grid)
        return self.head(x.mean((2, 3)) if self.pool is None else self.pool(F.relu(x)))


def _stages(config: GraphEncoderConfig) -> list[nn.Module]:
    """Return the blocks of all stages, with the nodes thinned between them."""
    n_all = sum(config.n_blocks)
    layers: list[nn.Module] = []
    done = 0
    for stage, (width, n) in enumerate(zip(config.channels, config.n_blocks, strict=True)):
        if stage:
            layers.append(Thinned(config.channels[stage - 1], width, config.halved[stage - 1]))
        for block in range(done, done + n):
            drop_path = config.drop_path * block / max(1, n_all - 1)
            layers.append(GraphBlock(width, config.dilation(block), drop_path, config))
        done += n
    return layers
