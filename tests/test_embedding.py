"""AMG-Embedding: the encoder's laws, PAM against its definition, pieces, and that it learns."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra train")

from corpora import make_corpus
from spolia.errors import TrainingError
from spolia.networks.run_encoder import RunEncoder, RunEncoderConfig, sinusoids
from spolia.training.embedding import (
    ClipConfig,
    EmbeddingOptimiser,
    EmbeddingRecipe,
    EmbeddingRun,
    load_runs,
    train_embedding,
)
from spolia.training.initial import load_checkpoint
from spolia.training.losses import divergence
from spolia.training.margin import (
    MarginConfig,
    Proxies,
    exhaustive_scores,
    info_nce,
    pam,
    with_margin,
)
from spolia.training.pieces import PieceConfig, anchor_start, draw_pieces
from spolia.training.running import RunOptions
from spolia.training.runs import SCALE, Runs, thinned

SMALL = RunEncoderConfig(dim_in=16, dim=16, longest=9, n_layers=2, n_heads=2, hidden=16)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture
def runs():
    return torch.from_numpy(unit(np.random.default_rng(0).normal(size=(3, 9, 16))).astype("f"))


def no_padding(runs):
    return torch.zeros(runs.shape[:2], dtype=torch.bool)


def encoder(**changes):
    torch.manual_seed(1)
    return RunEncoder(dataclasses.replace(SMALL, **changes)).eval()


def test_the_published_size():
    assert sum(p.numel() for p in RunEncoder(RunEncoderConfig()).parameters()) == 4_023_680


# Published: 11.9, 12.0, 26.6, 8.1, 12.4 M, pictures with the thousand-class layer and a wider stem.
SIZES = {
    "bilstm": 11_894_912,
    "resnet18": 11_235_904,
    "resnet50": 23_764_032,
    "densenet121": 7_078_784,
    "efficientnet_b3": 10_892_248,
}


@pytest.mark.parametrize(("backbone", "size"), SIZES.items())
def test_other_backbones_have_their_size_and_take_any_run(backbone, size):
    config = RunEncoderConfig(backbone=backbone, n_layers=8, longest=9)
    model = RunEncoder(config).eval()
    assert sum(p.numel() for p in model.parameters()) == size
    runs = torch.randn(2, 9, 128, generator=torch.Generator().manual_seed(3))
    padding = no_padding(runs)
    padding[0, 4:] = True
    together = model(runs, padding)
    assert torch.allclose(model(runs[:1, :4], padding[:1, :4]), together[:1], atol=1e-5)
    assert torch.isfinite(model(runs, torch.ones_like(padding))).all()
    model.train()(runs, padding)[:, 0].sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(
    "changes", [{}, {"pre_norm": True, "gelu": True, "positions": "learned"}, {"from_mean": True}]
)
def test_padding_says_nothing_and_batch_mates_neither(runs, changes):
    model = encoder(**changes)
    alone = model(runs[:1, :4], no_padding(runs)[:1, :4])
    padding = no_padding(runs)
    padding[0, 4:] = True
    padding[1, 7:] = True
    together = model(runs, padding)
    assert together.shape == (3, 16)
    assert torch.allclose(together[:1], alone, atol=1e-5)
    assert torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-5)
    changed = runs.clone()
    changed[0, 4:] = 7.0
    assert torch.allclose(model(changed, padding), together, atol=1e-6)


def test_order_counts_only_with_positions(runs):
    swapped = runs[:, [1, 0, *range(2, 9)]]
    for positions, same in (("none", True), ("sinusoidal", False), ("learned", False)):
        model = encoder(positions=positions)
        first, second = (model(x, no_padding(x)) for x in (runs, swapped))
        assert torch.allclose(first, second, atol=1e-5) == same


def test_nothing_gives_a_finite_vector_and_every_parameter_a_gradient(runs):
    model = encoder()
    assert torch.isfinite(model(runs, torch.ones(3, 9, dtype=torch.bool))).all()
    assert torch.isfinite(model(torch.zeros_like(runs), no_padding(runs))).all()
    model.train()(runs, no_padding(runs))[:, 0].sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_from_mean_begins_as_the_mean_of_what_is_heard_and_learns(runs):
    model = encoder(from_mean=True)
    padding = no_padding(runs)
    padding[0, 4:] = True
    expected = torch.stack([runs[0, :4].mean(0), runs[1].mean(0), runs[2].mean(0)])
    expected = torch.nn.functional.normalize(expected, dim=1)
    assert torch.allclose(model(runs, padding), expected, atol=1e-5)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(2):  # the first step moves the last layer only
        optimiser.zero_grad()
        model(runs, padding)[:, 0].sum().backward()
        optimiser.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert torch.isfinite(model(runs, torch.ones_like(padding))).all()


def test_sinusoids_are_those_of_the_paper():
    places = sinusoids(6, 8)
    assert float(places[3, 0]) == pytest.approx(math.sin(3), abs=1e-6)
    assert float(places[5, 3]) == pytest.approx(math.cos(5 / 10000 ** (2 / 8)), abs=1e-6)


def test_wrong_settings_are_named():
    with pytest.raises(TrainingError, match="choose from: none, sinusoidal, learned"):
        RunEncoderConfig(positions="maybe")
    with pytest.raises(TrainingError, match="choose from: transformer, bilstm, resnet18"):
        RunEncoderConfig(backbone="vgg")
    with pytest.raises(TrainingError, match="no multiple of n_heads"):
        RunEncoderConfig(hidden=100)
    with pytest.raises(TrainingError, match="segments' size 128, not 256; give both one size"):
        RunEncoderConfig(dim=256, from_mean=True)


def defined(cosines, labels, overlap, is_anchor, config, groups=None):
    """Return equations 1–5 in float64, term by term."""
    total = 0.0
    for i, label in enumerate(labels):
        margin = (
            overlap[i] * (config.upper - config.lower) + config.lower
            if config.overlap_margin
            else config.upper
        )
        angle = math.acos(cosines[i, label])
        assert angle + margin <= math.pi
        wanted = math.exp(config.scale * math.cos(angle + margin))
        others = sum(
            math.exp(config.scale * cosines[i, j])
            for j in range(cosines.shape[1])
            if j != label and (groups is None or groups[j] != groups[label])
        )
        total -= math.log(wanted / (wanted + others))
    loss = total / len(labels)
    if config.align and is_anchor.any():
        aligned = [1 - cosines[i, label] for i, label in enumerate(labels) if is_anchor[i]]
        loss += config.alignment * float(np.mean(aligned))
    return loss


@pytest.mark.parametrize(
    "changes", [{}, {"overlap_margin": False}, {"align": False}, {"scale": 8.0, "upper": 0.6}]
)
@pytest.mark.parametrize("grouped", [False, True])
def test_pam_equals_its_definition(changes, grouped):
    rng = np.random.default_rng(3)
    cosines = rng.uniform(-0.7, 0.95, (6, 5))
    labels, overlap = rng.integers(5, size=6), rng.random(6)
    is_anchor = np.array([True, False, True, False, False, False])
    config = MarginConfig(**changes)
    groups = np.array([0, 1, 1, 2, 3]) if grouped else None
    expected = defined(cosines, labels, overlap, is_anchor, config, groups)
    tensors = map(torch.from_numpy, (cosines, labels, overlap, is_anchor))
    found = pam(*tensors, config, groups=None if groups is None else torch.from_numpy(groups))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_pam_by_hand():
    """One piece at 60° from its proxy and at 90° from the other, half overlapping."""
    cosines, label = torch.tensor([[0.5, 0.0]]), torch.tensor([0])
    config = MarginConfig(scale=2.0)
    loss = pam(cosines, label, torch.tensor([0.5]), torch.tensor([False]), config)
    wanted = 2 * math.cos(math.pi / 3 + 0.3)
    assert float(loss) == pytest.approx(math.log(1 + math.exp(0.0 - wanted)), rel=1e-6)
    with_anchor = pam(cosines, label, torch.tensor([0.5]), torch.tensor([True]), config)
    assert float(with_anchor - loss) == pytest.approx(10 * 0.5, rel=1e-6)


def test_pam_survives_extremes_and_half_precision():
    cosines = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.bfloat16, requires_grad=True)
    labels, overlap = torch.tensor([0, 0]), torch.tensor([1.0, 0.0])
    loss = pam(cosines, labels, overlap, torch.tensor([False, False]), MarginConfig())
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(cosines.grad).all()


def test_the_margin_keeps_the_order_of_angles():
    cosine = torch.linspace(-1, 1, 400, dtype=torch.float64)
    for margin in (0.2, 0.4, 1.0):
        shifted = with_margin(cosine, torch.full_like(cosine, margin))
        assert (shifted.diff() > 0).all()
        assert (shifted <= cosine + 1e-3).all()
    exact = torch.cos(torch.acos(cosine[200:390]) + 0.4)
    assert torch.allclose(with_margin(cosine, torch.full_like(cosine, 0.4))[200:390], exact)


def test_info_nce_equals_its_definition():
    rng = np.random.default_rng(4)
    pieces, anchors = unit(rng.normal(size=(6, 4))), unit(rng.normal(size=(3, 4)))
    owner, groups = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1])
    total = 0.0
    for i in range(6):
        terms = {
            j: math.exp(pieces[i] @ anchors[j] / 0.1)
            for j in range(3)
            if j == owner[i] or groups[j] != groups[owner[i]]
        }
        total -= math.log(terms[owner[i]] / sum(terms.values()))
    found = info_nce(*map(torch.from_numpy, (pieces, anchors, owner, groups)), 0.1)
    assert float(found) == pytest.approx(total / 6, rel=1e-5)


def test_exhaustive_scores_are_means_of_nearest_vectors_and_imitation_is_least_at_them():
    rng = np.random.default_rng(5)
    pieces, anchors = unit(rng.normal(size=(4, 6, 8))), unit(rng.normal(size=(3, 6, 8)))
    lengths = np.array([6, 3, 1, 5])
    padding = np.arange(6) >= lengths[:, None]
    scores = exhaustive_scores(*map(torch.from_numpy, (pieces, anchors, padding)))
    for i, j in np.ndindex(4, 3):
        nearest = [max(anchors[j] @ vector) for vector in pieces[i, : lengths[i]]]
        assert float(scores[i, j]) == pytest.approx(np.mean(nearest), rel=1e-5)
    assert float(divergence((scores + 0.3) / 0.1, scores / 0.1)) == pytest.approx(0.0, abs=1e-6)
    assert float(divergence(scores.flip(1) / 0.1, scores / 0.1)) > 0.01


def test_proxies_begin_where_they_are_told():
    proxies = Proxies(4, 8, rng=torch.Generator().manual_seed(0))
    means = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    proxies.initialise(means)
    vectors = torch.nn.functional.normalize(means, dim=1)
    assert torch.allclose(proxies.cosines(vectors).diagonal(), torch.ones(4), atol=1e-6)
    with pytest.raises(TrainingError, match="give both one size"):
        proxies.initialise(torch.zeros(4, 5))
    with pytest.raises(TrainingError, match="at least 2 clips"):
        Proxies(1, 8, rng=torch.Generator())


def numbered(n_clips=40, n_versions=4, n_vectors=20):
    """Return runs whose vectors say clip, version and place."""
    clip, version, place = np.meshgrid(
        np.arange(n_clips), np.arange(n_versions), np.arange(n_vectors), indexing="ij"
    )
    values = np.stack([clip, version, place], axis=3).astype(np.int8)
    return Runs(values, np.arange(n_clips), np.arange(n_clips))


@pytest.mark.parametrize("longest", [5, 9, 20])
@pytest.mark.parametrize("beta", [0.5, 3.0])
def test_pieces_are_runs_of_their_clip_that_overlap_the_anchor_as_stated(longest, beta):
    runs, config = numbered(), PieceConfig(n_classes=16, n_pieces=30)
    batch = draw_pieces(runs, config, longest=longest, beta=beta, rng=np.random.default_rng(0))
    zone = anchor_start(20, longest)
    assert int(batch.is_anchor.sum()) == 16
    assert len(batch.labels) == 16 * 31
    for i in range(len(batch.labels)):
        heard = (batch.runs[i][~batch.padding[i]] * SCALE).round().int().numpy()
        clip, version, place = heard.T
        assert (clip == int(batch.labels[i])).all()
        assert (np.diff(place) == 1).all()
        assert min(config.shortest, longest) <= len(place) <= longest
        assert ((version == 0) == bool(batch.is_anchor[i])).all()
        shared = np.isin(place, np.arange(zone, zone + longest)).sum()
        assert float(batch.overlap[i]) == pytest.approx(shared / longest)
        assert shared >= 1
    assert (batch.runs[batch.padding] == 0).all()


def test_pieces_grow_shorter_as_beta_rises():
    config = PieceConfig(n_classes=40)
    assert config.beta(0.0) == 0.5
    assert config.beta(0.5) == pytest.approx(1.75)
    assert config.beta(7.0) == 3.0
    heard = [
        float((~draw_pieces(numbered(), config, longest=19, beta=b, rng=rng).padding).sum())
        for b, rng in ((b, np.random.default_rng(1)) for b in (0.5, 1.5, 3.0))
    ]
    assert heard[0] > heard[1] > heard[2]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_corpus(tmp_path_factory.mktemp("corpus"), n_tracks=12, n_val=4)


def recipe(**changes):
    base = EmbeddingRecipe(
        "small",
        model={"longest": 9, "n_layers": 1, "n_heads": 2, "hidden": 32, "feed_forward": 32},
        clips=ClipConfig(n_vectors=13, n_versions=3, simulated_rooms=0, room_variants=0),
        pieces=PieceConfig(n_classes=8, n_pieces=4),
        optimiser=EmbeddingOptimiser(steps=6, warmup=2),
    )
    return dataclasses.replace(base, **changes)


def options(corpus, folder, **changes):
    return RunOptions((corpus,), folder, corpus / "cache", threads=1, **changes)


def test_clips_do_not_overlap_and_versions_resemble_their_clip(corpus, tmp_path):
    runs = load_runs(recipe(), options(corpus, tmp_path), "train")
    n_clips, n_versions, n_vectors, dim = runs.values.shape
    assert (n_versions, n_vectors, dim) == (4, 13, 128)
    assert n_clips >= len(set(runs.files.tolist())) == 8
    clean, heard = (runs.vectors(np.arange(n_clips), v) for v in (0, 1))
    assert np.abs(np.linalg.norm(clean, axis=2) - 1).max() < 0.02
    own = np.einsum("cvd,cvd->cv", clean, heard).mean()
    others = np.einsum("cvd,cvd->cv", clean, np.roll(heard, n_clips // 2, axis=0)).mean()
    assert own > others + 0.1


def test_computing_runs_goes_on_where_it_stopped(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("spolia.training.runs.CHUNK", 4)
    whole = load_runs(recipe(seed=1), options(corpus, tmp_path), "train")
    other = dataclasses.replace(options(corpus, tmp_path), cache=tmp_path / "cache")
    made = []

    def stop(*of, _versions=__import__("spolia.training.runs").training.runs._versions):
        made.append(1)
        if len(made) == 2:
            raise KeyboardInterrupt
        return _versions(*of)

    monkeypatch.setattr("spolia.training.runs._versions", stop)
    with pytest.raises(KeyboardInterrupt):
        load_runs(recipe(seed=1), other, "train")
    again = load_runs(recipe(seed=1), other, "train")
    assert len(made) == 1 + -(-len(whole.values) // 4)
    np.testing.assert_array_equal(whole.values, again.values)


@pytest.mark.parametrize("loss", ["pam", "info_nce", "triplet", "imitation"])
def test_resuming_gives_the_same_weights(corpus, tmp_path, loss):
    optimiser = EmbeddingOptimiser(steps=6, warmup=2, imitation=float(loss == "imitation"))
    wanted = recipe(loss="pam" if loss == "imitation" else loss, optimiser=optimiser)
    train_embedding(wanted, options(corpus, tmp_path / "whole"), lambda _: None)
    train_embedding(wanted, options(corpus, tmp_path / "parts", stop_after=0.0), lambda _: None)
    assert load_checkpoint(tmp_path / "parts" / "checkpoint.pt")["step"] == 1
    train_embedding(wanted, options(corpus, tmp_path / "parts"), lambda _: None)
    whole, parts = (load_checkpoint(tmp_path / n / "checkpoint.pt") for n in ("whole", "parts"))
    assert whole["step"] == parts["step"] == 6
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, parts["model"][name]), name


def test_gradients_of_proxies_are_checked_and_clipped_as_those_of_the_model(corpus, tmp_path):
    run = EmbeddingRun(recipe(), options(corpus, tmp_path))
    weight = run.proxies.weight
    moved = [*run.model.parameters(), weight]
    before = [of.detach().clone() for of in moved]
    hook = weight.register_hook(lambda gradient: gradient * float("nan"))
    run.advance(lambda _: None)
    assert all(torch.equal(of, was) for of, was in zip(moved, before, strict=True))
    hook.remove()
    weight.register_hook(lambda gradient: gradient * 1e6)
    run.advance(lambda _: None)
    norm = torch.stack([of.grad.norm() for of in moved if of.grad is not None]).norm()
    assert float(norm) <= run.recipe.optimiser.clip * 1.001
    assert not torch.equal(weight, before[-1])


def test_training_lowers_the_loss_and_finds_clips(corpus, tmp_path):
    wanted = recipe(optimiser=EmbeddingOptimiser(steps=60, warmup=5))
    entries = []
    train_embedding(wanted, options(corpus, tmp_path, validate_every=60), entries.append)
    losses = [e["loss"] for e in entries]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])
    assert entries[-1]["val_top1_9"] >= 0.5  # chance is below one in twelve


def test_wrong_recipes_are_named(corpus, tmp_path):
    with pytest.raises(TrainingError, match="unknown loss 'hope'"):
        EmbeddingRun(recipe(loss="hope"), options(corpus, tmp_path))
    with pytest.raises(TrainingError, match="raise n_vectors"):
        EmbeddingRun(recipe(model={"longest": 40}), options(corpus, tmp_path))
    train_embedding(recipe(), options(corpus, tmp_path, stop_after=0.0), lambda _: None)
    with pytest.raises(TrainingError, match="another version of the recipe"):
        EmbeddingRun(recipe(loss="triplet"), options(corpus, tmp_path))


def test_fewer_classes_are_an_even_spread_of_the_clips():
    values = np.arange(10, dtype=np.int8)[:, None, None, None].repeat(2, 1)
    all_runs = Runs(values, np.arange(10), np.arange(10) // 2)
    assert thinned(all_runs, 10) is all_runs
    fewer = thinned(all_runs, 4)
    assert fewer.values[:, 0, 0, 0].tolist() == fewer.groups.tolist() == [0, 3, 6, 9]
    assert fewer.files.tolist() == [0, 1, 3, 4]
