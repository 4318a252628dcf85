"""The residual network of samples: ResNet50-IBN with a generalised mean, and a small one.

The strongest published networks of sample identification are of this kind; here it looks at the
log-frequency spectrogram and the windows of the graph encoder, so that only the network differs.

Cheston, H., Van Balen, J., Durand, S.: Automatic identification of samples in hip-hop music via
multi-loss training and an artificial dataset. 2025 (arXiv 2502.06364).
Riou, A., Serrà, J., Mitsufuji, Y.: Automatic music sample identification with multi-track
contrastive learning. ICASSP 2026 (arXiv 2510.11507).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from spolia.networks.resnet import resnet
from spolia.networks.windows import GeneralisedMean, WindowConfig, WindowEncoder


@dataclass(frozen=True)
class SampleResnetConfig(WindowConfig):
    """Shape of the encoder; the defaults are the published ones."""

    n_blocks: tuple[int, ...] = (3, 4, 6, 3)  # of each stage
    width: int = 64  # of the stem and the first stage's bottlenecks
    n_ibn: int = 3  # stages with IBN-a
    last_stride: int = 1  # of the last stage


SIZES: dict[str, dict[str, Any]] = {
    "resnet50": {},
    "small": {"width": 24, "last_stride": 2},
}


class SampleResnet(WindowEncoder):
    """Waveform → one unit vector per window, one window every half second."""

    config: SampleResnetConfig

    def __init__(self, config: SampleResnetConfig) -> None:
        super().__init__(config)
        self.trunk, n = resnet(
            config.n_blocks,
            bottleneck=True,
            width=config.width,
            n_ibn=config.n_ibn,
            last_stride=config.last_stride,
        )
        self.pool = GeneralisedMean()
        self.head = nn.Sequential(nn.BatchNorm1d(n), nn.Linear(n, config.dim))

    def features(self, windows: Tensor) -> Tensor:
        """Map standardised windows (N, 1, n_bands, n_frames) to the last features (N, d, H, W)."""
        return self.trunk(windows)

    def pooled(self, grid: Tensor) -> Tensor:
        """Map features (N, d, H, W) to vectors (N, dim)."""
        return self.head(self.pool(grid))
