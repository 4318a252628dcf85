"""Pairs within a recording: all of its parts but one, and the same under that one.

The pairs of Bhattacharjee et al. (ISMIR 2025): of N parts that are heard, N − 1 are the sample and
its reference, and the last lies over it; then pitch or tempo of the whole is changed. What is laid
over keeps the sample's key and beat, and references never hold what was not sampled; mixtures
(:mod:`spolia.training.sampling`) have neither weakness.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spolia.errors import TrainingError
from spolia.training.batches import Batch
from spolia.training.degrade import uniform
from spolia.training.sampling import SampleBatchMaker
from spolia.training.stems import StemPool

HEARD = 0.1  # power of a part over that of the others together, from which it counts


class LeftOutBatchMaker(SampleBatchMaker):
    """Draws windows of recordings with stems, less those in which fewer than two parts sound."""

    def use_stems(self, pool: StemPool) -> None:
        """Draw from recordings with stems only; raises TrainingError where there are too few."""
        super().use_stems(pool)
        has = torch.from_numpy(pool.first >= 0).to(self.device)
        self.file_weights = self.file_weights * has
        self.usable = (self.file_weights.sum(1) > 0).nonzero().flatten()
        if self.stems is None or len(self.usable) < 2:
            raise TrainingError(
                "[sampling] left_out needs recordings with stems, of 2 groups of either split at "
                f"least; the corpora have {len(self.usable)} of one; add packs made by train "
                "render with --stems"
            )

    def draw(self, step: int, *, seed: int) -> Batch:
        """Return the batch of a step: its positives hold their anchors and one part more."""
        rng, (groups, files, starts) = self.begin(step, seed)
        geometry = self.geometry
        first = starts + geometry.context + geometry.shift
        within = first - self.first[files] + self.stems_first[files]
        shift = torch.randint(geometry.shift + 1, (len(groups),), generator=rng, device=self.device)
        here, later = (self._parts(at, geometry.source) for at in (within, within + shift))
        heard = _heard(here)
        rows = heard.sum(1) >= 2
        here, later, heard = here[rows], later[rows], heard[rows]
        over = torch.multinomial(heard.float(), 1, generator=rng)[:, 0]
        number = torch.arange(len(over), device=self.device)
        heard[number, over] = False
        sample = (here * heard[:, :, None]).sum(1)
        gain = uniform((len(over), 1), *self.recipe.sampling.bed_db, sample, rng)
        song = 10 ** (gain / 20) * sample + later[number, over]
        lead = (geometry.n_source - geometry.n_frames) // 2
        anchors = self.log_bands(sample)[:, :, lead : lead + geometry.n_frames]
        positives = self._change(self.log_bands(song), rng)
        place = first + lead * self.log_bands.config.hop_length
        return Batch(anchors, positives, groups[rows], files[rows], place[rows])


def _heard(parts: Tensor) -> Tensor:
    """Tell which parts are no more than 10 dB softer than all others [shape=(n, n_parts)]."""
    power = parts.square().mean(2)
    others = power.sum(1, keepdim=True) - power
    return (power > 0) & (power >= HEARD * others)
