"""Scores: MIDI files as parts that can be transposed, sped up, swung and cut. Arrays in and out.

Events carry their time in beats, so that swing is a warp of the beat and tempo a factor; the
file's tempo map turns beats into seconds at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spolia.errors import MissingDependency, TrainingError

Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

NOTE_OFF, NOTE_ON, CONTROL, BEND = 0x80, 0x90, 0xB0, 0xE0
DRUM_CHANNEL = 9
DEFAULT_TEMPO = 500_000  # microseconds per beat until the file says otherwise (the MIDI standard)
KINDS = {"note_off": NOTE_OFF, "note_on": NOTE_ON, "control_change": CONTROL, "pitchwheel": BEND}


@dataclass(frozen=True)
class Part:
    """What one instrument plays."""

    program: int  # General MIDI, 0–127
    is_drum: bool
    beats: Floats  # when each event happens, ascending [shape=(n,)]
    events: Bytes  # status, and two data bytes [shape=(n, 3)]

    @property
    def notes(self) -> npt.NDArray[np.int64]:
        """The pitches that are struck, 0–127 [shape=(n_notes,)]."""
        return self.events[self.events[:, 0] == NOTE_ON, 1].astype(np.int64)


@dataclass(frozen=True)
class Score:
    """A piece as written: its parts and its tempo."""

    parts: tuple[Part, ...]
    tempo_beats: Floats  # beats at which the tempo changes [shape=(n,)]
    tempo_seconds: Floats  # and the seconds at which they are reached

    @property
    def n_beats(self) -> float:
        """The beat of the last event."""
        return max((float(p.beats[-1]) for p in self.parts if len(p.beats)), default=0.0)

    def seconds(self, beats: Floats) -> Floats:
        """Return when beats are reached, beyond the last tempo change at its tempo."""
        ends = np.append(self.tempo_beats, self.tempo_beats[-1] + 1e6)
        last = self.tempo_beats[-1] - self.tempo_beats[-2]
        pace = (self.tempo_seconds[-1] - self.tempo_seconds[-2]) / last
        times = np.append(self.tempo_seconds, self.tempo_seconds[-1] + 1e6 * pace)
        return np.interp(beats, ends, times)


def read_score(path: Path) -> Score:
    """Read a MIDI file; raises TrainingError where it is damaged or holds no note."""
    try:
        import mido
    except ImportError as error:
        raise MissingDependency("mido", "train") from error
    try:
        file = mido.MidiFile(str(path), clip=True)
        messages = _absolute(mido.merge_tracks(file.tracks))
    except (OSError, EOFError, ValueError, KeyError, IndexError) as error:
        raise TrainingError(f"{path} is not a readable MIDI file: {error}") from error
    resolution = file.ticks_per_beat
    score = Score(_parts(messages, resolution), *_tempo_map(messages, resolution))
    if not score.parts:
        raise TrainingError(f"{path} holds no notes; choose another MIDI file")
    return score


def _absolute(track: Any) -> list[tuple[int, Any]]:
    """Pair a track's messages with their times from the beginning, in ticks."""
    now, messages = 0, []
    for message in track:
        now += message.time
        messages.append((now, message))
    return messages


def _tempo_map(messages: list[tuple[int, Any]], resolution: int) -> tuple[Floats, Floats]:
    beats, seconds, tempo = [0.0], [0.0], DEFAULT_TEMPO
    for ticks, message in messages:
        if message.type == "set_tempo":
            beat = ticks / resolution
            if beat > beats[-1]:
                seconds.append(seconds[-1] + (beat - beats[-1]) * tempo / 1e6)
                beats.append(beat)
            tempo = message.tempo
    beats.append(beats[-1] + 1.0)
    seconds.append(seconds[-1] + tempo / 1e6)
    return np.array(beats), np.array(seconds)


def _parts(messages: list[tuple[int, Any]], resolution: int) -> tuple[Part, ...]:
    programs: dict[int, int] = {}
    events: dict[int, list[tuple[float, int, int, int]]] = {}
    for ticks, message in messages:
        if message.type == "program_change":
            programs.setdefault(message.channel, message.program)
        elif message.type in KINDS:
            row = (ticks / resolution, KINDS[message.type], *_data(message))
            events.setdefault(message.channel, []).append(row)
    parts = []
    for channel, rows in sorted(events.items()):
        table = np.array(rows, np.float64)
        part = Part(
            programs.get(channel, 0),
            channel == DRUM_CHANNEL,
            table[:, 0].copy(),
            table[:, 1:].astype(np.uint8),
        )
        if len(part.notes):
            parts.append(part)
    return tuple(parts)


def _data(message: Any) -> tuple[int, int]:
    """Return the two data bytes as the MIDI standard packs them."""
    if message.type == "control_change":
        return message.control, message.value
    if message.type == "pitchwheel":
        return (message.pitch + 8192) & 0x7F, (message.pitch + 8192) >> 7
    return message.note, message.velocity


def transposed(score: Score, semitones: int) -> Score:
    """Return the score higher by semitones; drums stay, notes out of range move by octaves."""

    def move(part: Part) -> Part:
        if part.is_drum or semitones == 0:
            return part
        events = part.events.copy()
        is_note = np.isin(events[:, 0], (NOTE_ON, NOTE_OFF))
        notes = events[is_note, 1].astype(np.int64) + semitones
        notes = np.where(notes > 127, notes - 12, np.where(notes < 0, notes + 12, notes))
        events[is_note, 1] = notes
        return replace(part, events=events)

    return replace(score, parts=tuple(move(part) for part in score.parts))


def swung(score: Score, ratio: float) -> Score:
    """Return the score with the middle of each beat moved to ``ratio`` of it.

    0.5 is straight, 2/3 a triplet swing.
    """
    if not 0.3 <= ratio <= 0.75:
        raise TrainingError(f"a swing ratio of {ratio} is out of range; choose from 0.3 to 0.75")

    def warp(beats: Floats) -> Floats:
        whole, share = np.floor(beats), beats - np.floor(beats)
        late = np.where(share < 0.5, share * 2 * ratio, ratio + (share - 0.5) * 2 * (1 - ratio))
        return np.asarray(whole + late)

    parts = tuple(replace(part, beats=warp(part.beats)) for part in score.parts)
    return replace(score, parts=parts)


def excerpt(score: Score, first: float, last: float) -> Score:
    """Return what is struck from beat ``first`` to ``last``, with the controls set before.

    Parts that rest there stay, without notes.
    """

    def cut(part: Part) -> Part:
        is_note = np.isin(part.events[:, 0], (NOTE_ON, NOTE_OFF))
        chosen = (part.beats < last) & (~is_note | (part.beats >= first))
        return replace(
            part,
            beats=np.maximum(part.beats[chosen] - first, 0.0),
            events=part.events[chosen],
        )

    parts = tuple(cut(part) for part in score.parts)
    start = float(score.seconds(np.array([first]))[0])
    inside = score.tempo_beats > first
    beats = np.concatenate([[0.0], score.tempo_beats[inside] - first])
    seconds = np.concatenate([[0.0], score.tempo_seconds[inside] - start])
    if len(beats) < 2:  # past the last tempo change
        beats = np.array([0.0, 1.0])
        seconds = score.seconds(np.array([first, first + 1.0])) - start
    return Score(parts, beats, seconds)
