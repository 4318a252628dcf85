"""Beds: what is laid over samples: drums, basses, other music and voices, on the track's beat.

They come from a crate's beds, loops and single sounds, and from synthesis where that is drawn or
nothing else is there; never from recordings that may share material with what is sampled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from spolia import degradation
from spolia.audio import Audio
from spolia.corpus import CorpusFile
from spolia.errors import AudioError
from spolia.production.arrange import FADE, Grid, Placement, Samples, laid
from spolia.production.beats import estimate_beats, onset_strength
from spolia.production.crate import SAMPLE_RATE, Crate, Material, duration, read
from spolia.production.levels import sounding_power
from spolia.production.plan import LayerPlan, Rng
from spolia.production.truth import Overlay
from spolia.production.voice import sing
from spolia.synthesis import CHANCE, GROOVES, draw_timbre, note

MADE = 0.5  # share of drums, basses and voices that are made and not found
LEVEL = 0.1  # root mean square of a layer at 0 dB, where it sounds
MOST_CHANGE = (0.75, 1.35)  # factors by which a layer may be sped up to the beat
LEAST_POWER = 1e-6  # of a material where it sounds; below −60 dB it is silent
N_TRIES = 8  # stretches of a material that are tried before it counts as silent
KIT = 4  # single sounds of a drum pattern
LOUDNESS = (1.0, 0.8, 0.5, 0.4)  # of the kit's sounds, dark to bright
BASS_NOTES = (0, 0, 3, 5, 7, -2)  # semitones above the root
BASS_ROOT = (41.2, 77.8)  # Hz

Layered = tuple[Overlay, Samples]
Maker = Callable[[], Layered]


def lay_over(
    crate: Crate,
    plans: Sequence[LayerPlan],
    grid: Grid,
    sampled: Sequence[CorpusFile],
    *,
    n_samples: int,
    rng: Rng,
) -> list[Layered]:
    """Return the layers, float32 [shape=(n_samples,)] each, at their levels.

    A layer for which a crate has nothing, and that cannot be made, is left out.
    """
    layers = []
    for plan in plans:
        makers = _makers(crate, plan, grid, sampled, n_samples, rng)
        if makers:
            is_made = len(makers) > 1 and rng.random() < MADE
            overlay, sound = makers[1 if is_made else 0]()
            layers.append((overlay, _levelled(sound, plan)))
    return layers


def _makers(
    crate: Crate,
    plan: LayerPlan,
    grid: Grid,
    sampled: Sequence[CorpusFile],
    n_samples: int,
    rng: Rng,
) -> list[Maker]:
    """Return the ways to come by a layer: found, then made, as far as they are open."""
    makers: list[Maker] = []
    materials = crate.usable(plan.layer, sampled)
    if materials:
        makers.append(lambda: _found(materials, plan, grid, n_samples, rng))
    hits = crate.usable_hits(sampled)
    if plan.layer == "drums" and len(hits) >= KIT:
        makers.append(lambda: (Overlay("drums", None, None), _drummed(hits, grid, n_samples, rng)))
    if plan.layer == "bass":
        makers.append(lambda: (Overlay("bass", None, None), _bass_line(grid, n_samples, rng)))
    if plan.layer == "voice":
        makers.append(lambda: (Overlay("voice", None, None), _sung(grid, n_samples, rng)))
    return makers


def _levelled(sound: Samples, plan: LayerPlan) -> Samples:
    """Return a layer that enters when it should, at its level."""
    enters = round(plan.enters * len(sound))
    sound = laid(sound, [Placement(enters, enters, len(sound))], len(sound), _fade())
    power = sounding_power(Audio(sound, SAMPLE_RATE))
    scale = LEVEL * 10 ** (plan.level_db / 20) / max(np.sqrt(power), 1e-6)
    return np.asarray(sound * np.float32(scale), np.float32)


def _fade() -> int:
    return round(FADE * SAMPLE_RATE)


def _found(
    materials: Sequence[Material], plan: LayerPlan, grid: Grid, n_samples: int, rng: Rng
) -> Layered:
    """Return a stretch of one of the materials; raises AudioError where several are silent."""
    for _ in range(N_TRIES):
        material = materials[int(rng.integers(len(materials)))]
        place = _looped if material.is_loop else _running
        sound = place(material.file, grid, n_samples, on_beat=plan.on_beat, rng=rng)
        heard = Audio(sound[round(plan.enters * n_samples) :], SAMPLE_RATE)
        if sounding_power(heard) > LEAST_POWER:
            return Overlay(plan.layer, material.file.file, material.file.group), sound
    raise AudioError(str(material.file.path), f"is silent, as are {N_TRIES - 1} others before it")


def _looped(file: CorpusFile, grid: Grid, n_samples: int, *, on_beat: bool, rng: Rng) -> Samples:
    """Return a loop that repeats every whole number of beats, or without a seam off the beat."""
    sound = read(file)
    n_beats = max(1, round(sound.duration / grid.beat))
    speed = sound.duration / (n_beats * grid.beat)
    if not on_beat or not MOST_CHANGE[0] <= speed <= MOST_CHANGE[1]:
        return np.resize(np.roll(sound.samples, int(rng.integers(len(sound)))), n_samples)
    played = degradation.change_speed(sound, speed).samples
    n_rounds = int(n_samples / SAMPLE_RATE / grid.beat / n_beats) + 1
    starts = (grid.at(n_beats * i, SAMPLE_RATE) for i in range(n_rounds))
    rounds = [Placement(at, 0, len(played)) for at in starts if at < n_samples]
    return laid(played, rounds, n_samples, _fade())


def _running(file: CorpusFile, grid: Grid, n_samples: int, *, on_beat: bool, rng: Rng) -> Samples:
    """Return a stretch of a recording, its beats on the grid's where they are near."""
    wanted = n_samples / SAMPLE_RATE * MOST_CHANGE[1] + 2.0
    latest = max(0.0, duration(file) - wanted)
    start = float(rng.uniform(0.0, latest)) if latest else 0.0
    sound = read(file, start=start, end=start + wanted)
    beats = estimate_beats(onset_strength(sound), SAMPLE_RATE) if on_beat else None
    if beats is not None:
        speed = beats.period / grid.beat
        speed *= 2.0 ** -round(float(np.log2(speed)))  # half and double tempo fit as well
        if MOST_CHANGE[0] <= speed <= MOST_CHANGE[1]:
            early = round((beats.first / speed - grid.first) % grid.beat * SAMPLE_RATE)
            sound = Audio(degradation.change_speed(sound, speed).samples[early:], SAMPLE_RATE)
    return np.resize(sound.samples, n_samples)


def _drummed(hits: Sequence[CorpusFile], grid: Grid, n_samples: int, rng: Rng) -> Samples:
    """Return a drum pattern of single sounds, the darkest as kick, the brightest as hat."""
    kit = [read(hits[int(i)]).slice(0.0, 1.0) for i in rng.permutation(len(hits))[:KIT]]
    kit.sort(key=_brightness)
    groove = GROOVES[int(rng.integers(len(GROOVES)))]
    patterns = (*groove, "".join(rng.choice(list("....o"), size=16)))
    track = np.zeros(n_samples, np.float32)
    step = grid.beat / 4
    n_steps = int((n_samples / SAMPLE_RATE - grid.first) / step)
    for pattern, sound, loudness in zip(patterns, kit, LOUDNESS, strict=True):
        peak = max(float(np.abs(sound.samples).max(initial=0.0)), 1e-6)
        for i in range(n_steps):
            if rng.random() < CHANCE[pattern[i % 16]]:
                at = grid.at(i / 4, SAMPLE_RATE)
                gain = loudness / peak * rng.uniform(0.7, 1.0)
                track[at : at + len(sound)] += sound.samples[: n_samples - at] * np.float32(gain)
    return track


def _brightness(audio: Audio) -> float:
    """Return the mean frequency of a sound, as a share of half the sample rate."""
    power = np.abs(np.fft.rfft(audio.samples, 1 << 14)) ** 2
    return float((power * np.linspace(0, 1, len(power))).sum() / max(power.sum(), 1e-12))


def _bass_line(grid: Grid, n_samples: int, rng: Rng) -> Samples:
    """Return a synthesised bass that repeats two bars with another root now and then."""
    timbre = draw_timbre(rng, n_partials=8, longest=0.6)
    root = float(np.exp(rng.uniform(*np.log(BASS_ROOT))))
    tones = [
        note(root * 2 ** (n / 12), 0.9 * grid.beat, timbre, SAMPLE_RATE).astype(np.float32)
        for n in BASS_NOTES
    ]
    pattern = [int(n) if rng.random() < 0.6 else -1 for n in rng.integers(len(tones), size=16)]
    track = np.zeros(n_samples, np.float32)
    for i in range(int((n_samples / SAMPLE_RATE - grid.first) / grid.beat * 2)):
        if pattern[i % 16] >= 0 or i == 0:
            at, tone = grid.at(i / 2, SAMPLE_RATE), tones[max(pattern[i % 16], 0)]
            track[at : at + len(tone)] += tone[: n_samples - at]
    return track


def _sung(grid: Grid, n_samples: int, rng: Rng) -> Samples:
    seconds = n_samples / SAMPLE_RATE
    voice = sing(rng, seconds=seconds, first=grid.first, beat=grid.beat, sample_rate=SAMPLE_RATE)
    return degradation.room(voice, rng, rt60=float(rng.uniform(0.2, 1.5)), wet=0.15).samples
