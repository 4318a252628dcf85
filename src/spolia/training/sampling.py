"""Batches that imitate sampling: a window of a recording, changed and buried under another one.

Everything happens on log-frequency power spectrograms, where a pitch shift is a translation and a
stretch a scaling: no stems and no audio effects are needed, and a batch costs one spectrogram a
row. What the producer (:mod:`spolia.production`) does exactly to sound, this does roughly and a
thousand times as fast.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from spolia.errors import TrainingError
from spolia.training.batches import Batch, BatchMaker, Places
from spolia.training.degrade import chance, uniform
from spolia.training.pool import AudioPool
from spolia.training.recipe import SamplingConfig
from spolia.training.stems import PARTS, StemPool

NEPERS = math.log(10) / 10  # of power per decibel
LEVEL = 12.0  # of mixtures: that of loud music in the front end's logarithms
SILENT = -12.0  # below it, as its floor is
N_SLICES = 8  # that a chopped window is cut into
ALONE = (0.4, 0.1, 0.2, 0.0)  # chance that one of PARTS is sampled alone; else a random set of them
SPEECH = "speech"  # category of noise
AUDIBLE = 0.01  # power of parts over that of the mix, below which the mix is sampled


class SampleBatchMaker(BatchMaker):
    """Draws clean windows of recordings, and pairs of such windows as samples in one new track.

    The second window of a mixture is the bed of the first, and a sample itself. Riou et al. (ICASSP
    2026) found such artificial mixtures of two songs worth a twentieth of mAP; here they also save
    a spectrogram. Where recordings have stems, parts of them are sampled too, and the anchor is
    still the mix. There is one window of a group in a batch, so that no repetition of a sound is a
    negative of it.
    """

    stems: Tensor | None = None  # int16 [shape=(len(PARTS), n_total)]
    stems_first: Tensor  # where each file's begin; −1: none [shape=(n_files,)]
    speech: tuple[Tensor, Tensor] | None = None  # first places in the noise, room behind them

    def use_stems(self, pool: StemPool) -> None:
        """Sample parts of recordings too, with the recipe's probability."""
        if pool.samples.shape[1] >= self.geometry.source:
            self.stems = torch.from_numpy(pool.samples).to(self.device)
            self.stems_first = torch.from_numpy(pool.first).to(self.device)

    def use_voices(self, noise: AudioPool) -> None:
        """Lay the speech among the noise over mixtures, with the recipe's probability."""
        if not holds_speech(noise):
            raise TrainingError(
                "[sampling] voice lays speech over mixtures, but no noise of the corpora is of "
                f"the category {SPEECH!r}; add a pack made by train render with --talks, or set "
                "voice = 0"
            )
        room = torch.from_numpy(noise.offsets[1:] - noise.offsets[:-1]) - self.geometry.anchor
        spoken = torch.tensor([f.category == SPEECH for f in noise.files]) & (room > 0)
        first = torch.from_numpy(noise.offsets[:-1])[spoken]
        self.speech = first.to(self.device), room[spoken].to(self.device)

    def draw(self, step: int, *, seed: int) -> Batch:
        """Return the batch of a step: its positives are mixtures of two rows each."""
        rng, places = self.begin(step, seed)
        groups, files, starts = places
        geometry, config = self.geometry, self.recipe.sampling
        first = starts + geometry.context + geometry.shift
        signal = self._cut(self.tracks, first, geometry.source)
        source = self.log_bands(signal)
        sampled = self._sampled(source, signal, Places(groups, files, first), config, rng)
        lead = (geometry.n_source - geometry.n_frames) // 2
        hop = self.log_bands.config.hop_length
        reach = min(geometry.shift // hop, lead)
        shift = torch.randint(-reach, reach + 1, (len(groups),), generator=rng, device=self.device)
        frames = lead - shift[:, None] + torch.arange(geometry.n_frames, device=self.device)
        anchors = source.gather(2, frames[:, None].expand(-1, source.shape[1], -1))
        sounds = [self._produced(of, config, rng) for of in sampled]
        mixtures, others = self._mixed(sounds[0], sounds[-1], config, rng)
        mixtures = self._spoken_over(mixtures, config, rng)
        return Batch(anchors, mixtures, groups, files, first + (lead - shift) * hop, others)

    def _sampled(
        self,
        source: Tensor,
        signal: Tensor,
        places: Places,
        config: SamplingConfig,
        rng: torch.Generator,
    ) -> list[Tensor]:
        """Return what is sampled: some rows' parts instead of their mix; log power as ``source``.

        A second one, where the recipe keeps them apart, is of other parts of the same rows, or the
        mix where no other part is heard.
        signal: the mix [shape=(n_rows, n_samples)].
        """
        if self.stems is None:
            return [source]
        rows = len(signal)
        within = places.starts - self.first[places.files]
        begin = self.stems_first[places.files]
        used = chance(rows, config.stems, source, rng) & (begin >= 0)
        begin = torch.where(used, begin + within, torch.zeros_like(begin))
        parts = self._parts(begin, signal.shape[1])
        audible = AUDIBLE * signal.square().mean(1)
        sets = [_choose_parts(rows, source, rng)]
        if config.apart:
            left = (1.0 - sets[0]) * (parts.square().mean(2) > audible[:, None])
            sets.append(_choose_some(left, rng))
        found = []
        for chosen in sets:
            sound = torch.einsum("rp,rps->rs", chosen, parts)
            heard = used & (sound.square().mean(1) > audible)
            found.append(torch.where(heard[:, None, None], self.log_bands(sound), source))
        return found

    def _parts(self, starts: Tensor, length: int) -> Tensor:
        """Return all parts of rows that begin there in the stems [shape=(n_rows, 4, length)]."""
        assert self.stems is not None
        return torch.stack([self._cut(stem, starts, length) for stem in self.stems], dim=1)

    def _produced(self, sampled: Tensor, config: SamplingConfig, rng: torch.Generator) -> Tensor:
        """Return sampled windows as a producer leaves them [shape=(n_rows, n_bands, n_frames)]."""
        samples = self._chopped(self._change(sampled, rng), config, rng)
        samples = self._reverberant(self._looped(samples, config, rng), config, rng)
        return self._coloured(samples, config, rng)

    def _mixed(
        self, samples: Tensor, beds: Tensor, config: SamplingConfig, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return mixtures of two rows each, and the second row's number.

        beds: what each row gives as the second one, perhaps its sample itself.
        """
        rows = len(samples)
        turn = int(torch.randint(1, max(rows, 2), (1,), generator=rng, device=self.device))
        present = self._presence(samples, config, rng)
        level = uniform((rows, 1, 1), *config.bed_db, samples, rng) * NEPERS
        loud = samples - _loudness(samples, present)
        heard = torch.where(present > 0, loud, torch.full_like(loud, SILENT))
        itself = torch.arange(rows, device=self.device)
        used = chance(rows, config.bed, samples, rng)
        laid = loud if beds is samples else beds - _loudness(beds, torch.ones_like(present))
        bed = torch.where(used[:, None, None], laid.roll(-turn, 0) + level, SILENT)
        mixtures = torch.logaddexp(heard, bed) + LEVEL
        return mixtures, torch.where(used, itself.roll(-turn), itself)

    def _spoken_over(
        self, mixtures: Tensor, config: SamplingConfig, rng: torch.Generator
    ) -> Tensor:
        """Lay a voice over some mixtures, as loud in the mean as they are, more or less."""
        if self.speech is None:
            return mixtures
        first, room = self.speech
        rows = len(mixtures)
        which = torch.multinomial(room.float(), rows, replacement=True, generator=rng)
        place = torch.rand(rows, generator=rng, device=self.device, dtype=torch.float64)
        starts = first[which] + (place * room[which]).long()
        voice = self.log_bands(self._cut(self.noise, starts, self.geometry.anchor))
        whole = torch.ones_like(voice[:, :1])
        level = uniform((rows, 1, 1), *config.voice_db, voice, rng) * NEPERS
        voice = voice - _loudness(voice, whole) + _loudness(mixtures, whole) + level
        used = chance(rows, config.voice, voice, rng)[:, None, None]
        return torch.where(used, torch.logaddexp(mixtures, voice), mixtures)

    def _looped(self, x: Tensor, config: SamplingConfig, rng: torch.Generator) -> Tensor:
        """Repeat a part of some windows, from a random point of the period."""
        rows, _, n = x.shape
        rate = self.log_bands.config.sample_rate / self.log_bands.config.hop_length
        low, high = (math.log(s * rate) for s in config.loop_seconds)
        period = torch.exp(uniform((rows, 1), low, high, x, rng)).round().clamp(2, n)
        first = (uniform((rows, 1), 0, 1, x, rng) * (n - period + 1)).floor()
        phase = (uniform((rows, 1), 0, 1, x, rng) * period).floor()
        time = torch.arange(n, device=x.device)[None].float()
        places = first + torch.remainder(time + phase, period)
        used = chance(rows, config.loop, x, rng)[:, None]
        places = torch.where(used, places, time).long()
        return x.gather(2, places[:, None, :].expand_as(x))

    def _chopped(self, x: Tensor, config: SamplingConfig, rng: torch.Generator) -> Tensor:
        """Cut some windows into equal slices and put them into another order."""
        if not config.chop:
            return x
        rows, _, n = x.shape
        order = torch.rand(rows, N_SLICES, generator=rng, device=x.device).argsort(1)
        size = -(-n // N_SLICES)
        places = (order * size)[:, :, None] + torch.arange(size, device=x.device)
        time = torch.arange(n, device=x.device)[None]
        used = chance(rows, config.chop, x, rng)[:, None]
        places = torch.where(used, places.flatten(1)[:, :n].clamp(max=n - 1), time)
        return x.gather(2, places[:, None, :].expand_as(x))

    def _presence(self, x: Tensor, config: SamplingConfig, rng: torch.Generator) -> Tensor:
        """Return 1 where the sample is heard and 0 elsewhere [shape=(n_rows, 1, n_frames)]."""
        rows, _, n = x.shape
        size = uniform((rows, 1), config.least_part, 1.0, x, rng) * n
        start = uniform((rows, 1), 0, 1, x, rng) * (n - size)
        time = torch.arange(n, device=x.device)[None]
        used = chance(rows, config.part, x, rng)[:, None]
        heard = ~used | ((time >= start) & (time < start + size))
        return heard.float()[:, None]

    def _coloured(self, x: Tensor, config: SamplingConfig, rng: torch.Generator) -> Tensor:
        """Add a smooth random response over the bands, and take an end of them off."""
        rows, n_bands, _ = x.shape
        points = torch.randn(rows, 1, 8, generator=rng, device=x.device) * config.equaliser_db
        points = points.clamp(-15, 15) * chance(rows, config.equaliser, x, rng)[:, None, None]
        curve = F.interpolate(points, size=n_bands, mode="linear", align_corners=True)[:, 0]
        place = torch.linspace(0, 1, n_bands, device=x.device)[None]
        corner = uniform((rows, 1), 0.15, 0.85, x, rng)
        side = torch.where(chance(rows, 0.5, x, rng)[:, None], 1.0, -1.0)
        beyond = ((place - corner) * side).clamp(min=0.0)
        depth = uniform((rows, 1), 0.3, 1.0, x, rng) * config.edge_db * 2
        used = chance(rows, config.edge, x, rng)[:, None]
        curve = curve - torch.where(used, depth * beyond, torch.zeros_like(beyond))
        return x + NEPERS * curve[:, :, None]

    def _reverberant(self, x: Tensor, config: SamplingConfig, rng: torch.Generator) -> Tensor:
        """Let power ring on for a while in some rows."""
        rows = len(x)
        rate = self.log_bands.config.sample_rate / self.log_bands.config.hop_length
        low, high = (math.log(s) for s in config.reverb_seconds)
        seconds = torch.exp(uniform((rows, 1), low, high, x, rng))
        taps = torch.arange(int(config.reverb_seconds[1] * rate) + 1, device=x.device)[None]
        wet = uniform((rows, 1), 0.1, 0.7, x, rng)
        kernel = wet * torch.exp(-taps / rate * 6 * math.log(10) / seconds)
        kernel[:, 0] = 1.0
        used = chance(rows, config.reverb, x, rng)
        if not bool(used.any()):
            return x
        power = x[used].exp().transpose(0, 1)  # (bands, rows, frames)
        n_taps, n_used = kernel.shape[1], int(used.sum())
        padded = F.pad(power, (n_taps - 1, 0))
        rung = F.conv1d(padded, kernel[used].flip(1)[:, None], groups=n_used)
        out = x.clone()
        out[used] = rung.transpose(0, 1).clamp(min=1e-9).log()
        return out


def holds_speech(noise: AudioPool) -> bool:
    """Tell whether any of the noise is speech."""
    return any(file.category == SPEECH for file in noise.files)


def _choose_parts(rows: int, like: Tensor, rng: torch.Generator) -> Tensor:
    """Return 1 for parts that are sampled: one alone, or a random set of them [shape=(n, 4)]."""
    n = len(PARTS)
    several = (torch.rand(rows, n, generator=rng, device=like.device) < 0.5).float()
    chances = torch.tensor(ALONE, device=like.device)
    ends = chances.cumsum(0)
    which = torch.rand(rows, 1, generator=rng, device=like.device)
    alone = (which < ends) & (which >= ends - chances)
    return torch.where(alone.any(1, keepdim=True), alone.float(), several)


def _choose_some(left: Tensor, rng: torch.Generator) -> Tensor:
    """Return 1 for some of the parts that are left, all where chance takes none."""
    kept = left * (torch.rand(left.shape, generator=rng, device=left.device) < 0.5)
    return torch.where(kept.any(1, keepdim=True), kept, left)


def _loudness(x: Tensor, present: Tensor) -> Tensor:
    """Return the log of the mean power where a sound is heard [shape=(n_rows, 1, 1)]."""
    power = (x.exp() * present).sum((1, 2), keepdim=True)
    heard = present.sum((1, 2), keepdim=True).clamp(min=1.0) * x.shape[1]
    return torch.log(power / heard + 1e-6)
