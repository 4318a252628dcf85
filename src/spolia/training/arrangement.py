"""Arrangements: a score played by other instruments, in another key and tempo, mixed anew.

One score gives as many recordings as wanted. The stems are exact: their sum is the mix before the
master's limiter, and their gains are in the mix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from spolia import degradation
from spolia.audio import Audio
from spolia.errors import TrainingError
from spolia.training.instruments import Samples, SoundFont
from spolia.training.scores import Floats, Part, Score, excerpt, swung, transposed

Rng = np.random.Generator
Speak = Callable[[Rng], Audio]

BASS = range(32, 40)  # General MIDI programs
MELODIC = (*range(0, 32), *range(40, 97), *range(104, 112))  # no basses, no sound effects
KITS = (0, 8, 16, 24, 25, 32, 40)
BASS_BELOW = 45  # MIDI note: parts that lie lower on average are basses


@dataclass(frozen=True)
class PartSettings:
    """How one part is played and mixed."""

    program: int  # instrument, or drum kit
    gain_db: float
    tone_db: tuple[float, ...]  # gains at evenly spaced octaves, applied as an equaliser
    drive: float  # amplification before a soft limit; 0: none
    wet: float  # share that is sent to the room


@dataclass(frozen=True)
class Arrangement:
    """Everything that turns a score into a recording."""

    first_beat: float
    n_beats: float
    semitones: int
    tempo: float  # times as fast as the score says
    swing: float  # see scores.swung
    parts: tuple[PartSettings, ...]
    rt60: float  # seconds, of the room
    loudness: float  # drive of the master's soft limiter
    voice_db: float | None  # a voice over it, relative to the music; None: no voice


def draw_arrangement(score: Score, rng: Rng, *, seconds: float, voices: float) -> Arrangement:
    """Return a random arrangement of about ``seconds`` of a score, voiced in a share ``voices``."""
    tempo = float(np.exp(rng.normal(0.0, 0.15)).clip(0.7, 1.4))
    length = min(score.n_beats, _beats_in(score, seconds * tempo))
    first = float(rng.uniform(0.0, max(score.n_beats - length, 1e-9)))
    return Arrangement(
        np.floor(first),
        length,
        int(rng.integers(-6, 7)),
        tempo,
        float(rng.choice([0.5, 0.5, 0.5, 0.56, 0.62, 0.667])),
        tuple(_draw_part(part, rng) for part in score.parts),
        float(rng.uniform(0.2, 1.8)),
        float(rng.uniform(0.3, 2.5)),
        float(rng.uniform(-4.0, 6.0)) if rng.random() < voices else None,
    )


def _beats_in(score: Score, seconds: float) -> float:
    """Return how many beats the score has in a while, at its mean tempo."""
    whole = float(score.seconds(np.array([score.n_beats]))[0])
    return seconds * score.n_beats / max(whole, 1e-9)


def _draw_part(part: Part, rng: Rng) -> PartSettings:
    return PartSettings(
        _draw_program(part, rng),
        float(rng.normal(0.0, 3.5)),
        tuple(float(v) for v in rng.normal(0.0, 4.0, size=6)) if rng.random() < 0.6 else (),
        float(rng.uniform(1.0, 6.0)) if rng.random() < 0.2 else 0.0,
        float(rng.choice([0.0, 0.1, 0.3])),
    )


def _draw_program(part: Part, rng: Rng) -> int:
    """Return the part's own instrument in a third of the cases, else one for its register."""
    if part.is_drum:
        return int(rng.choice(KITS))
    if rng.random() < 0.33:
        return part.program
    if part.program in BASS or float(part.notes.mean()) < BASS_BELOW:
        return int(rng.choice(BASS))
    return int(rng.choice(MELODIC))


def perform(
    score: Score, arrangement: Arrangement, font: SoundFont, *, speak: Speak | None, rng: Rng
) -> tuple[Audio, dict[str, Audio]]:
    """Return the recording and its stems ("drums", "bass", "music", "vocals"), equally long.

    rng: for what is left to chance in the playing (the room's echoes, the voice's lines).
    Raises TrainingError where nothing is struck in the arrangement's stretch of the score.
    """
    first = arrangement.first_beat
    written = excerpt(score, first, first + arrangement.n_beats)
    played = swung(transposed(written, arrangement.semitones), arrangement.swing)
    end = played.seconds(np.array([arrangement.n_beats]))[0] / arrangement.tempo
    duration = float(end) + 1.0
    stems: dict[str, Samples] = {}
    sends: dict[str, Samples] = {}  # what of them goes to the room
    for part, setting in zip(played.parts, arrangement.parts, strict=True):
        if not len(part.notes):  # it rests here
            continue
        times = played.seconds(part.beats) / arrangement.tempo
        sound = font.play(part, times, setting.program, duration=duration)
        sound = _mixed(sound, setting, font.sample_rate)
        _add(stems, _kind(part, setting), sound)
        if setting.wet:
            _add(sends, _kind(part, setting), sound * np.float32(setting.wet))
    for kind, send in sends.items():
        wet = Audio(send, font.sample_rate)
        stems[kind] += degradation.room(wet, rng, rt60=arrangement.rt60, wet=1.0).samples
    if not stems:
        raise TrainingError(f"the score rests for {duration:.0f} s; draw another stretch")
    if speak is not None and arrangement.voice_db is not None:
        beats = played.seconds(np.arange(0.0, arrangement.n_beats, 4.0)) / arrangement.tempo
        stems["vocals"] = _voice(stems, beats, arrangement.voice_db, speak, font.sample_rate, rng)
    return _master(stems, arrangement.loudness, font.sample_rate)


def _kind(part: Part, setting: PartSettings) -> str:
    if part.is_drum:
        return "drums"
    return "bass" if setting.program in BASS else "music"


def _add(stems: dict[str, Samples], kind: str, sound: Samples) -> None:
    stems[kind] = stems[kind] + sound if kind in stems else sound


def _mixed(sound: Samples, setting: PartSettings, sample_rate: int) -> Samples:
    """Return a part after drive, tone and gain."""
    audio = Audio(sound, sample_rate)
    if setting.drive:
        level = max(float(np.abs(sound).max(initial=0.0)), 1e-9)
        driven = np.tanh(sound / level * setting.drive) * level / np.tanh(setting.drive)
        audio = Audio(driven.astype(np.float32), sample_rate)
    if setting.tone_db:
        audio = degradation.filtered(audio, degradation.octave_gains(setting.tone_db))
    return np.asarray(audio.samples * np.float32(10 ** (setting.gain_db / 20)), np.float32)


def _voice(
    stems: Mapping[str, Samples],
    starts: Floats,
    level_db: float,
    speak: Speak,
    sample_rate: int,
    rng: Rng,
) -> Samples:
    """Return lines that begin on bars, level_db above the music; every third bar or so rests."""
    music = np.sum(list(stems.values()), axis=0)
    voice = np.zeros_like(music)
    free_from = 0
    for start in np.round(starts * sample_rate).astype(np.int64):
        if start < free_from or rng.random() < 0.35:
            continue
        line = speak(rng).resample(sample_rate).samples[: len(voice) - start]
        voice[start : start + len(line)] += line
        free_from = start + len(line)
    spoken = voice != 0
    loud = float(np.sqrt(np.mean(voice[spoken] ** 2))) if spoken.any() else 1.0
    reference = float(np.sqrt(np.mean(music**2)))
    return np.asarray(voice * np.float32(reference / loud * 10 ** (level_db / 20)), np.float32)


def _master(
    stems: Mapping[str, Samples], loudness: float, sample_rate: int
) -> tuple[Audio, dict[str, Audio]]:
    """Scale stems and mix alike so that the mix peaks at 0.5 · loudness, and limit it softly."""
    mix = np.sum(list(stems.values()), axis=0)
    scale = 0.5 * loudness / max(float(np.abs(mix).max()), 1e-9)
    limited = np.tanh(mix * scale)
    scaled = {k: Audio((v * scale).astype(np.float32), sample_rate) for k, v in stems.items()}
    return Audio(limited.astype(np.float32), sample_rate), scaled
