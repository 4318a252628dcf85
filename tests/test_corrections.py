"""Corrections find a delay and a pitch that vectors give away, and nothing where there is none."""

from __future__ import annotations

import json

import numpy as np
import pytest

from corpora import make_corpus
from spolia.alignment import Proposal, compare, refine
from spolia.corrections import MOST_DELAY, Corrections, fit, n_traces, traces
from spolia.errors import ParameterError
from spolia.library import Library

DIM, HOP, SEGMENT = 32, 0.5, 1.0
ROOM = np.eye(DIM)[0]
PITCH = np.eye(DIM)[1]


def recording(rng, seconds=40.0):
    """Return a smooth path of unit vectors as a function of time."""
    knots = np.arange(0, seconds + 2, 0.6)
    values = rng.normal(size=(len(knots), DIM))

    def at(times):
        rows = np.stack([np.interp(times, knots, column) for column in values.T], axis=1)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return at


def match(rng, delay, semitones):
    """Return (window, line) of a query whose vectors show a room and a pitch."""
    at = recording(rng)
    reference = np.arange(0, 30, HOP)
    start = rng.uniform(5, 15)
    times = np.arange(0, 6, 0.125)
    vectors = at(start + times - delay) + 2.5 * delay * ROOM + 0.25 * semitones * PITCH
    vectors += 0.03 * rng.normal(size=vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    truth = Proposal(0, 1.0, start, 1.0)
    window = compare(
        times, vectors.astype("f"), reference, at(reference).astype("f"), truth, hop=HOP
    )
    line = refine(window, truth, segment=SEGMENT, step=0.125)
    return window, line, start


@pytest.fixture(scope="module")
def corrections():
    rng = np.random.default_rng(0)
    rows, delays, pitches = [], [], []
    for _ in range(150):
        delay, semitones = rng.uniform(0, 0.2), rng.uniform(-1, 1)
        window, line, start = match(rng, delay, semitones)
        rows.append(traces(window, line))
        delays.append(start - line.offset)
        pitches.append(semitones)
    late, higher = fit(np.array(rows), np.array(delays), np.array(pitches))
    return Corrections(tuple(late), tuple(higher))


def test_delay_and_pitch_of_other_recordings_are_found(corrections):
    rng = np.random.default_rng(1)
    before, after, pitch = [], [], []
    for delay, semitones in zip(rng.uniform(0, 0.2, 40), rng.uniform(-1, 1, 40), strict=True):
        window, line, start = match(rng, delay, semitones)
        corrected = corrections.apply(window, line)
        before.append(abs(line.offset - start))
        after.append(abs(corrected.offset - start))
        pitch.append(abs(corrected.semitones - semitones))
    assert np.mean(before) > 0.08
    assert np.mean(after) < 0.03
    assert np.mean(pitch) < 0.3


def test_a_correction_is_bounded_and_leaves_the_rest_alone(corrections):
    window, line, _ = match(np.random.default_rng(2), 0.1, 0.5)
    wild = Corrections(tuple(1e3 * np.ones(n_traces(DIM))), corrections.semitones)
    corrected = wild.apply(window, line)
    assert abs(corrected.offset - line.offset) == pytest.approx(MOST_DELAY)
    assert corrected.evidence == line.evidence
    assert (corrected.query_start, corrected.query_end) == (line.query_start, line.query_end)
    assert len(traces(window, line)) == n_traces(DIM)


def test_a_line_at_the_recordings_end_is_finite():
    window, line, _ = match(np.random.default_rng(3), 0.0, 0.0)
    assert np.isfinite(traces(window, line.moved(25.0, 0.0))).all()
    assert np.isfinite(traces(window, line.moved(-25.0, 0.0))).all()


def test_round_trip_and_refusals(corrections):
    again = Corrections.from_dict(json.loads(json.dumps(corrections.to_dict())))
    assert again == corrections
    with pytest.raises(ParameterError, match="fit the model's again"):
        Corrections.from_dict({"delay": [0.0]})
    with pytest.raises(ParameterError, match="1 weights for the delay but 2"):
        Corrections.from_dict({"delay": [0.0], "semitones": [0.0, 1.0]})


def test_corrections_are_fitted_into_a_model_file(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("python_stretch")
    from spolia.encoders import Encoder, open_model
    from spolia.training.corrections import fit_corrections
    from spolia.training.export import update_card

    corpus = make_corpus(tmp_path / "corpus", n_tracks=10, n_val=2)
    model = tmp_path / "model.onnx"
    model.write_bytes(open_model().path.read_bytes())
    seen = []
    options = {"n_recordings": 8, "seed": 3}
    first = fit_corrections(model, corpus, **options, report=lambda *at: seen.append(at))
    assert seen[-1] == (8, 8)
    assert fit_corrections(model, corpus, **options, threads=1) == first
    assert first.n_clips > 60
    assert set(first.deviations) == {"delay", "semitones"}
    before = Encoder(model).card
    update_card(model, corrections=first.to_dict())
    card = Encoder(model).card
    assert card.id == before.id
    assert Corrections.from_dict(card.corrections).delay == first.delay
    with Library(tmp_path / "lib", model=str(model)) as library:
        library.add([corpus / "tracks"])
        answer = library.identify(corpus / "tracks" / "t3.wav")
    assert answer.matches[0].recording.path.endswith("t3.wav")
