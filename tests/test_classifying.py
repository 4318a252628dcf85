"""Training of graph encoders, and of the classifier on their nodes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("onnx", reason="needs the extra train")

from typer.testing import CliRunner

from fakes import tune
from spolia.cli import app
from spolia.encoders import Encoder, open_classifier, open_model
from spolia.encoding import write_wav
from spolia.errors import ModelError, TrainingError
from spolia.library import Library
from spolia.training.classifying import (
    ClassifierOptimiser,
    ClassifierRecipe,
    ClassifierRun,
    classifier_loss,
    load_encoder,
    train_classifier,
)
from spolia.training.export import (
    export_checkpoint,
    export_classifier,
    update_card,
)
from spolia.training.fingerprint import train
from spolia.training.initial import load_checkpoint
from spolia.training.pairs import PairConfig
from spolia.training.recipe import DataConfig, OptimiserConfig, Recipe, SamplingConfig
from spolia.training.running import RunOptions
from spolia.training.warp import MaskConfig, WarpConfig

pytestmark = pytest.mark.filterwarnings("ignore")

SETTINGS = {
    "size": "nano",
    "channels": [8, 8, 16, 16],
    "n_blocks": [1, 1, 1, 1],
    "projected": 16,
    "hidden": 24,
    "dim": 16,
    "drop_path": 0.3,
}
PLAIN = {"channels": [4, 4, 4, 4], "n_blocks": [0, 0, 0, 0], "hidden": 8, "dim": 8}
WARP, MASK = WarpConfig(0.2, 6.0, 0.2, 0.3, 0.2, 0.4, both=0.2), MaskConfig(0.0, 1, 0.0, 1, 0.0)
ENCODER = Recipe(
    "graph-tiny",
    architecture="graph",
    model=SETTINGS,
    data=DataConfig(n_rows=8, n_segments=1, offset=0.2, context=0.0, simulated_rooms=1),
    warp=WARP,
    mask=MASK,
    optimiser=OptimiserConfig(steps=8, warmup=2, learning_rate=1e-3, chunk=6),
    sampling=SamplingConfig(use=True),
)


@pytest.fixture(scope="module")
def options(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return RunOptions((corpus,), folder / "encoder", folder / "cache", "cpu", 1)


@pytest.fixture(scope="module")
def checkpoint(options):
    return train(ENCODER, options, lambda entry: None)


@pytest.fixture
def recipe(checkpoint):
    return ClassifierRecipe(
        "judge-tiny",
        encoder=str(checkpoint),
        model={"size": "nano", "width": 16, "hidden": 8},
        pairs=PairConfig(n_queries=6, offset=0.2, n_places=6, n_nearest=10, n_hard=3, n_same=2),
        warp=WARP,
        mask=MASK,
        optimiser=ClassifierOptimiser(steps=8, warmup=2, learning_rate=3e-3),
    )


def where(options, tmp_path, **changes):
    return dataclasses.replace(options, folder=tmp_path / "run", **changes)


def until(run, step):
    while run.step < step:
        run.advance(lambda entry: None)
    run.save()


def weights_of(path, part):
    return load_checkpoint(path)[part]


def test_an_encoder_with_dropped_edges_and_branches_resumes_bit_by_bit(
    options, checkpoint, tmp_path
):
    from spolia.training.fingerprint import Run

    stopped = Run(ENCODER, where(options, tmp_path))
    until(stopped, 3)
    continued = train(ENCODER, where(options, tmp_path), lambda entry: None)
    expected, found = weights_of(checkpoint, "average"), weights_of(continued, "average")
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_classifier_resumes_bit_by_bit_and_says_how_it_does(recipe, options, tmp_path):
    seen = []
    whole = train_classifier(recipe, where(options, tmp_path / "whole"), seen.append)
    assert [int(e["step"]) for e in seen] == list(range(1, 9))
    assert np.mean([e["loss"] for e in seen[-3:]]) < seen[0]["loss"]
    figures = [v for k, v in seen[-1].items() if k.startswith("val_") and k != "val_n"]
    assert len(figures) == 4
    assert all(0.0 <= f <= 1.0 for f in figures)
    until(ClassifierRun(recipe, where(options, tmp_path)), 4)
    continued = train_classifier(recipe, where(options, tmp_path), lambda entry: None)
    expected, found = weights_of(whole, "model"), weights_of(continued, "model")
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_a_run_that_goes_on_reads_what_was_encoded_before(recipe, options, tmp_path, monkeypatch):
    pairs = dataclasses.replace(recipe.pairs, n_batches=2)
    recipe = dataclasses.replace(recipe, pairs=pairs, seed=77)
    seen = []
    first = ClassifierRun(recipe, where(options, tmp_path), lambda *done: seen.append(done))
    assert seen[-1][0] == seen[-1][1]
    drawn = [first.pairs.draw(step, seed=77) for step in range(3)]
    first.validate()

    def never(*given):
        raise AssertionError("encoded again")

    monkeypatch.setattr(type(first.encoder), "with_nodes", never)
    again = ClassifierRun(recipe, where(options, tmp_path), never)
    for step, expected in enumerate(drawn):
        found = again.pairs.draw(step, seed=77)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert again.validate() == first.validate()


def test_no_negative_holds_a_positive(recipe, options, tmp_path):
    """In the authors' code the hardest negative was the positive itself."""
    maker = ClassifierRun(recipe, where(options, tmp_path)).pairs
    geometry, places = maker.batches.geometry, maker.places
    starts = maker.batches.anchor_starts(places.starts)
    rng = torch.Generator().manual_seed(0)
    for step in range(4):
        batch = maker.batches.draw(step, seed=1)
        vectors = maker.encoder.embed(batch.positives)[:, 0]
        own = maker.encoder.embed(batch.anchors)[:, 0]
        chosen = maker.negatives(batch, vectors, own, rng)
        assert chosen.shape == (6, 5)
        for row, numbers in enumerate(chosen):
            groups = {int(batch.groups[row]), int(batch.groups[batch.others[row]])}
            assert not groups & set(places.groups[numbers[:3]].tolist())
            for number in numbers[3:].tolist():
                if int(places.groups[number]) in groups:
                    assert int(places.files[number]) == int(batch.files[row])
                    gap = abs(int(starts[number]) - int(batch.starts[row]))
                    assert gap >= geometry.anchor


def test_windows_elsewhere_in_the_recording_are_negatives(recipe, options, tmp_path):
    maker = ClassifierRun(recipe, where(options, tmp_path)).pairs
    batch = maker.batches.draw(0, seed=1)
    away = maker.batches.anchor_starts(maker.places.starts).clone()
    inside = maker.places.files == batch.files[0]
    own = torch.zeros(len(batch.files), maker.vectors.shape[1])  # like nothing
    maker.batches = SimilarBatches(maker.batches, away + 10**7)
    assert torch.equal(maker._elsewhere(batch, own)[0], inside)
    maker.batches.starts = away * 0 + batch.starts[0] + maker.batches.geometry.anchor // 2
    assert not maker._elsewhere(batch, own)[0].any()
    maker.batches.starts = away + 10**7
    alike = maker.vectors[inside][:1].expand(len(batch.files), -1)
    assert int(maker._elsewhere(batch, alike)[0].sum()) < int(inside.sum())


class SimilarBatches:
    """A batch maker whose windows begin where a test says."""

    def __init__(self, batches, starts):
        self.geometry, self.starts = batches.geometry, starts

    def anchor_starts(self, starts):
        return self.starts


def test_the_candidates_are_what_the_cosines_say(recipe, options, tmp_path):
    maker = ClassifierRun(recipe, where(options, tmp_path)).pairs
    pairs, again = maker.draw(2, seed=1), maker.draw(2, seed=1)
    assert torch.equal(pairs.candidates, again.candidates)
    shape = pairs.queries.shape[1:]
    assert pairs.candidates.shape == (6, 2 + 5, *shape)
    grid = maker.encoder.config.grid

    def vectors(nodes):
        grids = nodes.transpose(-1, -2).unflatten(-1, grid)
        return torch.nn.functional.normalize(maker.encoder.pooled(grids), dim=1)

    queries, candidates = vectors(pairs.queries), vectors(pairs.candidates.flatten(0, 1))
    cosines = (candidates.unflatten(0, (6, 7)) @ queries[:, :, None])[..., 0]
    assert torch.allclose(cosines, pairs.similarity, atol=1e-4)


def test_the_loss_equals_its_definition():
    logits = torch.tensor([[2.0, 0.5, -1.0, 0.3]])
    softplus = torch.nn.functional.softplus
    entropy = (softplus(-logits[0, :2]).mean() + softplus(logits[0, 2:]).mean()).item()
    behind = np.mean([np.log1p(np.exp(n - p)) for p in (2.0, 0.5) for n in (-1.0, 0.3)])
    assert float(classifier_loss(logits, 0.5)) == pytest.approx(entropy + 0.5 * behind, rel=1e-5)


def test_wrong_encoders_and_small_corpora_are_named(recipe, options, tmp_path, checkpoint):
    with pytest.raises(TrainingError, match=r"give the checkpoint \(.pt\) of an encoder"):
        load_encoder("sample")
    plain = dataclasses.replace(
        ENCODER, architecture="segment", model=PLAIN, sampling=SamplingConfig()
    )
    from spolia.training.fingerprint import Run

    other = Run(plain, where(options, tmp_path / "plain"))
    other.save()
    with pytest.raises(TrainingError, match="encoder without nodes"):
        load_encoder(str(other.checkpoint))
    greedy = dataclasses.replace(recipe, pairs=dataclasses.replace(recipe.pairs, n_hard=500))
    with pytest.raises(TrainingError, match="add recordings or lower n_hard"):
        ClassifierRun(greedy, where(options, tmp_path)).pairs.draw(0, seed=0)


def test_the_command_trains_and_writes_a_classifier_of_its_encoder(
    corpus, checkpoint, options, tmp_path
):
    lines = [
        'name = "judge"',
        f'encoder = "{checkpoint}"',
        '[model]\nsize = "nano"\nwidth = 16\nhidden = 8',
        "[pairs]\nn_queries = 6\nn_places = 6\nn_nearest = 10\nn_hard = 3",
        "[optimiser]\nsteps = 2\nwarmup = 1",
    ]
    (tmp_path / "judge.toml").write_text("\n".join(lines))
    made = tmp_path / "judge.onnx"
    folders = ["--run", str(tmp_path / "runs"), "--cache", str(options.cache)]
    words = ["train", "classifier", str(tmp_path / "judge.toml"), "--corpus", str(corpus)]
    run = CliRunner().invoke(app, [*words, *folders, "--threads", "1", "--export", str(made)])
    assert run.exit_code == 0, run.output
    card = open_model(str(made)).card
    known = export_checkpoint(checkpoint, tmp_path / "graph.onnx")
    assert (card.kind, card.base) == ("classifier", known.id)
    encoder = Encoder(tmp_path / "graph.onnx")
    classifier = open_classifier(str(made), encoder)
    assert classifier.verify() < 1e-4
    nodes = encoder.nodes(np.random.default_rng(0).normal(0, 0.1, (1, 120000)).astype("f"))[0]
    logits = classifier.compare(nodes[:-1], nodes[1:])
    assert logits.shape == (len(nodes) - 1,)
    assert np.allclose(classifier.compare(nodes[1:], nodes[:-1]), logits, atol=1e-4)
    assert_equals_torch(tmp_path / "runs" / "judge" / "checkpoint.pt", nodes, logits)
    stranger = dataclasses.replace(card, base="sample-000000000000")
    classifier.__dict__["card"] = stranger
    with pytest.raises(ModelError, match="is a model of kind 'sample'; give one of kind"):
        open_classifier(str(tmp_path / "graph.onnx"), encoder)
    encoder.__dict__["card"] = dataclasses.replace(known, id="sample-000000000000")
    with pytest.raises(ModelError, match="give the classifier that was trained with"):
        open_classifier(str(made), encoder)


def assert_equals_torch(checkpoint, nodes, logits):
    from spolia.training.classifying import build_classifier

    state = load_checkpoint(checkpoint)
    network = build_classifier(state["recipe"]["model"], load_encoder(state["recipe"]["encoder"]))
    network.load_state_dict(state["model"])
    with torch.no_grad():
        expected = network.eval()(torch.from_numpy(nodes[:-1]), torch.from_numpy(nodes[1:]))
    assert np.allclose(expected.numpy(), logits, atol=1e-4)


def test_samples_are_judged_by_model_files_and_those_that_do_not_belong_are_refused(
    recipe, options, checkpoint, tmp_path
):
    short = dataclasses.replace(recipe, optimiser=ClassifierOptimiser(steps=1, warmup=1))
    made = train_classifier(short, where(options, tmp_path), lambda entry: None)
    encoder, judge, stranger = (str(tmp_path / f"{n}.onnx") for n in ("graph", "judge", "other"))
    export_checkpoint(checkpoint, tmp_path / "graph.onnx")
    export_classifier(made, tmp_path / "judge.onnx")
    (tmp_path / "other.onnx").write_bytes((tmp_path / "judge.onnx").read_bytes())
    update_card(tmp_path / "other.onnx", base="sample-000000000000")
    for number in range(2):
        write_wav(tmp_path / f"crate{number}.wav", tune(number, 16.0, 16000))
    track, held = tmp_path / "track.wav", tmp_path / "library"
    write_wav(track, tune(1, 16.0, 16000).slice(2.048, 12.048))
    with Library(held, methods=["samples"], sample_model=encoder) as library:
        library.add(tmp_path.glob("crate*.wav"))
    with Library(held, sample_model=encoder, sample_classifier=judge, threads=1) as library:
        found = library.find_samples(track, top=1).matches[0]
    assert found.recording.path.endswith("crate1.wav")
    assert found.features[8:10] == (0.0, 0.0)  # no short nodes
    assert found.features[10] != 0.0
    words = ["samples", str(track), "--json", "--library", str(held), "--sample-model", encoder]
    run = CliRunner().invoke(app, [*words, "--classifier", judge])
    assert run.exit_code == 0, run.output
    refused = CliRunner().invoke(app, [*words, "--classifier", stranger])
    assert isinstance(refused.exception, ModelError)
    assert str(refused.exception).startswith(f"{stranger} compares nodes of sample-000000000000, ")


def test_a_classifier_is_refused_where_it_judges_nothing(tmp_path):
    words = ["evaluate", "samples", "--corpus", str(tmp_path), "--method", "segments"]
    run = CliRunner().invoke(app, [*words, "--classifier", "judge.onnx"])
    assert run.exit_code == 2
