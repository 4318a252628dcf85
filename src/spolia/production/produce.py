"""Productions: a new track from samples of a crate's recordings, and what is sampled in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spolia import degradation
from spolia.audio import Audio
from spolia.corpus import CorpusFile
from spolia.errors import AudioError, TrainingError
from spolia.production.arrange import FADE, Grid, Placement, arranged, laid
from spolia.production.beds import lay_over
from spolia.production.crate import SAMPLE_RATE, Crate, Reference, duration, read
from spolia.production.excerpts import SHORTEST, Excerpt, Wish, find_excerpt
from spolia.production.levels import level_over, scaled, sounding_power, summed
from spolia.production.plan import (
    MOST_OF_TRACK,
    Habits,
    Plan,
    Rng,
    UsePlan,
    draw_plan,
)
from spolia.production.transform import transformed
from spolia.production.truth import Manner, Occurrence, Overlay, Use
from spolia.samples import Part

WINDOW = 24.0  # seconds of a recording in which an excerpt is looked for
N_TRIES = 16  # places that are tried before a production is given up
LEAST_STEM_DB = -15.0  # of a part in its recording; softer ones cannot be heard in the reference
FASTEST, SLOWEST = 0.3, 1.0  # seconds per beat of the track; beyond, half or double is its beat
LEVEL = 0.1  # root mean square of a sample over which nothing is laid
PEAK = 0.9  # of the track
PAUSES = (0.0, 0.5, 0.5, 1.0, 1.5)  # beats of rest after a note


@dataclass(frozen=True)
class Production:
    """A made track and its ground truth; ``audio`` is the sum of ``alone`` and ``bed``."""

    audio: Audio  # at SAMPLE_RATE, peak PEAK
    uses: tuple[Use, ...]  # none in a track that samples nothing
    overlays: tuple[Overlay, ...]  # what the bed is made of
    alone: tuple[Audio, ...]  # each use as it sounds in the track, by itself
    bed: Audio  # all that is laid over


def produce(crate: Crate, rng: Rng, *, seconds: float, habits: Habits | None = None) -> Production:
    """Return a track of ``seconds`` that samples one to three recordings of the crate.

    Raises ParameterError where it would be shorter than plan.SHORTEST_TRACK, AudioError where no
    recording that was tried has anything to sample, TrainingError where the crate holds too few.
    """
    return realise(crate, draw_plan(rng, habits or Habits(), seconds=seconds), rng)


def sample_free(
    crate: Crate, rng: Rng, *, seconds: float, habits: Habits | None = None
) -> Production:
    """Return a track of ``seconds`` that samples nothing: what is laid over samples, alone."""
    plan = draw_plan(rng, habits or Habits(), seconds=seconds)
    return realise(crate, Plan(seconds, (), plan.layers), rng)


def realise(crate: Crate, plan: Plan, rng: Rng) -> Production:
    """Return a planned track; see ``produce`` for the errors."""
    takes: list[_Take] = []
    for use in plan.uses:
        takes.append(_take(crate, use, plan.seconds, [t.reference.file for t in takes], rng))
    n_samples = round(plan.seconds * SAMPLE_RATE)
    grid = _grid(takes, rng)
    placements = [_placements(take, grid, plan.seconds, rng) for take in takes]
    sampled = [take.reference.file for take in takes]
    layers = lay_over(crate, plan.layers, grid, sampled, n_samples=n_samples, rng=rng)
    bed = summed([Audio(sound, SAMPLE_RATE) for _, sound in layers], n_samples, SAMPLE_RATE)
    alone = [
        _at_level(_played(take, places, n_samples), bed, take.plan.overlay_db)
        for take, places in zip(takes, placements, strict=True)
    ]
    bed, *alone = _mastered([bed, *alone])
    uses = tuple(
        _use(take, places, level_over(_rest(bed, alone, i), alone[i]))
        for i, (take, places) in enumerate(zip(takes, placements, strict=True))
    )
    audio = summed([bed, *alone], n_samples, SAMPLE_RATE)
    return Production(audio, uses, tuple(overlay for overlay, _ in layers), tuple(alone), bed)


@dataclass(frozen=True)
class _Take:
    """An excerpt, ready to be played."""

    plan: UsePlan
    reference: Reference
    part: Part  # of the plan, or "mix" where no recording has that
    start: float  # seconds of the recording
    end: float
    excerpt: Excerpt
    sound: Audio  # transformed


def _take(
    crate: Crate, plan: UsePlan, seconds: float, sampled: Sequence[CorpusFile], rng: Rng
) -> _Take:
    part: Part = plan.part if crate.holding(plan.part, sampled) else "mix"
    references = crate.holding(part, sampled)
    if not references:
        raise TrainingError(
            f"the crate's {len(crate.references)} recordings are too few, or too much akin, to "
            f"sample {len(sampled) + 1} of them in one track; add recordings"
        )
    longest = MOST_OF_TRACK * seconds * plan.change.tempo_ratio
    wish = Wish(plan.kind, plan.seconds, plan.n_bars, longest)
    for _ in range(N_TRIES):
        reference = _drawn(references, rng)
        start, sound, mix = _window(reference, part, rng)
        excerpt = find_excerpt(sound, mix, wish, rng)
        if excerpt is not None and _is_heard(sound, mix, excerpt):
            span = (excerpt.start, excerpt.end)
            played = transformed(sound, *span, change=plan.change, effects=plan.effects)
            return _Take(plan, reference, part, start + span[0], start + span[1], excerpt, played)
    raise AudioError(
        str(reference.file.path),
        f"has nothing to sample as a {plan.kind}, nor have {N_TRIES - 1} places tried before; "
        f"give recordings of {SHORTEST:.0f} s or more that are not silent",
    )


def _drawn(references: Sequence[Reference], rng: Rng) -> Reference:
    """Return one of the references, their groups with equal chance."""
    groups = sorted({r.file.group for r in references})
    group = groups[int(rng.integers(len(groups)))]
    members = [r for r in references if r.file.group == group]
    return members[int(rng.integers(len(members)))]


def _window(reference: Reference, part: Part, rng: Rng) -> tuple[float, Audio, Audio]:
    """Return where a stretch of a recording begins, that stretch of a part, and of the mix."""
    latest = max(0.0, duration(reference.file) - WINDOW)
    start = round(float(rng.uniform(0.0, latest)) * SAMPLE_RATE) / SAMPLE_RATE if latest else 0.0
    mix = read(reference.file, start=start, end=start + WINDOW)
    stems = [file for kind, file in reference.stems if kind == part]
    if not stems:
        return start, mix, mix
    stem = read(stems[int(rng.integers(len(stems)))], start=start, end=start + WINDOW)
    return start, stem, mix


def _is_heard(sound: Audio, mix: Audio, excerpt: Excerpt) -> bool:
    """Tell whether a part is loud enough in its recording to be found there."""
    own, whole = (degradation.power(a.slice(excerpt.start, excerpt.end)) for a in (sound, mix))
    return own >= whole * 10 ** (LEAST_STEM_DB / 10)


def _grid(takes: Sequence[_Take], rng: Rng) -> Grid:
    """Return the beats of the track: those of its first sample as it is played, if there is one."""
    beat = float(rng.uniform(0.4, 0.85))
    if takes:
        beat = takes[0].excerpt.beat / takes[0].plan.change.tempo_ratio
    while beat > SLOWEST:
        beat /= 2
    while beat < FASTEST:
        beat *= 2
    return Grid(float(rng.uniform(0.0, beat)), beat)


def _placements(take: _Take, grid: Grid, seconds: float, rng: Rng) -> tuple[Placement, ...]:
    ratio = take.plan.change.tempo_ratio
    first, last = take.plan.section
    return arranged(
        len(take.sound),
        [round(onset / ratio * SAMPLE_RATE) for onset in take.excerpt.onsets],
        grid,
        manner=take.plan.manner,
        section=(first * seconds, last * seconds),
        pause=float(rng.choice(PAUSES)) if take.plan.kind == "note" else 0.0,
        sample_rate=SAMPLE_RATE,
        rng=rng,
    )


def _played(take: _Take, placements: Sequence[Placement], n_samples: int) -> Audio:
    track = laid(take.sound.samples, placements, n_samples, round(FADE * SAMPLE_RATE))
    return Audio(track, SAMPLE_RATE)


def _at_level(sound: Audio, bed: Audio, overlay_db: float) -> Audio:
    """Return a sound at the level over which the bed is ``overlay_db`` where both sound."""
    level = level_over(bed, sound)
    if level is None:
        return scaled(sound, LEVEL / max(float(np.sqrt(sounding_power(sound))), 1e-9))
    return scaled(sound, 10 ** ((level - overlay_db) / 20))


def _mastered(sounds: Sequence[Audio]) -> list[Audio]:
    """Return sounds scaled alike so that their sum peaks at PEAK."""
    mix = summed(sounds, len(sounds[0]), SAMPLE_RATE)
    factor = PEAK / max(float(np.abs(mix.samples).max()), 1e-9)
    return [scaled(sound, factor) for sound in sounds]


def _rest(bed: Audio, alone: Sequence[Audio], i: int) -> Audio:
    """Return everything but one of the uses."""
    return summed([bed, *alone[:i], *alone[i + 1 :]], len(bed), SAMPLE_RATE)


def _use(take: _Take, placements: Sequence[Placement], overlay_db: float | None) -> Use:
    ratio = take.plan.change.tempo_ratio
    occurrences = tuple(
        Occurrence(
            place.at / SAMPLE_RATE,
            (place.at + place.last - place.first) / SAMPLE_RATE,
            take.start + place.first / SAMPLE_RATE * ratio,
            take.start + place.last / SAMPLE_RATE * ratio,
        )
        for place in placements
    )
    manner: Manner = "once" if len(occurrences) == 1 else take.plan.manner
    return Use(
        take.reference.file.file,
        take.reference.file.group,
        take.part,
        take.plan.kind,
        manner,
        take.start,
        take.end,
        occurrences,
        take.plan.change.semitones,
        ratio,
        tuple(effect.name for effect in take.plan.effects),
        overlay_db,
    )
