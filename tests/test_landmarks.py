"""Laws of landmark fingerprints, then retrieval among synthesised pieces."""

import numpy as np
import pytest

from spolia.audio import Audio
from spolia.errors import ParameterError
from spolia.fingerprints.landmarks import LandmarkFingerprinter
from spolia.landmarks import (
    HOP,
    MARGIN_AFTER,
    MARGIN_BEFORE,
    MAX_DF,
    MAX_DT,
    MIN_DT,
    SAMPLE_RATE,
    Density,
    find_landmarks,
    find_peaks,
    measure_levels,
    pack,
    running_maximum,
    unpack,
)

SECOND = SAMPLE_RATE


def sketch(rng, seconds):
    """Plucked notes and hits at random times: enough like music to have peaks."""
    samples = 0.003 * rng.standard_normal(round(seconds * SECOND))
    time = np.arange(SECOND // 2) / SECOND
    for start in rng.integers(0, len(samples) - len(time), round(8 * seconds)):
        pitch = 110 * 2 ** (rng.integers(0, 36) / 12)
        partials = np.arange(1, min(9, int(3900 // pitch) + 1))
        shape = rng.uniform(0.2, 1, len(partials)) / partials
        note = (shape[:, None] * np.sin(2 * np.pi * pitch * partials[:, None] * time)).sum(0)
        samples[start : start + len(time)] += note * np.exp(-time * rng.uniform(4, 20))
    return Audio((0.9 * samples / np.abs(samples).max()).astype(np.float32), SECOND)


@pytest.fixture(scope="module")
def fingerprinter():
    return LandmarkFingerprinter()


@pytest.fixture(scope="module")
def music():
    return sketch(np.random.default_rng(7), 20)


def entries(fingerprint):
    milliseconds = np.round(fingerprint.times * 1000).astype(int)
    return set(zip(milliseconds.tolist(), fingerprint.values.tolist(), strict=True))


def test_pack_and_unpack_round_trip():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 256, 1000)
    df = rng.integers(-MAX_DF, MAX_DF + 1, 1000)
    dt = rng.integers(MIN_DT, MAX_DT + 1, 1000)
    hashes = pack(first, df, dt)
    assert hashes.dtype == np.uint32
    for back, given in zip(unpack(hashes), (first, df, dt), strict=True):
        np.testing.assert_array_equal(back, given)


def test_running_maximum_equals_the_plain_one():
    values = np.random.default_rng(1).standard_normal((23, 9)).astype(np.float32)
    for radius in (1, 2, 3, 6, 30):
        plain = [values[max(0, i - radius) : i + radius + 1].max(0) for i in range(len(values))]
        np.testing.assert_array_equal(running_maximum(values, radius, axis=0), plain)
    np.testing.assert_array_equal(
        running_maximum(values, 2, axis=1), running_maximum(values.T.copy(), 2, axis=0).T
    )


def test_no_second_has_more_peaks_than_allowed(music):
    frames, _ = find_peaks(measure_levels(music.samples), n_peaks=25)
    in_half_a_second = np.histogram(frames, np.arange(0, frames.max() + 32, 31))[0]
    assert in_half_a_second.max() <= 25
    assert len(frames) / music.duration > 10


def test_pairs_stay_in_their_zone(music):
    _, hashes = find_landmarks(music.samples, Density(n_peaks=25, n_targets=5))
    _, df, dt = unpack(hashes)
    assert dt.min() >= MIN_DT
    assert dt.max() <= MAX_DT
    assert np.abs(df).max() <= MAX_DF


def test_times_are_ascending_whole_milliseconds(fingerprinter, music):
    for fingerprint in (fingerprinter.fingerprint(music), fingerprinter.fingerprint_query(music)):
        assert fingerprint.values.dtype == np.uint32
        assert (np.diff(fingerprint.times) >= 0).all()
        milliseconds = fingerprint.times * 1000
        np.testing.assert_allclose(milliseconds, np.round(milliseconds), atol=1e-6)


def test_an_excerpt_has_the_hashes_of_its_recording(fingerprinter, music):
    whole = fingerprinter.fingerprint(music)
    first, last = 300, 800  # frames
    excerpt = fingerprinter.fingerprint(
        Audio(music.samples[first * HOP : last * HOP], music.sample_rate)
    )
    start = (first + MARGIN_BEFORE) * HOP / SECOND
    end = (last - MARGIN_AFTER - 4) * HOP / SECOND
    inside = {e for e in entries(whole) if start * 1000 <= e[0] < end * 1000}
    moved = {(t + first * 16, h) for t, h in entries(excerpt)}
    assert len(inside) > 100
    assert inside == {e for e in moved if start * 1000 <= e[0] < end * 1000}


def test_silence_in_front_shifts_the_times(fingerprinter, music):
    k = 50
    moved = Audio(np.pad(music.samples, (k * HOP, 0)), SECOND)
    expected = {(t + 16 * k, h) for t, h in entries(fingerprinter.fingerprint(music))}
    late = {e for e in expected if e[0] > 16 * (k + MARGIN_BEFORE)}
    assert late <= entries(fingerprinter.fingerprint(moved))


@pytest.mark.parametrize(("gain", "share"), [(0.5, 0.99), (0.05, 0.9)])
def test_gain_changes_only_what_falls_below_the_floor(fingerprinter, music, gain, share):
    plain = entries(fingerprinter.fingerprint(music))
    soft = entries(fingerprinter.fingerprint(Audio(music.samples * np.float32(gain), SECOND)))
    assert len(plain & soft) > share * len(plain)


def test_deterministic(fingerprinter, music):
    first, second = fingerprinter.fingerprint(music), fingerprinter.fingerprint(music)
    np.testing.assert_array_equal(first.values, second.values)
    np.testing.assert_array_equal(first.times, second.times)


@pytest.mark.parametrize("n_samples", [0, 1, 511, 512, 5 * SECOND])
def test_silence_and_scraps_give_nothing(fingerprinter, n_samples):
    noise = np.random.default_rng(0).uniform(-1, 1, n_samples).astype(np.float32)
    for samples in (np.zeros(n_samples, np.float32), 1e-4 * noise):
        audio = Audio(samples.astype(np.float32), SECOND)
        for fingerprint in (
            fingerprinter.fingerprint(audio),
            fingerprinter.fingerprint_query(audio),
        ):
            assert len(fingerprint) == 0
            assert fingerprint.duration == n_samples / SECOND


def test_a_steady_tone_does_not_flood_the_index(fingerprinter):
    time = np.arange(10 * SECOND) / SECOND
    tone = Audio((0.5 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32), SECOND)
    assert len(fingerprinter.fingerprint(tone)) < 10 * 25 * 5


def test_another_rate_is_refused(fingerprinter):
    with pytest.raises(ParameterError, match="16000 Hz"):
        fingerprinter.fingerprint(Audio(np.zeros(100, np.float32), 16000))


def test_blocks_give_the_fingerprint_of_the_whole(fingerprinter):
    long = sketch(np.random.default_rng(3), 150)
    frames, hashes = find_landmarks(long.samples)
    whole = fingerprinter.fingerprint(long)
    np.testing.assert_array_equal(np.round(whole.times * 1000), frames * 16)
    np.testing.assert_array_equal(whole.values, hashes)
    blocks = (long.slice(s, s + 7.3) for s in np.arange(0, 150, 7.3))
    streamed = fingerprinter.fingerprint_blocks(blocks)
    np.testing.assert_array_equal(streamed.values, whole.values)
    np.testing.assert_array_equal(streamed.times, whole.times)
    assert streamed.duration == whole.duration == 150.0


def vote(references, query):
    """Return the piece and the offset with most equal hashes in a bin of 32 ms."""
    votes = {}
    for piece, postings in enumerate(references):
        for time, value in zip(query.times, query.values.tolist(), strict=True):
            for reference_time in postings.get(value, ()):
                votes.setdefault((piece, round((reference_time - time) / 0.032)), []).append(
                    reference_time - time
                )
    best = max(votes, key=lambda k: len(votes[k]))
    return best[0], float(np.median(votes[best]))


def index(fingerprint):
    postings = {}
    for time, value in zip(fingerprint.times.tolist(), fingerprint.values.tolist(), strict=True):
        postings.setdefault(value, []).append(time)
    return postings


@pytest.mark.parametrize(("snr_db", "wanted"), [(None, 24), (10, 22)])
def test_five_seconds_find_their_piece(fingerprinter, snr_db, wanted):
    rng = np.random.default_rng(11)
    pieces = [sketch(rng, 20) for _ in range(24)]
    references = [index(fingerprinter.fingerprint(piece)) for piece in pieces]
    n_found = 0
    for number, piece in enumerate(pieces):
        start = rng.uniform(0, 15)
        clip = piece.slice(start, start + 5).samples
        if snr_db is not None:
            level = np.sqrt(np.mean(clip**2)) * 10 ** (-snr_db / 20)
            clip = clip + (level * rng.standard_normal(len(clip))).astype(np.float32)
        found, offset = vote(references, fingerprinter.fingerprint_query(Audio(clip, SECOND)))
        n_found += found == number and abs(offset - start) < 0.02
    assert n_found >= wanted
