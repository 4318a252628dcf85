"""Fits how a room's delay shows in a model's matches (:mod:`spolia.delay`).

It is fitted on degraded clips of training recordings. Every clip's recording and place are known,
so nothing is searched: the line is refined where it must be, as a search would refine it, with the
unchanged query or, where that is unsure, with the change of pitch that fits best.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spolia import degradation
from spolia.alignment import Line, Proposal, Window, compare, refine
from spolia.audio import Audio
from spolia.corpus import CorpusFile, is_device, read_manifest, trainable
from spolia.delay import Delay, fit, traces
from spolia.encoders import Encoder
from spolia.fingerprints.base import UNCHANGED, Fingerprint
from spolia.fingerprints.segments import SegmentFingerprinter
from spolia.identify import spacing
from spolia.training.responses import vary

SAMPLE_RATE = 16000  # Hz at which clips are made
LENGTHS = (2.0, 5.0, 10.0)  # seconds
CLIPS_PER_RECORDING = 4
CONTEXT = 1.0  # seconds before a clip that still sound in a room
VARIED = 0.7  # share of rooms that are varied
CODECS = (("libopus", 12000), ("libmp3lame", 24000), ("aac", 32000))
ALIKE = 0.6  # mean similarity from which a line is learned from
OUTLIER = 0.6  # seconds: a line further off found a repetition, or nothing
HOLDOUT = 3  # one in so many recordings and rooms is held out from a first fit
SEEN, ROOM_HELD_OUT, MIXED = 0, 1, -1
NEAR = 0.1  # seconds

Rng = np.random.Generator
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sounds:
    """What clips are degraded with."""

    noises: Sequence[Audio]
    rooms: Sequence[Audio]  # impulse responses


@dataclass(frozen=True)
class Clip:
    """A degraded excerpt with its truth."""

    audio: Audio
    start: float  # seconds into the recording
    speed: float  # seconds of recording per second of clip
    room: int  # number of the room, −1 without


@dataclass
class Rows:
    """Traces with truth, of the prefixes of many clips."""

    traces: list[Floats] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)  # seconds
    parts: list[int] = field(default_factory=list)  # see _part()

    def extend(self, other: Rows) -> None:
        """Add another's rows."""
        self.traces += other.traces
        self.delays += other.delays
        self.parts += other.parts


def fit_delay(
    model: Path,
    corpus: Path,
    *,
    n_recordings: int = 500,
    seed: int = 0,
    threads: int = 2,
    report: Callable[[int, int], None] | None = None,
) -> Delay:
    """Fit a model's delay on ``n_recordings`` draws of a training recording, 4 clips each."""
    sounds = load_sounds(corpus)
    tracks = trainable(read_manifest(corpus, "track"))
    order = np.random.default_rng(seed).integers(len(tracks), size=n_recordings)
    fingerprinter = SegmentFingerprinter(Encoder(model))
    rows = Rows()

    def collect(i: int) -> Rows:
        rng = np.random.default_rng([seed, i])
        held_out = int(order[i]) % HOLDOUT == 0
        return collect_rows(fingerprinter, tracks[order[i]], held_out, sounds, rng)

    with ThreadPoolExecutor(threads) as pool:
        for i, found in enumerate(pool.map(collect, range(n_recordings))):
            rows.extend(found)
            if report:
                report(i + 1, n_recordings)
    return fitted(rows)


def fitted(rows: Rows) -> Delay:
    """Fit on all rows; how much that helps is told by a fit on some, for clips in other rooms."""
    x, delays, part = np.array(rows.traces), np.array(rows.delays), np.array(rows.parts)
    seen, left = part == SEEN, part == ROOM_HELD_OUT
    within = None
    if left.any():
        residual = delays[left] - x[left] @ fit(x[seen], delays[seen])
        within = [round(float((np.abs(e) <= NEAR).mean()), 4) for e in (delays[left], residual)]
    return Delay(tuple(round(float(w), 5) for w in fit(x, delays)), len(x), within)


def load_sounds(corpus: Path) -> Sounds:
    """Return the training noises and rooms of a corpus."""

    def load(files: Sequence[CorpusFile]) -> list[Audio]:
        return [Audio.load(f.path, sample_rate=SAMPLE_RATE) for f in files]

    rooms = [f for f in trainable(read_manifest(corpus, "ir")) if not is_device(f)]
    return Sounds(load(trainable(read_manifest(corpus, "noise"))[:150]), load(rooms))


def collect_rows(
    fingerprinter: SegmentFingerprinter,
    track: CorpusFile,
    held_out: bool,
    sounds: Sounds,
    rng: Rng,
) -> Rows:
    """Return the traces of clips of one recording at all lengths."""
    recording = Audio.load(track.path, sample_rate=SAMPLE_RATE)
    reference = fingerprinter.fingerprint(recording.resample(fingerprinter.sample_rate))
    rows = Rows()
    for _ in range(CLIPS_PER_RECORDING):
        clip = make_clip(recording, sounds, rng)
        for line, window in _lines(fingerprinter, clip, reference):
            delay = _delay(line, clip, fingerprinter.segment_seconds)
            if abs(delay) < OUTLIER:
                rows.traces.append(traces(window, line))
                rows.delays.append(delay)
                rows.parts.append(_part(held_out, clip.room))
    return rows


def _delay(line: Line, clip: Clip, segment: float) -> float:
    """Return how many seconds later the truth is, at the middle of the line's stretch.

    The line is of segments' starts, but vectors of different speeds match at their middles.
    """
    start = (line.query_start + line.query_end - segment) / 2
    true = clip.start + clip.speed * (start + segment / 2)
    return true - (line.speed * start + line.offset + segment / 2)


def _part(held_out: bool, room: int) -> int:
    """Tell whether a clip is held out, seen by the first fit, or shares something with it."""
    if held_out:
        return ROOM_HELD_OUT if room >= 0 and room % HOLDOUT == 0 else MIXED
    return SEEN if room < 0 or room % HOLDOUT else MIXED


def _lines(
    fingerprinter: SegmentFingerprinter, clip: Clip, reference: Fingerprint
) -> Iterator[tuple[Line, Window]]:
    """Yield (line, window) of the clip's prefixes.

    Times are those of segments' starts, as :func:`spolia.alignment.refine` returns them.
    """
    for length in LENGTHS:
        audio = clip.audio.slice(0.0, length).resample(fingerprinter.sample_rate)
        if audio.duration < length - 0.1:
            continue
        best: tuple[Line, Window] | None = None
        for change in (UNCHANGED, *fingerprinter.query_changes):
            query = fingerprinter.fingerprint_query(audio, change)
            found = _refined(fingerprinter, query, clip, reference)
            if found and (best is None or found[0].evidence > best[0].evidence):
                best = found
            if best and best[0].score >= ALIKE:
                break
        if best:
            yield best


def _refined(
    fingerprinter: SegmentFingerprinter, query: Fingerprint, clip: Clip, reference: Fingerprint
) -> tuple[Line, Window] | None:
    if not len(query) or not len(reference):
        return None
    hop, segment = fingerprinter.hop_seconds, fingerprinter.segment_seconds
    truth = Proposal(0, clip.speed, clip.start + (clip.speed - 1.0) * segment / 2, 1.0)
    grid = reference.times, reference.values
    window = compare(query.times, query.values, *grid, truth, hop=hop, segment=segment)
    line = refine(window, truth, step=spacing(query, hop))
    return None if line is None else (line, window)


def make_clip(recording: Audio, sounds: Sounds, rng: Rng) -> Clip:
    """Draw a place and degrade the sound there: a player's change, then a channel."""
    seconds = max(LENGTHS)
    play, speed = _player(rng)
    latest = max(0.0, recording.duration - seconds * speed - 0.5)
    start = float(rng.uniform(0.0, latest))
    context = min(CONTEXT, start / speed)
    excerpt = recording.slice(start - context * speed, start + (seconds + 0.2) * speed)
    sound, room = _channel(play(excerpt), sounds, rng)
    return Clip(sound.slice(context, context + seconds), start, speed, room)


def _player(rng: Rng) -> tuple[Callable[[Audio], Audio], float]:
    """Return (change, seconds of recording per second of clip)."""
    kind = rng.choice(["none", "speed", "pitch", "tempo"], p=[0.6, 0.15, 0.18, 0.07])
    if kind == "speed":
        speed = 1 + float(rng.uniform(-0.1, 0.1))
        return lambda a: degradation.change_speed(a, speed), speed
    if kind == "pitch":
        semitones = float(rng.uniform(-4.5, 4.5))
        return lambda a: degradation.shift_pitch(a, semitones), 1.0
    if kind == "tempo":
        tempo = 1 + float(rng.uniform(-0.15, 0.15))
        return lambda a: degradation.stretch(a, tempo), tempo
    return lambda a: a, 1.0


def _channel(audio: Audio, sounds: Sounds, rng: Rng) -> tuple[Audio, int]:
    """Return the sound after a room, a phone, noise, a codec or nothing, and the room's number."""
    kind = rng.choice(["room", "phone", "noise", "codec", "none"], p=[0.5, 0.13, 0.13, 0.09, 0.15])
    noise = sounds.noises[int(rng.integers(len(sounds.noises)))]
    if kind == "room" and sounds.rooms:
        number = int(rng.integers(len(sounds.rooms)))
        response = sounds.rooms[number].samples
        if rng.random() < VARIED:
            response = vary(response, rng, sample_rate=SAMPLE_RATE)
        wet = degradation.convolve(audio, response)
        return _noisy(wet, noise, float(rng.uniform(3, 20)), rng), number
    if kind == "phone":
        return degradation.phone(audio, rng, noise=noise, snr_db=float(rng.uniform(8, 18))), -1
    if kind == "noise":
        return _noisy(audio, noise, float(rng.uniform(0, 12)), rng), -1
    if kind == "codec":
        name, bit_rate = CODECS[int(rng.integers(len(CODECS)))]
        return degradation.codec(audio, codec=name, bit_rate=bit_rate), -1
    return audio, -1


def _noisy(audio: Audio, noise: Audio, snr_db: float, rng: Rng) -> Audio:
    return degradation.add_noise(audio, rng, snr_db=snr_db, noise=noise)
