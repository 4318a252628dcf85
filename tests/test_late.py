"""Nodes that are trained to find theirs in other windows."""

from __future__ import annotations

import dataclasses
import json

import pytest

torch = pytest.importorskip("torch", reason="needs the extra train")

from spolia.errors import TrainingError
from spolia.sample_agreement import BESIDE, RARE, SOFTENING
from spolia.training.fingerprint import Run, train
from spolia.training.initial import load_checkpoint
from spolia.training.late import mixture_contrast, rare_agreement
from spolia.training.recipe import (
    DataConfig,
    LateConfig,
    OptimiserConfig,
    Recipe,
    SamplingConfig,
    load_recipe,
)
from spolia.training.running import RunOptions

pytestmark = pytest.mark.filterwarnings("ignore")

N_ROWS, N_COLUMNS, DIM = 4, 3, 8
RECIPE = Recipe(
    "late-tiny",
    architecture="sample",
    model={"channels": [4, 4, 8, 12], "hidden": 12, "dim": 8, "node_dim": 6},
    data=DataConfig(n_rows=8, n_segments=1, offset=0.2, context=0.0, simulated_rooms=1),
    optimiser=OptimiserConfig(steps=4, warmup=1, learning_rate=1e-2),
    sampling=SamplingConfig(use=True),
    late=LateConfig(share=0.5),
)


@pytest.fixture
def options(corpus, tmp_path):
    return RunOptions((corpus,), tmp_path / "run", tmp_path / "cache", "cpu", 1)


def windows(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, N_ROWS * N_COLUMNS, DIM, generator=generator)


def most_similar(one, other, row, column):
    """Return a node's largest cosine around its place in a window, by the definition."""
    own = torch.nn.functional.normalize(one, dim=1).reshape(N_ROWS, N_COLUMNS, DIM)[row, column]
    grid = torch.nn.functional.normalize(other, dim=1).reshape(N_ROWS, N_COLUMNS, DIM)
    return max(
        float(own @ grid[r, c]) * (1.0 if c == column else BESIDE)
        for r in range(max(0, row - 1), min(N_ROWS, row + 2))
        for c in range(max(0, column - 1), min(N_COLUMNS, column + 2))
    )


def test_agreement_is_that_of_the_definition():
    asking, asked = windows(5, 1), windows(30, 2)
    asked[7] = asking[3]
    expected = torch.zeros(5, 30)
    for row in range(N_ROWS):
        for column in range(N_COLUMNS):
            similar = torch.tensor(
                [[most_similar(one, other, row, column) for other in asked] for one in asking]
            )
            mean, deviation = similar.mean(1, keepdim=True), similar.std(1, keepdim=True)
            rarity = (similar - mean) / (deviation + SOFTENING[0]) - RARE
            expected += 0.25 * torch.nn.functional.softplus(4 * rarity)
    found = rare_agreement(asking, asked, n_columns=N_COLUMNS)
    assert torch.allclose(found, expected, atol=1e-4)
    assert int(found[3].argmax()) == 7
    assert torch.allclose(rare_agreement(3 * asking, 0.1 * asked, n_columns=N_COLUMNS), found)


def test_a_window_is_found_under_a_bed_that_hides_most_of_it():
    clean, heard = windows(40, 1), windows(40, 2)
    heard[:, :4] = clean[:, :4]  # a third of the nodes is as it was
    found = rare_agreement(heard, clean, n_columns=N_COLUMNS)
    assert torch.equal(found.argmax(1), torch.arange(40))


def test_the_gradient_reaches_all_nodes_and_is_that_without_recomputing(monkeypatch):
    asking, asked = windows(6, 1).requires_grad_(), windows(6, 2).requires_grad_()

    def gradients():
        total = rare_agreement(asking, asked, n_columns=N_COLUMNS).square().sum()
        return torch.autograd.grad(total, (asking, asked))

    found = gradients()
    assert all(g.abs().amax(2).gt(0).float().mean() > 0.9 for g in found)
    monkeypatch.setattr("spolia.training.late.checkpoint", lambda f, *given, **options: f(*given))
    for one, other in zip(found, gradients(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_both_windows_of_a_mixture_are_right_and_kin_are_no_rivals():
    agreement = torch.randn(5, 5, generator=torch.Generator().manual_seed(1))
    groups, others = torch.tensor([0, 1, 2, 0, 3]), torch.tensor([1, 2, 4, 0, 3])

    def related(mixture, window):
        return groups[window] in (groups[mixture], groups[others[mixture]])

    losses = []
    for row in range(5):
        for mixture, window in ((row, row), (row, int(others[row]))):
            own = agreement[mixture, window].exp()
            of_mixture = sum(
                agreement[mixture, j].exp() for j in range(5) if not related(mixture, j)
            )
            of_window = sum(agreement[i, window].exp() for i in range(5) if not related(i, window))
            losses += [(1 + of_mixture / own).log(), (1 + of_window / own).log()]
    expected = torch.stack(losses).mean()
    assert torch.allclose(mixture_contrast(agreement, groups, others), expected, atol=1e-5)


def test_a_run_trains_nodes_beside_vectors_and_tells_how_well(options):
    recipe = dataclasses.replace(RECIPE, optimiser=dataclasses.replace(RECIPE.optimiser, chunk=6))
    before = Run(recipe, options).average.state_dict()
    begun = {name: value.clone() for name, value in before.items()}
    made = train(recipe, dataclasses.replace(options, validate_every=2), lambda entry: None)
    state = load_checkpoint(made)["average"]
    moved = {name for name, value in state.items() if not torch.equal(value, begun[name])}
    assert {"shorten.weight", "trunk.0.conv.weight", "head.2.weight"} <= moved
    lines = (options.folder / "log.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert all(entry["loss"] > 0 for entry in entries)
    assert 0.0 <= [e for e in entries if "val_late" in e][-1]["val_late"] <= 1.0


@pytest.mark.parametrize(
    "change",
    [
        {"model": {**RECIPE.model, "node_dim": 0}},
        {"sampling": SamplingConfig()},
    ],
)
def test_what_has_no_short_nodes_is_refused_in_a_sentence(options, change):
    with pytest.raises(TrainingError, match=r"^late-tiny: \[late\] trains short nodes on mixtures"):
        Run(dataclasses.replace(RECIPE, **change), options)


def test_a_recipe_says_so(tmp_path):
    path = tmp_path / "late.toml"
    path.write_text('architecture = "sample"\n[late]\nshare = 0.5\ntemperature = 2.0\n')
    assert load_recipe(path).late == LateConfig(0.5, 2.0)
