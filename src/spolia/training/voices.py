"""Voices: lines to lay over music, talk and crowds to lay behind it, all spoken by eSpeak NG."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np

from spolia import degradation
from spolia.audio import Audio
from spolia.errors import TrainingError

Rng = np.random.Generator

WORDS = (
    "night road fire water golden broken morning stranger river shadow heartbeat silver summer "
    "window thunder paper city dancing falling never always tonight forever hold me down up away "
    "run slow light burning dream echo home tell them listen baby yeah oh come back again but the "
    "a one of two order table bill please really think so was it where is another glass train"
)
SPEAKERS = (
    "en-us",
    "en-gb",
    "en-us+f2",
    "en-us+f4",
    "en-gb+m3",
    "en-us+m7",
    "de",
    "fr",
    "es",
    "it",
)
PAUSE = 0.6  # seconds at most between the lines of a talk


def speak(text: str, *, voice: str, pitch: int, words_per_minute: int) -> Audio:
    """Return a line of text as speech.

    voice: eSpeak NG's name for a language and speaker, as "en-us+f3"; pitch: 0–99. Raises
    TrainingError where the program is missing or fails.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise TrainingError(
            "espeak-ng is not installed; install the system's package of that name, "
            "or make music without voices"
        )
    command = [program, "-v", voice, "-p", str(pitch), "-s", str(words_per_minute), "--stdout"]
    spoken = subprocess.run([*command, text], capture_output=True, check=False)
    if spoken.returncode or not spoken.stdout:
        raise TrainingError(f"espeak-ng failed: {spoken.stderr.decode(errors='replace').strip()}")
    return Audio.load(spoken.stdout, sample_rate=16000)


def line(rng: Rng, *, n_words: tuple[int, int] = (2, 8)) -> Audio:
    """Return a line of a few words, spoken high or low, fast or slow, at 16 kHz."""
    return _line(rng, str(rng.choice(SPEAKERS)), int(rng.integers(5, 95)), n_words)


def _line(rng: Rng, voice: str, pitch: int, n_words: tuple[int, int]) -> Audio:
    words = " ".join(rng.choice(WORDS.split(), size=int(rng.integers(*n_words))))
    return speak(words, voice=voice, pitch=pitch, words_per_minute=int(rng.integers(110, 260)))


def talk(rng: Rng, *, seconds: float) -> Audio:
    """Return one speaker's talk with pauses, at 16 kHz."""
    voice, pitch = str(rng.choice(SPEAKERS)), int(rng.integers(5, 95))
    wanted = round(seconds * 16000)
    pieces: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = []
    while sum(map(len, pieces)) < wanted:
        pieces.append(_line(rng, voice, pitch, (4, 16)).samples)
        pieces.append(np.zeros(int(rng.uniform(0.0, PAUSE) * 16000), np.float32))
    return Audio(np.concatenate(pieces)[:wanted], 16000)


def crowd(rng: Rng, *, seconds: float) -> Audio:
    """Return many talks at once in a room, near and far, at 16 kHz."""
    mix = np.zeros(round(seconds * 16000), np.float32)
    for _ in range(int(rng.integers(5, 16))):
        mix += talk(rng, seconds=seconds).samples * np.float32(10 ** rng.uniform(-1.0, 0.0))
    heard = degradation.room(Audio(mix, 16000), rng, rt60=float(rng.uniform(0.3, 1.5)), wet=1.5)
    peak = max(float(np.abs(heard.samples).max()), 1e-9)
    return Audio(0.7 * heard.samples / np.float32(peak), 16000)
