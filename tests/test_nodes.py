"""Short nodes: fitted, stored beside vectors, and compared for all that search nominates."""

from __future__ import annotations

import dataclasses
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("onnx", reason="needs the extra train")

from typer.testing import CliRunner

from fakes import tune
from spolia.audio import Audio
from spolia.cli import app
from spolia.encoders import open_encoder
from spolia.encoding import write_wav
from spolia.errors import ModelError, ParameterError, TrainingError
from spolia.fingerprints.base import Change
from spolia.fingerprints.nodes import NodeFingerprinter, nodes_at
from spolia.fingerprints.samples import SampleFingerprinter
from spolia.library import Library
from spolia.networks.node_matching import NodeMatching, NodeMatchingConfig, compression
from spolia.sample_nodes import NodeJudge
from spolia.sample_patches import Pair
from spolia.samples import Nominee
from spolia.training.classifying import (
    ClassifierOptimiser,
    ClassifierRecipe,
    ClassifierRun,
    build_classifier,
    train_classifier,
)
from spolia.training.export import export_checkpoint, export_classifier
from spolia.training.fingerprint import train
from spolia.training.initial import load_checkpoint, network_of
from spolia.training.pairs import PairConfig
from spolia.training.recipe import DataConfig, OptimiserConfig, Recipe, SamplingConfig
from spolia.training.running import RunOptions

pytestmark = pytest.mark.filterwarnings("ignore")

RATE, DIM = 16000, 6
ENCODER = Recipe(
    "sample-tiny",
    architecture="sample",
    model={"channels": [4, 4, 8, 12], "n_blocks": [0, 0, 0, 0], "hidden": 12, "dim": 8},
    data=DataConfig(n_rows=8, n_segments=1, offset=0.2, context=0.0, simulated_rooms=1),
    optimiser=OptimiserConfig(steps=2, warmup=1, learning_rate=1e-3),
    sampling=SamplingConfig(use=True),
)
SMALL = NodeMatchingConfig(dim_in=8, n_nodes=12, n_columns=4, n_heads=2, hidden=5)


@pytest.fixture(scope="module")
def options(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return RunOptions((corpus,), folder / "encoder", folder / "cache", "cpu", 1)


@pytest.fixture(scope="module")
def long(options):
    return train(ENCODER, options, lambda entry: None)


@pytest.fixture(scope="module")
def short(corpus, long, options):
    made = options.folder / "short" / "checkpoint.pt"
    words = ["train", "nodes", str(long), str(made), "--corpus", str(corpus), "--dim", str(DIM)]
    run = CliRunner().invoke(app, [*words, "--cache", str(options.cache), "--threads", "1"])
    assert run.exit_code == 0, run.output
    assert f"% of the variance in {DIM} numbers a node" in run.output
    return made


@pytest.fixture(scope="module")
def encoder(short, options):
    export_checkpoint(short, options.folder / "short.onnx")
    return open_encoder(str(options.folder / "short.onnx"), kind="sample")


@pytest.fixture(scope="module")
def judge_file(short, options):
    recipe = ClassifierRecipe(
        "matching-tiny",
        encoder=str(short),
        model={"size": "matching", "n_heads": 2, "hidden": 6},
        pairs=PairConfig(n_queries=6, n_batches=2, n_places=6, n_nearest=10, n_hard=3, n_same=1),
        optimiser=ClassifierOptimiser(steps=3, warmup=1, learning_rate=1e-3),
    )
    where = dataclasses.replace(options, folder=options.folder / "judge")
    export_classifier(train_classifier(recipe, where, lambda entry: None), where.folder / "j.onnx")
    return where.folder / "j.onnx"


def windows(n, seed=0):
    return torch.randn(
        n, SMALL.n_nodes, SMALL.dim_in, generator=torch.Generator().manual_seed(seed)
    )


def matching():
    torch.manual_seed(0)
    return NodeMatching(SMALL).eval()


def test_either_order_any_batch_and_any_factor_give_the_same_logit():
    model, a, b = matching(), windows(5, 1), windows(5, 2)
    with torch.no_grad():
        logits = model(a, b)
        assert logits.shape == (5,)
        assert torch.allclose(model(b, a), logits, atol=1e-5)
        assert torch.allclose(model(a[2:3], b[2:3]), logits[2:3], atol=1e-5)
        assert torch.allclose(model(3.0 * a, 0.2 * b), logits, atol=1e-3)


def test_untrained_it_finds_the_window_that_a_louder_one_covers():
    model, a, others = matching(), windows(1, 1), windows(30, 2)
    heard = a.clone()
    heard[:, :8] = windows(1, 3)[:, :8]  # two rows of three are another sound's
    with torch.no_grad():
        right, wrong = model(heard, a), model(heard.expand(30, -1, -1), others)
    assert float(right) > float(wrong.max()) + 0.5


def test_places_matter_and_near_ones_count_at_first():
    model, a = matching(), windows(1, 1)
    grid = a.view(1, 3, 4, SMALL.dim_in)
    with torch.no_grad():
        same, near = model(a, a), model(a, grid.roll(1, 2).reshape_as(a))
        far = model(a, grid.roll(2, 1).flip(2).reshape_as(a))
    assert float(same) > float(far)
    assert float(near) > float(far)


def test_gradient_reaches_every_parameter():
    model = NodeMatching(dataclasses.replace(SMALL, dropout=0.0))
    model(windows(4, 1), windows(4, 2)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_an_odd_grid_is_refused():
    with pytest.raises(TrainingError, match="n_nodes is 10, no multiple of n_columns 4"):
        NodeMatchingConfig(n_nodes=10, n_columns=4)


def test_compression_keeps_what_differs_with_one_scale():
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(4000, 3, generator=rng) * torch.tensor([5.0, 2.0, 1.0])
    nodes = hidden @ torch.randn(3, 20, generator=rng) + 7.0
    weight, bias, kept = compression(nodes, 3)
    assert kept == pytest.approx(1.0, abs=1e-3)
    found = nodes @ weight.T + bias
    assert weight.shape == (3, 20)
    assert torch.allclose(found.mean(0), torch.zeros(3), atol=1e-3)
    assert 0.5 < float(found.std()) < 1.5
    assert torch.allclose(torch.corrcoef(found.T), torch.eye(3), atol=1e-2)
    fitted = torch.linalg.lstsq(torch.cat([found, torch.ones(4000, 1)], 1), nodes).solution
    back = torch.cat([found, torch.ones(4000, 1)], 1) @ fitted
    assert torch.allclose(back, nodes, atol=1e-2)


def test_short_nodes_leave_the_vectors_as_they_were(long, short, corpus, options):
    before, after = (network_of(load_checkpoint(of)).eval() for of in (long, short))
    power = 8.0 + torch.randn(1, 144, 200, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(before.embed(power), after.embed(power))
        raw, kept = before.nodes(power), after.nodes(power)
        mapped = after.shorten(raw).clamp(-4, 4)
    assert kept.shape == (*raw.shape[:3], DIM)
    assert torch.allclose(mapped, kept, atol=1e-5)
    run = CliRunner().invoke(app, ["train", "nodes", str(short), "x.pt", "--corpus", str(corpus)])
    assert isinstance(run.exception, TrainingError)
    assert "as it was trained" in str(run.exception)


def test_encoders_that_know_no_places_have_no_matching_classifier(options):
    from spolia.networks.architectures import build_encoder

    settings = {"size": "nano", "channels": [8, 8, 16, 16], "n_blocks": [1, 1, 1, 1], "dim": 16}
    other = build_encoder("graph", settings).eval()
    with pytest.raises(TrainingError, match='know the places of nodes of "sample"'):
        build_classifier({"size": "matching"}, other)


def test_batches_of_mixtures_come_again_with_new_negatives(short, options, tmp_path):
    pairs = PairConfig(n_queries=6, n_batches=2, n_places=6, n_nearest=10, n_hard=3, n_same=1)
    recipe = ClassifierRecipe("again", str(short), {"size": "matching"}, pairs=pairs)
    maker = ClassifierRun(recipe, dataclasses.replace(options, folder=tmp_path)).pairs
    first, second, third = (maker.draw(step, seed=1) for step in range(3))
    assert torch.equal(first.queries, third.queries)
    assert torch.equal(first.candidates[:, :2], third.candidates[:, :2])
    assert not torch.equal(first.candidates[:, 2:], third.candidates[:, 2:])
    assert not torch.equal(first.queries, second.queries)
    assert torch.equal(maker.draw(0, seed=1).candidates, first.candidates)


def test_columns_of_blocks_are_those_of_the_whole_and_make_up_windows(encoder):
    sound, card = tune(3, 100.0, RATE), encoder.card
    samples = SampleFingerprinter(encoder)
    assert encoder.has_short_nodes
    made = NodeFingerprinter(samples)
    blocks = [Audio(part, RATE) for part in np.array_split(sound.samples, 7)]
    vectors, nodes = made.both(iter(blocks))
    assert np.array_equal(vectors.values, samples.fingerprint(sound).values)
    whole = encoder.nodes(sound.samples[None])[0]
    assert nodes.values.shape == (len(whole) + 6, whole.shape[1] // 7 * DIM)
    assert nodes.times[1] == pytest.approx(card.hop / RATE)
    places = [0.0, 20 * card.hop / RATE, (len(whole) - 1) * card.hop / RATE + 0.1]
    found = nodes_at(nodes.values, places, card)
    assert np.allclose(found[:2], whole[[0, 20]], atol=0.1)
    assert np.corrcoef(found[2].ravel(), whole[-1].ravel())[0, 1] > 0.97  # there, silence follows
    beyond = nodes_at(nodes.values, [1000.0], card)
    assert not beyond.any()
    assert np.array_equal(
        made.fingerprint(sound).values, made.fingerprint_blocks(iter([sound])).values
    )
    with pytest.raises(ParameterError, match="changed"):
        made.fingerprint_query(sound, Change(semitones=1.0))


def test_a_querys_columns_go_with_its_phases(encoder):
    samples, sound = SampleFingerprinter(encoder), tune(4, 12.0, RATE)
    found, columns = samples.query_with_nodes(sound)
    plain = samples.fingerprint_query(sound)
    assert np.array_equal(found.times, plain.times)
    assert np.array_equal(found.values, plain.values)
    later = sound.samples[encoder.card.hop // 2 :]
    assert np.allclose(columns[1], samples.with_nodes(iter([Audio(later, RATE)]))[1].values)


class Same:
    """Stands in for a classifier: minus the largest difference of two node matrices."""

    card = SimpleNamespace(id="same-1")

    def compare(self, queries, candidates):
        return -np.abs(queries - candidates).max((1, 2))


def test_nominees_are_given_the_logit_of_their_best_pair(encoder):
    sound, hop = tune(5, 30.0, RATE), encoder.card.hop / RATE
    half = encoder.card.segment / RATE / 2
    samples = SampleFingerprinter(encoder)
    columns = samples.query_with_nodes(sound)[1]
    held = {0: columns[0], 1: columns[0] + 2.0}
    right = Pair(half + 8 * hop, half + 8 * hop)
    wrong = Pair(half + 8 * hop, half + 30 * hop)
    between = Pair(half + 8.5 * hop, half + 8 * hop)
    nominees = [
        Nominee(0, (wrong, right), 0.9),
        Nominee(0, (between,), 0.8),
        Nominee(1, (right,), 0.7),
        Nominee(2, (right,), 0.6),
    ]
    judge = NodeJudge(Same(), encoder)
    assert judge.model_id == "same-1"
    found = judge.judged(columns, nominees, held.get, threads=2)
    assert [n.logit == pytest.approx(want, abs=1e-5) for n, want in zip(found, (0, 0, -2, 0))] == [
        True,
        False,
        True,
        True,
    ]
    later = judge.judged([columns[0], columns[1]], nominees[1:2], {0: columns[1]}.get)
    assert later[0].logit == pytest.approx(0.0, abs=1e-5)  # the second phase begins half a hop on


def test_a_library_keeps_nodes_and_is_searched_by_them(encoder, judge_file, tmp_path, monkeypatch):
    for number in range(3):
        write_wav(tmp_path / f"crate{number}.wav", tune(number, 16.0, RATE))
    track = tune(1, 16.0, RATE).slice(2.048, 12.048)
    model, judge = str(encoder.path), str(judge_file)
    with Library(tmp_path / "held", methods=["samples"], sample_model=model, threads=1) as library:
        library.add(tmp_path.glob("crate*.wav"))
        assert set(library.catalog.methods()) == {"samples", "sketches", "nodes"}
        assert library.verify() == []
        rows = library.catalog.rows(next(iter(library)).id, "nodes")
        assert rows.shape[1] == 9 * DIM
        finder, read = library.sample_finder(track), Counter()
        sequence = library.catalog.sequence
        monkeypatch.setattr(
            library.catalog, "sequence", lambda *of: read.update([of]) or sequence(*of)
        )
        first = finder.evidence()[0]
        assert {n for (_, method), n in read.items() if method == "nodes"} == {1}
        assert library.get(first.recording_id).path.endswith("crate1.wav")
        assert first.agreement > 3.0
        assert first.ahead > 0.0
        assert all(n.logit == 0.0 for n in finder.nominees)
    with Library(tmp_path / "held", sample_model=model, sample_classifier=judge) as library:
        assert library.add(tmp_path.glob("crate*.wav")).unchanged == 3
        assert isinstance(library.sample_judge, NodeJudge)
        found = library.find_samples(track, top=1).matches[0]
        assert found.recording.path.endswith("crate1.wav")
        assert found.features[8] > 0.0
        assert found.features[10] != 0.0
    wrong = Library(tmp_path / "held", sample_model=model, sample_classifier=model)
    with wrong, pytest.raises(ModelError, match="give one of kind 'classifier'"):
        wrong.find_samples(track)


def test_a_library_of_before_says_that_its_nodes_are_missing(encoder, tmp_path):
    sound, samples = tune(1, 16.0, RATE), SampleFingerprinter(encoder)
    write_wav(tmp_path / "crate.wav", sound)
    with Library(tmp_path / "held", methods=["samples"], fingerprinters=[samples]) as library:
        library.methods.remove("nodes")
        library.add([tmp_path / "crate.wav"])
        with pytest.raises(
            ModelError, match="holds no nodes, which short searches samples by; run"
        ):
            library.find_samples(sound)
    with Library(tmp_path / "held", methods=["samples"], fingerprinters=[samples]) as library:
        library.add([tmp_path / "crate.wav"])
        assert library.find_samples(sound, top=1).matches
