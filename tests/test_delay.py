"""A delay is found where vectors give it away, and a line is left alone where they do not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from corpora import make_corpus
from spolia.alignment import Proposal, compare, refine
from spolia.delay import MOST, Delay, fit, n_traces, traces
from spolia.errors import ParameterError
from spolia.library import Library

DIM, HOP, SEGMENT = 32, 0.5, 1.0
ROOM = np.eye(DIM)[0]


def recording(rng, seconds=40.0):
    """Return a smooth path of unit vectors as a function of time."""
    knots = np.arange(0, seconds + 2, 0.6)
    values = rng.normal(size=(len(knots), DIM))

    def at(times):
        rows = np.stack([np.interp(times, knots, column) for column in values.T], axis=1)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return at


def match(rng, delay):
    """Return (window, line, true offset) of a query whose vectors show a room."""
    at = recording(rng)
    reference = np.arange(0, 30, HOP)
    start = rng.uniform(5, 15)
    times = np.arange(0, 6, 0.125)
    vectors = at(start + times - delay) + 2.5 * delay * ROOM
    vectors += 0.03 * rng.normal(size=vectors.shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    truth = Proposal(0, 1.0, start, 1.0)
    grid = reference, at(reference).astype("f")
    window = compare(times, vectors.astype("f"), *grid, truth, hop=HOP, segment=SEGMENT)
    line = refine(window, truth, step=0.125)
    return window, line, start


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    rows, delays = [], []
    for _ in range(150):
        window, line, start = match(rng, rng.uniform(0, 0.2))
        rows.append(traces(window, line))
        delays.append(start - line.offset)
    return Delay(tuple(fit(np.array(rows), np.array(delays))))


def test_the_delay_of_other_recordings_is_found(fitted):
    rng = np.random.default_rng(1)
    before, after = [], []
    for delay in rng.uniform(0, 0.2, 40):
        window, line, start = match(rng, delay)
        before.append(abs(line.offset - start))
        after.append(abs(fitted.apply(window, line).offset - start))
    assert np.mean(before) > 0.08
    assert np.mean(after) < 0.03


def test_a_delay_is_bounded_and_leaves_the_rest_alone():
    window, line, _ = match(np.random.default_rng(2), 0.1)
    corrected = Delay(tuple(1e3 * np.ones(n_traces(DIM)))).apply(window, line)
    assert abs(corrected.offset - line.offset) == pytest.approx(MOST)
    assert replace(corrected, offset=line.offset) == line


def test_a_line_at_the_recordings_end_is_finite():
    window, line, _ = match(np.random.default_rng(3), 0.0)
    for seconds in (25.0, -25.0):
        found = traces(window, replace(line, offset=line.offset + seconds))
        assert found.shape == (n_traces(DIM),)
        assert np.isfinite(found).all()


def test_round_trip_and_refusals(fitted):
    assert Delay.from_dict(json.loads(json.dumps(fitted.to_dict()))) == fitted
    for values in ({}, {"weights": None}, {"weights": ["x"]}):
        with pytest.raises(ParameterError, match="fit the model's again"):
            Delay.from_dict(values)


def test_a_delay_is_fitted_into_a_model_file(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("python_stretch")
    from spolia.encoders import Encoder, open_encoder
    from spolia.training.delay import fit_delay
    from spolia.training.export import update_card

    corpus = make_corpus(tmp_path / "corpus", n_tracks=10, n_val=2)
    model = tmp_path / "model.onnx"
    model.write_bytes(open_encoder().path.read_bytes())
    seen = []
    options = {"n_recordings": 8, "seed": 3}
    first = fit_delay(model, corpus, **options, report=lambda *at: seen.append(at))
    assert seen[-1] == (8, 8)
    assert fit_delay(model, corpus, **options, threads=1) == first
    assert first.n_clips > 50
    before = Encoder(model).card
    update_card(model, delay=first.to_dict())
    card = Encoder(model).card
    assert card.id == before.id
    assert Delay.from_dict(card.delay).weights == first.weights
    with Library(tmp_path / "lib", model=str(model)) as library:
        library.add([corpus / "tracks"])
        answer = library.identify(corpus / "tracks" / "t3.wav")
    assert answer.matches[0].recording.path.endswith("t3.wav")
