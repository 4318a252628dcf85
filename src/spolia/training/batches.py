"""Batches of anchors and degraded positives, made on the device from int16 audio."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from spolia.errors import TrainingError
from spolia.networks.front_end import LogBands
from spolia.training.degrade import Degrader, Responses
from spolia.training.pool import AudioPool
from spolia.training.recipe import Recipe
from spolia.training.warp import decibel_of, draw_factors, mask, warp


@dataclass(frozen=True)
class Batch:
    """Log-power spectrograms of anchors and of their degraded counterparts."""

    anchors: Tensor  # float32 [shape=(n_rows, n_bands, n_frames)]
    positives: Tensor  # float32 [shape=(n_rows, n_bands, n_frames)]
    groups: Tensor  # int64 [shape=(n_rows,)]
    files: Tensor  # int64 [shape=(n_rows,)]
    starts: Tensor  # int64 [shape=(n_rows,)], the anchors' first sample within the pool
    others: Tensor | None = None  # of mixtures, the second row that is in each [shape=(n_rows,)]


class Places(NamedTuple):
    """Where rows are cut from."""

    groups: Tensor  # int64 [shape=(n_rows,)]
    files: Tensor  # int64 [shape=(n_rows,)]
    starts: Tensor  # int64 [shape=(n_rows,)], first sample of the window within the pool


@dataclass(frozen=True)
class Geometry:
    """Sizes of a training window, in samples unless said otherwise."""

    n_frames: int  # frames of an anchor
    n_source: int  # frames of a positive before warping
    anchor: int
    source: int
    context: int
    shift: int  # largest offset of a positive

    @property
    def window(self) -> int:
        """Samples of a positive with its context."""
        return self.context + self.source


def plan(recipe: Recipe, log_bands: LogBands, *, segment_frames: int, hop_frames: int) -> Geometry:
    """Work out the sizes that a recipe asks for."""
    config = log_bands.config
    n_frames = segment_frames + hop_frames * (recipe.data.n_segments - 1)
    n_source = int(n_frames * recipe.warp.largest_stretch) + 2
    n_source += (n_source - n_frames) % 2  # same centre on the frame grid
    return Geometry(
        n_frames,
        n_source,
        (n_frames - 1) * config.hop_length + config.n_fft,
        (n_source - 1) * config.hop_length + config.n_fft,
        round(recipe.data.context * config.sample_rate),
        round(recipe.data.offset * config.sample_rate),
    )


class BatchMaker:
    """Draws batches by step number; the same seed and step give the same batch."""

    def __init__(
        self,
        recipe: Recipe,
        log_bands: LogBands,
        geometry: Geometry,
        responses: Responses,
        tracks: AudioPool,
        noise: AudioPool,
        *,
        n_fft: int,
        device: torch.device,
        coded: AudioPool | None = None,
    ) -> None:
        self.recipe, self.geometry, self.log_bands = recipe, geometry, log_bands
        self.device = device
        rate = log_bands.config.sample_rate
        self.degrader = Degrader(recipe.degrade, responses, sample_rate=rate, n_fft=n_fft)
        self.tracks = torch.from_numpy(tracks.samples).to(device)
        self.noise = torch.from_numpy(noise.samples).to(device)
        self.coded = None if coded is None else torch.from_numpy(coded.samples).to(device)
        self.replace: Callable[[Places, torch.Generator], Places] | None = None  # see mining.py
        self._index_groups(tracks)

    def _index_groups(self, tracks: AudioPool) -> None:
        margin = self.geometry.window + 2 * self.geometry.shift
        offsets = torch.from_numpy(tracks.offsets)
        room = (offsets[1:] - offsets[:-1] - margin).clamp(min=0)
        names = sorted({f.group for f in tracks.files})
        number = {name: i for i, name in enumerate(names)}
        group = torch.tensor([number[f.group] for f in tracks.files])
        totals = torch.zeros(len(names)).index_add(0, group, room.float())
        self.usable = (totals > 0).nonzero().flatten().to(self.device)
        if len(self.usable) < 2:
            raise TrainingError(
                f"only {len(self.usable)} groups are long enough; at least 2 are needed"
            )
        self.file_weights = torch.zeros(len(names), len(group))
        self.file_weights[group, torch.arange(len(group))] = room.float()
        self.file_weights = self.file_weights.to(self.device)
        self.first, self.room = offsets[:-1].to(self.device), room.to(self.device)

    def draw(self, step: int, *, seed: int) -> Batch:
        """Return the batch of a step."""
        rng, (groups, files, starts) = self.begin(step, seed)
        geometry, rows = self.geometry, len(groups)
        middle = starts + geometry.context + geometry.shift
        lead = (geometry.source - geometry.anchor) // 2
        shift = torch.randint(
            -geometry.shift, geometry.shift + 1, (rows,), generator=rng, device=self.device
        )
        source_starts = middle + shift - geometry.context
        return Batch(
            self.spectrogram(starts),
            self.positives(source_starts, rng),
            groups,
            files,
            middle + lead,
        )

    def begin(self, step: int, seed: int) -> tuple[torch.Generator, Places]:
        """Return the random numbers and the places of a step's batch."""
        rng = torch.Generator(device=self.device).manual_seed(seed * 1_000_003 + step)
        places = self.draw_places(rng)
        return rng, places if self.replace is None else self.replace(places, rng)

    def positives(self, source_starts: Tensor, rng: torch.Generator) -> Tensor:
        """Return log power of degraded windows [shape=(n_rows, n_bands, n_frames)].

        source_starts: first samples of the windows with their context [shape=(n_rows,)].
        """
        geometry, rows = self.geometry, len(source_starts)
        signal = self._cut(self.tracks, source_starts, geometry.window)
        if self.coded is not None:
            use = torch.rand(rows, generator=rng, device=self.device) < self.recipe.data.coded
            lossy = self._cut(self.coded, source_starts, geometry.window)
            signal = torch.where(use[:, None], lossy, signal)
        noise_starts = torch.randint(
            len(self.noise) - geometry.window, (rows,), generator=rng, device=self.device
        )
        noise = self._cut(self.noise, noise_starts, geometry.window)
        degraded = self.degrader(signal, noise, geometry.context, rng)
        return self._change(self.log_bands(degraded), rng)

    def _change(self, log_power: Tensor, rng: torch.Generator) -> Tensor:
        semitones, tempo = draw_factors(len(log_power), self.recipe.warp, log_power, rng)
        changed = warp(
            log_power,
            semitones,
            tempo,
            n_frames=self.geometry.n_frames,
            bands_per_octave=self.log_bands.config.bands_per_octave,
        )
        return mask(changed, self.recipe.mask, rng, decibel=decibel_of(self.log_bands))

    def spectrogram(self, starts: Tensor) -> Tensor:
        """Return anchors' log power [shape=(n, n_bands, n_frames)] of windows that begin there."""
        return self.log_bands(
            self._cut(self.tracks, self.anchor_starts(starts), self.geometry.anchor)
        )

    def anchor_starts(self, starts: Tensor) -> Tensor:
        """Return the first samples of anchors in the middle of windows that begin there."""
        geometry = self.geometry
        lead = (geometry.source - geometry.anchor) // 2
        return starts + geometry.context + geometry.shift + lead

    def draw_places(self, rng: torch.Generator, *, all_groups: bool = False) -> Places:
        """Draw a place in each of a batch's groups, or in each group there is."""
        rows = len(self.usable) if all_groups else min(self.recipe.data.n_rows, len(self.usable))
        order = torch.rand(len(self.usable), generator=rng, device=self.device).argsort()
        groups = self.usable[order[:rows]]
        files = torch.multinomial(self.file_weights[groups], 1, generator=rng)[:, 0]
        place = torch.rand(rows, generator=rng, device=self.device, dtype=torch.float64)
        return Places(groups, files, self.first[files] + (place * self.room[files]).long())

    def _cut(self, pool: Tensor, starts: Tensor, length: int) -> Tensor:
        """Return rows of ``length`` samples as float32 in [-1, 1]."""
        return pool.unfold(0, length, 1)[starts].float() / 32768.0
