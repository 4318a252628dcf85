"""Samples: the encoder, its training on mixtures, how a sample was played, and where."""

from __future__ import annotations

import numpy as np
import pytest

from spolia.audio import Audio
from spolia.degradation import change_speed, shift_pitch, stretch
from spolia.sample_alignment import FRAME, SAMPLE_RATE, Pair, find, levels
from spolia.sample_tracing import trace

RATE = SAMPLE_RATE


def piece(seed: int, seconds: float = 30.0) -> Audio:
    """Return chords and drums that never repeat."""
    rng = np.random.default_rng(seed)
    n = round(seconds * RATE)
    sound = np.zeros(n + RATE)
    place = 0
    while place < n:
        length = int(rng.choice([0.2, 0.3, 0.45]) * RATE)
        time = np.arange(length) / RATE
        for _ in range(3):
            pitch = 110 * 2 ** (rng.integers(0, 36) / 12)
            tone = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 6))
            sound[place : place + length] += 0.1 * tone * np.exp(-4 * time)
        hit = rng.normal(size=length // 3) * np.exp(-60 * time[: length // 3])
        sound[place : place + length // 3] += 0.3 * rng.random() * hit
        place += length
    return Audio(sound[:n].astype(np.float32), RATE)


def mixed(sample: Audio, bed: Audio, starts: list[float], overlay_db: float) -> Audio:
    """Return a bed with a sample at some places, the bed so much louder."""
    sound = bed.samples.copy()
    power = np.sqrt(np.square(sample.samples).mean() / np.square(sound).mean())
    sound *= power * 10 ** (overlay_db / 20)
    for start in starts:
        first = round(start * RATE)
        part = sample.samples[: len(sound) - first]
        sound[first : first + len(part)] += part
    return Audio(sound.astype(np.float32), RATE)


CHANGES = {
    "untouched": (lambda a: a, 1.0, 0.0),
    "varispeed": (lambda a: change_speed(a, 1.12), 1.12, 12 * np.log2(1.12)),
    "stretched": (lambda a: stretch(a, 0.88), 0.88, 0.0),
    "pitched": (lambda a: shift_pitch(a, -3.0), 1.0, -3.0),
}


@pytest.fixture(scope="module")
def recording():
    return piece(1)


@pytest.fixture(scope="module")
def known(recording):
    return levels(recording.samples)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("overlay_db", [-6.0, 3.0])
def test_pitch_tempo_and_every_occurrence_of_a_loop_are_found(recording, known, name, overlay_db):
    change, tempo, semitones = CHANGES[name]
    sample = change(recording.slice(11.0, 14.0))
    starts = [4.0, 4.0 + sample.duration, 4.0 + 2 * sample.duration, 24.0]
    track = mixed(sample, piece(2, 36.0), starts, overlay_db)
    heard = levels(track.samples)
    middle = sample.duration / 2
    pairs = [Pair(s + middle + 0.3, 12.5 - 0.4) for s in starts]
    played = find(heard, known, pairs, seconds=4.0, reach=1.0)
    assert played.tempo == pytest.approx(tempo, rel=0.01)
    assert played.semitones == pytest.approx(semitones, abs=0.25)
    assert min(abs(played.tempo * s + played.offset - 11.0) for s in starts) < 0.05
    found = trace(heard, known, played, seconds=4.0)
    assert len(found.occurrences) == 4
    for occurrence, start in zip(found.occurrences, starts, strict=True):
        assert occurrence.query_start == pytest.approx(start, abs=0.08)
        assert occurrence.query_end == pytest.approx(start + sample.duration, abs=0.15)
        assert occurrence.reference_start == pytest.approx(11.0, abs=0.1)
        assert occurrence.reference_end == pytest.approx(14.0, abs=0.2)
    assert found.pooled > found.z > 4.5


def test_what_is_not_there_stands_out_less(known, recording):
    track = mixed(recording.slice(11.0, 14.0), piece(2, 36.0), [4.0, 20.0], 0.0)
    heard, other = levels(track.samples), levels(piece(3).samples)
    pairs = [Pair(5.5, 12.5), Pair(21.5, 12.5)]
    right, wrong = (find(heard, r, pairs, seconds=4.0, reach=1.0) for r in (known, other))
    assert right.z > wrong.z + 2
    assert right.correlation > wrong.correlation + 0.1
    assert right.patch_z > wrong.patch_z + 2


def test_silence_is_no_sample_and_levels_have_a_row_every_frame(known):
    silent = levels(np.zeros(5 * RATE, np.float32))
    assert silent.shape == (1 + 5 * RATE // 256, known.shape[1])
    assert not silent.any()
    assert find(silent, known, [Pair(2.0, 12.5)], seconds=4.0, reach=1.0) is None
    assert find(known, silent, [Pair(12.5, 2.0)], seconds=4.0, reach=1.0) is None
    assert FRAME * (len(known) - 1) == pytest.approx(30.0, abs=FRAME)
