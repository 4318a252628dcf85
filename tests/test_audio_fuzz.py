"""Damaged files of every format: finite sound of a sane length, or an AudioError. Nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from spolia.audio import Audio
from spolia.errors import AudioError
from test_audio import FORMATS, coded, noise, video

SECONDS = 6.0
N_TRIALS = 24


def flip_bytes(data, rng):
    for place in rng.integers(0, len(data), size=int(rng.integers(1, 40))):
        data[place] = int(rng.integers(256))
    return data


def overwrite(data, rng):
    start = int(rng.integers(0, max(1, len(data) - 200)))
    data[start : start + 200] = rng.bytes(200)
    return data


def truncate(data, rng):
    return data[: int(rng.integers(0, len(data)))]


def garbage_first(data, rng):
    return bytearray(rng.bytes(int(rng.integers(1, 2000)))) + data


DAMAGES = (flip_bytes, overwrite, truncate, garbage_first)


@pytest.fixture(scope="module")
def originals():
    audio = noise(SECONDS)
    files = {name: coded(audio, name) for name in FORMATS}
    files["mkv"] = video(audio, "matroska")
    return files


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__)
@pytest.mark.parametrize("name", [*FORMATS, "mkv"])
def test_damaged_files(originals, name, damage):
    for trial in range(N_TRIALS // len(DAMAGES)):
        rng = np.random.default_rng([trial, DAMAGES.index(damage)])
        data = bytes(damage(bytearray(originals[name]), rng))
        try:
            audio = Audio.load(data, sample_rate=8000)
        except AudioError as error:
            assert "\n" not in str(error)
            continue
        assert np.isfinite(audio.samples).all()
        assert np.isfinite(audio.lost)
        if name != "wav":  # a wav's damaged header may truly say another rate
            assert audio.duration <= 2 * SECONDS + 1.0
