"""Laws of the networks of sample identification: graph, residual, cross-attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("onnx", reason="needs the extra train")

from fakes import tune
from spolia.audio import Audio
from spolia.encoders import Encoder
from spolia.errors import ModelError, TrainingError
from spolia.fingerprints.samples import SampleFingerprinter
from spolia.networks.architectures import build_encoder
from spolia.networks.cross_attention import (
    SIZES,
    CrossAttentionClassifier,
    CrossAttentionConfig,
)
from spolia.networks.graph_encoder import (
    DropPath,
    GraphBlock,
    GraphEncoder,
    GraphEncoderConfig,
    gathered,
    largest_rise,
    nearest,
)
from spolia.networks.resnet import InstanceBatchNorm, resnet
from spolia.networks.sample_resnet import SampleResnet, SampleResnetConfig
from spolia.training.caching import backward_in_chunks
from spolia.training.classifying import ClassifierRecipe, build_classifier
from spolia.training.export import export_encoder
from spolia.training.losses import nt_xent
from spolia.training.recipe import load_recipe, read_recipe

pytestmark = pytest.mark.filterwarnings("ignore")

RECIPES = sorted((Path(__file__).parent.parent / "benchmarks/recipes/samples").glob("*.toml"))
CLASSIFIERS = [path for path in RECIPES if path.stem.startswith("classifier-")]
GRAPH = GraphEncoderConfig(
    channels=(8, 16, 16, 32),
    n_blocks=(1, 1, 1, 1),
    halved=("time", "band", "time"),
    projected=32,
    pooling="generalised",
    hidden=48,
    dim=16,
    drop_path=0.0,
)
KINDS = {
    "graph": lambda: GraphEncoder(GRAPH),
    "resnet": lambda: SampleResnet(SampleResnetConfig(n_blocks=(1, 1, 1, 1), width=8, dim=16)),
}


def n_parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.fixture(params=KINDS)
def encoder(request):
    torch.manual_seed(0)
    return KINDS[request.param]().eval()


@pytest.fixture(scope="module")
def spectrogram():
    """Return log power of four tunes [shape=(4, 144, 200)]."""
    sounds = np.stack([tune(i, 6.6, 16000).samples for i in range(4)])
    return GraphEncoder(GRAPH).log_bands(torch.from_numpy(sounds))[:, :, :200]


# -- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "settings", "expected"),
    [
        # published: 20,218,888; 960 more in larger patches, and without 27,392 that do nothing
        # beside a batch norm (biases before one, and a second norm of each sum)
        ("graph", {"size": "as-printed"}, 20_218_888 + 960 - 27_392),
        ("graph", {"size": "as-printed", "graph": False}, 18_275_528),
        ("graph", {"size": "nano"}, 2_209_889),
        ("graph", {"size": "nano", "graph": False}, 1_970_273),
        ("graph", {"size": "nano", "centred": True}, 2_209_889 + 512),
        # ResNet-50 without its classes: 23,508,032 on three channels, 23,501,760 on one
        ("sample-resnet", {"size": "resnet50"}, 23_501_760 + 1 + 4096 + 262_272),
        ("sample-resnet", {"size": "small"}, 3_418_089),
    ],
)
def test_sizes(architecture, settings, expected):
    assert n_parameters(build_encoder(architecture, settings)) == expected


def test_the_published_classifier_has_its_positions_learned_and_no_bias_of_keys():
    published, positions, key_bias = 1_116_417, 32 * 512, 512
    network = CrossAttentionClassifier(CrossAttentionConfig())
    assert n_parameters(network) == published + positions - key_bias
    nano = CrossAttentionClassifier(CrossAttentionConfig(**SIZES["nano"]))
    assert n_parameters(nano) == 127_617


def test_instance_norms_change_no_number_of_parameters():
    plain, _ = resnet((3, 4, 6, 3), bottleneck=True)
    ibn, _ = resnet((3, 4, 6, 3), bottleneck=True, n_ibn=3, last_stride=1)
    assert n_parameters(plain) == n_parameters(ibn) == 23_501_760
    assert sum(isinstance(m, InstanceBatchNorm) for m in ibn.modules()) == 3 + 4 + 6


def test_half_of_the_channels_forget_their_level():
    norm = InstanceBatchNorm(6).eval()
    x = torch.randn(2, 6, 5, 4, generator=torch.Generator().manual_seed(0))
    louder = norm(3 * x + 2)
    assert torch.allclose(louder[:, :3], norm(x)[:, :3], atol=1e-4)
    assert not torch.allclose(louder[:, 3:], norm(x)[:, 3:], atol=0.1)


def test_wrong_settings_are_named():
    with pytest.raises(TrainingError, match="unknown size 'huge'; known: as-printed, nano"):
        build_encoder("graph", {"size": "huge"})
    with pytest.raises(TrainingError, match="no setting 'size'"):
        build_encoder("sample", {"size": "nano"})
    with pytest.raises(TrainingError, match="choose mean or generalised"):
        build_encoder("graph", {"pooling": "max"})
    with pytest.raises(TrainingError, match="give 3 times time or band"):
        build_encoder("graph", {"halved": ["time"]})
    with pytest.raises(TrainingError, match="lower n_neighbours"):
        build_encoder("graph", {"n_neighbours": 20})
    with pytest.raises(TrainingError, match="no multiple of n_heads"):
        CrossAttentionConfig(width=10)


@pytest.mark.parametrize("path", CLASSIFIERS, ids=lambda p: p.stem)
def test_recipes_of_classifiers_fit_their_encoders(path):
    recipe = read_recipe(path, ClassifierRecipe)
    encoder = load_recipe(path.with_name(f"{Path(recipe.encoder).parent.name}.toml"))
    network = build_encoder(encoder.architecture, encoder.model)
    classifier = build_classifier(recipe.model, network.eval())
    size = CrossAttentionConfig(**SIZES[recipe.model["size"]])
    assert classifier.config == size


@pytest.mark.parametrize("path", sorted({*RECIPES} - {*CLASSIFIERS}), ids=lambda p: p.stem)
def test_recipes_build_what_they_name(path):
    recipe = load_recipe(path)
    network = build_encoder(recipe.architecture, recipe.model)
    assert recipe.name == path.stem
    assert recipe.sampling.use
    if recipe.architecture == "graph":
        assert network.config.graph == ("-off" not in path.stem)


# -- windows --------------------------------------------------------------------------------------


def test_a_window_is_four_seconds_and_steps_half_a_second(encoder):
    config = encoder.config
    assert config.segment_samples / 16000 == pytest.approx(4.192)
    assert config.hop_samples / 16000 == pytest.approx(0.512)
    sound = torch.from_numpy(tune(0, 6.0, 16000).samples)[None]
    vectors, nodes = encoder(sound), encoder.nodes(encoder.log_bands(sound))
    n = 1 + (sound.shape[1] - config.segment_samples) // config.hop_samples
    assert vectors.shape == (1, n, 16)
    assert nodes.shape[:2] == (1, n)
    assert torch.allclose(vectors.norm(dim=2), torch.ones(1, n), atol=1e-5)


def test_windows_are_those_of_unfold(encoder, spectrogram):
    hop, size = encoder.config.hop_frames, encoder.config.segment_frames
    expected = spectrogram.unfold(2, size, hop).transpose(1, 2)
    assert torch.equal(encoder.cut(spectrogram), expected)


def test_a_vector_is_that_of_its_window_alone(encoder, spectrogram):
    together = encoder.embed(spectrogram)
    assert torch.allclose(encoder.embed(spectrogram[2:3]), together[2:3], atol=1e-5)
    window = spectrogram[1:2, :, 32 : 32 + 128]
    assert torch.allclose(encoder.embed(window)[0, 0], together[1, 2], atol=1e-5)
    assert not torch.allclose(together[0, 0], together[1, 0], atol=1e-4)


def test_silence_is_finite(encoder):
    assert torch.isfinite(encoder(torch.zeros(1, 80000))).all()
    assert torch.isfinite(encoder.nodes(torch.zeros(1, 144, 128))).all()
    loss = encoder.train()(torch.zeros(2, 80000))[..., 0].sum()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters())


def test_gain_changes_little(encoder, spectrogram):
    louder = encoder.embed(spectrogram + 2.0)
    assert (louder * encoder.embed(spectrogram)).sum(-1).min() > 0.999


# -- learning -------------------------------------------------------------------------------------


def contrast(network, spectrogram):
    """Return the loss of windows against louder, noisier versions of themselves."""
    windows = spectrogram[:, :, :128]
    noisy = windows + 3 * torch.randn(windows.shape, generator=torch.Generator().manual_seed(3))
    vectors = network.embed(torch.cat([windows, noisy]))[:, 0]
    return nt_xent(vectors[:4], vectors[4:], torch.arange(4), 0.1)


@pytest.mark.parametrize(
    "make",
    [
        *KINDS.values(),
        lambda: build_encoder("graph", {"size": "nano", "centred": True}),
        lambda: build_encoder("graph", {"size": "nano", "graph": False}),
        lambda: build_encoder("graph", {"size": "as-printed"}),
    ],
    ids=[*KINDS, "nano", "nano-off", "as-printed"],
)
def test_a_gradient_reaches_every_parameter(make, spectrogram):
    """In the authors' code none reaches the graph: blocks return their input."""
    torch.manual_seed(0)
    network = make().train()
    contrast(network, spectrogram).backward()
    for name, parameter in network.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert float(parameter.grad.abs().max()) > 1e-7, name


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_can_be_learnt_by_heart(kind, spectrogram):
    torch.manual_seed(0)
    network = KINDS[kind]().train()
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(200):  # rounding, and with it the processor, decides how many it takes
        optimiser.zero_grad()
        loss = contrast(network, spectrogram)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
        if losses[-1] < 0.02:
            break
    assert losses[-1] < 0.02 < 0.1 < losses[0]


def test_what_drops_out_drops_out_of_both_passes_of_a_chunked_batch():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
    seen = []

    def embed(rows):
        seen.append(network(rows))
        return seen[-1]

    backward_in_chunks(network, embed, torch.ones(6, 4), lambda v: v.square().sum(), 2)
    assert len(seen) == 6
    for without_graph, with_graph in zip(seen[:3], seen[3:], strict=True):
        assert torch.equal(without_graph, with_graph)


# -- the graph ------------------------------------------------------------------------------------


@pytest.fixture
def points():
    return torch.randn(3, 20, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("self_loops", [True, False])
def test_neighbours_are_the_nearest_of_the_same_row(points, dilation, self_loops):
    found = nearest(points, 4, dilation, self_loops=self_loops)
    distance = torch.cdist(points, points)
    order = distance.argsort(dim=2)[:, :, 0 if self_loops else 1 :]
    assert torch.equal(found, order[:, :, : 4 * dilation : dilation])
    itself = torch.arange(20)[:, None]
    assert bool((found == itself).any()) == self_loops
    if self_loops:
        assert torch.equal(found[:, :, :1], itself.expand(3, 20, 1))
    alone = nearest(points[1:2], 4, dilation, self_loops=self_loops)
    assert torch.equal(alone, found[1:2])


def test_the_largest_rise_equals_its_definition(points):
    neighbours = nearest(points, 3, 1, self_loops=False)
    found = largest_rise(points, neighbours)
    for row in range(3):
        for node in range(20):
            rises = points[row, neighbours[row, node]] - points[row, node]
            assert torch.allclose(found[row, node], rises.max(0).values)
    assert gathered(points, neighbours).shape == (3, 20, 3, 6)


def test_dropped_neighbours_are_not_asked_but_the_nearest_always_is(points):
    neighbours = nearest(points, 5, 1, self_loops=False)
    nothing_else = largest_rise(points, neighbours, dropout=1.0)
    assert torch.allclose(nothing_else, largest_rise(points, neighbours[:, :, :1]))


def test_a_left_out_branch_leaves_the_expected_value():
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 2, 1, 1)
    rows = drop.train()(x)[:, :, 0, 0]
    assert torch.equal(rows[:, 0], rows[:, 1])
    assert rows.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert float(rows.mean()) == pytest.approx(1.0, abs=0.05)
    assert drop.eval()(x) is x


def block(**settings):
    torch.manual_seed(0)
    config = GraphEncoderConfig(**{"n_neighbours": 3, **settings})
    return GraphBlock(8, 1, 0.0, config).eval()


@pytest.mark.parametrize("graph", [True, False])
def test_a_node_hears_of_its_neighbours_only_through_the_graph(graph):
    network = block(graph=graph)
    x = torch.randn(1, 8, 4, 4, generator=torch.Generator().manual_seed(2)).relu()
    projected = network.grapher[0](x).flatten(2).transpose(1, 2)
    neighbours = nearest(projected, 3, 1, self_loops=True)[0, 5].tolist()
    changed = x.clone().flatten(2)
    changed[:, :, neighbours[1:]] += 0.05  # too little to make others the nearest
    before, after = network(x).flatten(2), network(changed.reshape(x.shape)).flatten(2)
    assert torch.allclose(before[0, :, 5], after[0, :, 5], atol=1e-6) == (not graph)
    untouched = [i for i in range(16) if i not in neighbours]
    if not graph:
        assert torch.allclose(before[0, :, untouched], after[0, :, untouched], atol=1e-6)


def test_the_order_of_nodes_changes_neither_blocks_nor_the_vector():
    rng = torch.Generator().manual_seed(4)
    x, order = torch.randn(2, 8, 4, 4, generator=rng), torch.randperm(16, generator=rng)

    def mixed(grid):
        return grid.flatten(2)[:, :, order].reshape(grid.shape)

    network = block()
    assert torch.allclose(network(mixed(x)), mixed(network(x)), atol=1e-5)
    encoder = GraphEncoder(GRAPH).eval()
    grid = torch.randn(2, 32, *GRAPH.grid, generator=rng)
    order = torch.randperm(GRAPH.n_nodes, generator=rng)
    assert torch.allclose(encoder.pooled(mixed(grid)), encoder.pooled(grid), atol=1e-6)


def test_nodes_know_their_place():
    """The same sound in another place of the window gives another node."""
    network = GraphEncoder(GRAPH).eval()
    nodes = network.patches(torch.ones(1, 1, 144, 128))[0].flatten(1).T
    assert torch.pdist(nodes).min() > 1e-4


# -- the classifier -------------------------------------------------------------------------------


def classifier(**settings):
    torch.manual_seed(0)
    known = {"dim_in": 12, "n_nodes": 9, "width": 8, "n_heads": 2, "hidden": 16}
    return CrossAttentionClassifier(CrossAttentionConfig(**{**known, **settings}))


PLAIN, NANO = {"width": 12}, {"compared": True, "both_ways": True}


@pytest.fixture
def pairs():
    rng = torch.Generator().manual_seed(5)
    return torch.randn(6, 9, 12, generator=rng), torch.randn(6, 9, 12, generator=rng)


@pytest.mark.parametrize("settings", [PLAIN, NANO])
def test_the_logit_does_not_depend_on_order_or_batch(settings, pairs):
    network = classifier(**settings).eval()
    torch.nn.init.normal_(network.places)
    query, candidate = pairs
    logits = network(query, candidate)
    rng = torch.Generator().manual_seed(6)
    one, other = torch.randperm(9, generator=rng), torch.randperm(9, generator=rng)
    moved = network(query[:, one], candidate[:, other], one, other)
    assert torch.allclose(moved, logits, atol=1e-5)
    assert not torch.allclose(network(query[:, one], candidate), logits, atol=1e-4)
    assert torch.allclose(network(query[2:3], candidate[2:3]), logits[2:3], atol=1e-6)


def test_only_asking_both_ways_is_symmetric(pairs):
    query, candidate = pairs
    for settings, same in ((PLAIN, False), (NANO, True)):
        network = classifier(**settings).eval()
        forth, back = network(query, candidate), network(candidate, query)
        assert torch.allclose(forth, back, atol=1e-5) == same


@pytest.mark.parametrize("settings", [PLAIN, NANO])
def test_the_classifier_learns_pairs_by_heart_with_all_its_parameters(settings, pairs):
    network = classifier(dropout=0.0, **settings).train()
    query, candidate = pairs
    wanted = torch.tensor([1.0, 0, 1, 0, 1, 0])
    optimiser = torch.optim.Adam(network.parameters(), 1e-2)
    for step in range(150):
        optimiser.zero_grad()
        logits = network(query, candidate)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
        loss.backward()
        if step == 0:
            for name, parameter in network.named_parameters():
                assert float(parameter.grad.abs().max()) > 1e-7, name
        optimiser.step()
    assert float(loss) < 0.02


# -- model files ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_file_gives_the_vectors_and_nodes_of_torch(kind, spectrogram, tmp_path):
    torch.manual_seed(0)
    network = KINDS[kind]().train()
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = None  # the mean of all steps, however few
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for step in range(100):  # vectors that differ
        optimiser.zero_grad()
        loss = contrast(network, spectrogram)
        loss.backward()
        optimiser.step()
        if step >= 20 and float(loss.detach()) < 0.1:
            break
    network.eval()
    card = export_encoder(network, tmp_path / "net.onnx", name=kind, training={})
    assert (card.kind, card.margin, card.dim) == ("sample", 0, 16)
    encoder = Encoder(tmp_path / "net.onnx")
    sound = np.stack([tune(i, 9.0, 16000).samples for i in range(3)])
    with torch.no_grad():
        expected = network(torch.from_numpy(sound)).flatten(0, 1).numpy()
        nodes = network.nodes(network.log_bands(torch.from_numpy(sound))).numpy()
    found = encoder.encode(sound).reshape(expected.shape)
    assert (found * expected).sum(1).min() > 0.999
    wanted, order = (v @ v.T for v in (expected, found))
    gap = wanted[:, :, None] - wanted[:, None, :]
    clear = gap > 5e-3
    assert clear.mean() > 0.1  # or the order would mean nothing
    assert ((order[:, :, None] - order[:, None, :])[clear] > 0).all()
    away = np.abs(encoder.nodes(sound) - nodes)  # of two neighbours equally near either may do
    assert np.quantile(away, 0.999) < 0.02 * np.abs(nodes).max()
    assert np.isfinite(encoder.encode(np.zeros((1, 80000), np.float32))).all()
    long = np.tile(sound.reshape(1, -1), 3)[0]
    whole = encoder.encode(long[None])[0]
    blocks = SampleFingerprinter(encoder).fingerprint(Audio(long, 16000))
    assert np.abs(blocks.values[: len(whole)] - whole[: len(blocks)]).max() < 1e-3
    assert len(SampleFingerprinter(encoder).fingerprint_query(Audio(long[:32000], 16000))) == 1


def test_a_model_without_nodes_says_so(tmp_path):
    from spolia.networks.segment_encoder import SegmentEncoder, SegmentEncoderConfig

    small = SegmentEncoderConfig(channels=(4, 4, 4, 4), n_blocks=(0, 0, 0, 0), hidden=8, dim=8)
    network = SegmentEncoder(small).eval()
    export_encoder(network, tmp_path / "net.onnx", name="net", training={})
    with pytest.raises(ModelError, match="gives vectors alone"):
        Encoder(tmp_path / "net.onnx").nodes(np.zeros((1, 80000), np.float32))
