"""Nominees are judged by the nodes of their windows: ranked anew, and rejected."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from spolia.audio import Audio
from spolia.encoding import write_wav
from spolia.errors import ModelError
from spolia.fingerprints.base import UNCHANGED, Fingerprint
from spolia.fingerprints.samples import SampleFingerprinter
from spolia.library import Library
from spolia.sample_alignment import SAMPLE_RATE, Played, levels
from spolia.sample_judging import NEUTRAL, Claim, Judge
from spolia.sample_opening import open_sample_judge
from spolia.sample_patches import Pair
from spolia.sample_search import REJECT
from spolia.sample_tracing import Occurrence, Trace
from spolia.samples import Nominee
from test_samples import mixed, path, piece

RATE = SAMPLE_RATE
HOP, WINDOW = 0.512, 4.096  # seconds
LATER = 8 * HOP  # the track plays piece 1 from there
SAMPLED, MISTAKEN = 1, 3
PLAYED = (4.0, 14.0)  # seconds of the track


class Ear:
    """Stands in for an encoder: a window's only node is its spectrogram, of unit norm."""

    card = SimpleNamespace(sample_rate=RATE, segment=round(WINDOW * RATE))

    def __init__(self):
        self.windows = []

    def nodes(self, waveforms):
        assert waveforms.shape[1] == self.card.segment
        self.windows += [w.tobytes() for w in waveforms]
        bands = [levels(w) for w in waveforms]
        rows = np.stack([(b - b.mean(0)).ravel() for b in bands])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True))[:, None, None]


class Scale:
    """Stands in for a classifier: the cosine of nodes, stretched to logits from -5 up."""

    card = SimpleNamespace(id="scale-1")
    n_calls = 0

    def compare(self, queries, candidates):
        self.n_calls += 1
        return (20.0 * (queries * candidates).sum((1, 2)) - 5.0).astype(np.float32)


class Mistaken:
    """Stands in for the fingerprinter: takes a piece that is not there for more alike."""

    method, model_id, sample_rate = "samples", "mistaken-1", RATE
    hop_seconds, segment_seconds = HOP, WINDOW
    card = SimpleNamespace(calibration={})

    def fingerprint_blocks(self, blocks):
        audio = Audio(np.concatenate([block.samples for block in blocks]), RATE)
        beginnings = np.stack([piece(n, 20.0).samples[:2000] for n in range(4)])
        number = np.abs(beginnings - audio.samples[:2000]).mean(1).argmin()
        return self.made(audio, path(int(number)))

    def fingerprint_query(self, audio, change=UNCHANGED):
        def at(times):
            vectors = path(99)(times)
            inside = (times > PLAYED[0]) & (times + WINDOW < PLAYED[1])
            both = 0.5 * path(SAMPLED)(times + LATER) + 0.8 * path(MISTAKEN)(times)
            vectors[inside] = both[inside]
            return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

        return self.made(audio, at)

    def made(self, audio, at):
        times = np.arange(0.0, audio.duration - WINDOW, HOP)
        return Fingerprint(self.method, self.model_id, times, at(times), audio.duration)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crate")
    for number in range(4):
        write_wav(folder / f"{number}.wav", piece(number, 20.0))
    with Library(tmp_path_factory.mktemp("library"), fingerprinters=[Mistaken()]) as opened:
        opened.add([folder])
        yield opened


@pytest.fixture(scope="module")
def track():
    sample = piece(SAMPLED, 20.0).slice(PLAYED[0] + LATER, PLAYED[1] + LATER)
    return mixed(sample, piece(9, 16.0), [PLAYED[0]], -3.0)


@pytest.fixture
def judge():
    return Judge(Ear(), Scale(), threads=1)


def number_of(library, finder, nominee):
    return int(library.get(finder.index.recording_ids[nominee.recording]).name.split(".")[0])


def logits_of(library, finder):
    """Return the best logit of each piece that was not rejected."""
    found = {}
    for nominee in finder.nominees:
        number = number_of(library, finder, nominee)
        found[number] = max(nominee.logit, found.get(number, -np.inf))
    return found


@pytest.fixture(scope="module")
def judged(library, track):
    """Return a finder that has answered, its answer, and what it reported."""
    seen = []
    finder = library.sample_finder(track, lambda *done: seen.append(done))
    finder.judge = Judge(Ear(), Scale(), threads=1)
    return finder, finder.evidence(), seen


@pytest.fixture
def nothing_plays(monkeypatch):
    """Leave out the comparison of sound, which takes long."""
    monkeypatch.setattr("spolia.sample_search.rough", lambda *given, **options: None)


def test_the_wrong_one_is_rejected_however_similar_and_the_right_one_is_first(library, judged):
    finder, (first, *_), seen = judged
    assert library.get(first.recording_id).path.endswith(f"{SAMPLED}.wav")
    logits = logits_of(library, finder)
    assert MISTAKEN not in logits
    assert 0 < first.logit <= logits[SAMPLED]
    assert all(logit >= REJECT for logit in logits.values())
    assert first.lead < 0  # over what was rejected too
    assert seen[-1] == (len(finder.nominees),) * 2  # nothing else was compared


def test_without_a_judge_the_wrong_one_is_nominated_first(library, track, nothing_plays):
    finder = library.sample_finder(track)
    assert finder.evidence() == []
    likest = max(finder.nominees, key=lambda nominee: nominee.score)
    assert number_of(library, finder, likest) == MISTAKEN
    assert {nominee.logit for nominee in finder.nominees} == {0.0}


def test_every_window_is_encoded_once_and_pairs_are_compared_at_once(judged):
    judge = judged[0].judge
    assert len(judge.encoder.windows) == len(set(judge.encoder.windows)) > 10
    assert judge.classifier.n_calls == 1


def test_a_recording_whose_file_is_gone_is_not_rejected(
    library, track, judge, nothing_plays, monkeypatch
):
    gone = next(r.id for r in library if r.path.endswith(f"{MISTAKEN}.wav"))
    monkeypatch.setattr("spolia.sample_sound.is_unchanged", lambda asked: asked.id != gone)
    finder = library.sample_finder(track)
    finder.judge = judge
    finder.evidence()
    assert logits_of(library, finder)[MISTAKEN] == NEUTRAL
    assert gone in dict(finder.others([]))


def test_the_logit_is_that_of_the_best_pair(judge):
    sound = piece(1, 20.0)
    same, other, last = Pair(6.0, 6.0), Pair(6.0, 14.0), Pair(19.0, 19.0)
    asked = [(same,), (other,), (other, same), (last,)]
    logits = judge.logits(sound, [Claim(1, pairs, sound) for pairs in asked])
    assert logits[0] == logits[2] == pytest.approx(15.0, abs=1e-4)
    assert logits[1] < 0
    assert logits[3] == pytest.approx(15.0, abs=1e-4)  # followed by silence


def test_what_cannot_be_heard_is_neutral(judge):
    sound, silence = piece(1, 10.0), Audio(np.zeros(10 * RATE, np.float32), RATE)
    pairs = (Pair(5.0, 5.0),)
    gone, silent = Claim(1, pairs, None), Claim(1, pairs, silence)
    assert (
        judge.logits(sound, [gone, silent, Claim(1, (Pair(5.0, 90.0),), sound)]).tolist()
        == [0.0] * 3
    )
    assert judge.logits(silence, [Claim(1, pairs, sound)]).tolist() == [0.0]
    assert judge.logits(sound, []).shape == (0,)
    assert judge.classifier.n_calls == 0
    assert judge.logits(sound, [gone, Claim(1, pairs, sound)])[1] > 0


def test_sound_is_heard_at_the_rate_of_the_encoder(judge):
    sound = piece(1, 12.0)
    faster = sound.slice(3.0, 9.0).resample(22050)
    (found,) = judge.logits(sound, [Claim(1, (Pair(6.0, 6.0),), faster, 3.0)])
    assert found > 10


def test_a_model_without_nodes_is_refused_in_a_sentence():
    alone = SampleFingerprinter(SimpleNamespace(has_nodes=False, path="net.onnx"))
    with pytest.raises(ModelError, match="^net.onnx gives vectors alone, so judge.onnx cannot"):
        open_sample_judge("judge.onnx", alone)
    assert open_sample_judge(None, alone) is None
    assert open_sample_judge("judge.onnx", Mistaken()) is None


def test_nothing_is_traced_outside_a_recording(library, track, monkeypatch):
    spans = [(-4.0, -1.0), (-1.0, 2.0), (3.0, 6.0), (20.5, 23.0)]
    occurrences = tuple(Occurrence(k, k + 1.0, *span, 0.5) for k, span in enumerate(spans))
    monkeypatch.setattr(
        "spolia.sample_search.exact",
        lambda heard, known, near, **_: (near, Trace(occurrences, 9.0, 9.0)),
    )
    finder = library.sample_finder(track)
    played = Played(4.096, 1.0, 0.0, 8.0, 0.5, 9.0, 9.0)
    _, found = finder._traced(Nominee(0, (Pair(8.0, 12.0),), 0.9), played)
    kept = [(o.reference_start, o.reference_end) for o in found.occurrences]
    assert kept == [(0.0, 2.0), (3.0, 6.0)]
