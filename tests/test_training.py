"""Training: losses by hand, degradation's laws, resuming, and that it learns."""

from __future__ import annotations

import dataclasses
import json
import math
from itertools import groupby

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra train")

from spolia.corpus import CorpusFile, is_device
from spolia.encoders import Encoder
from spolia.errors import TrainingError
from spolia.networks.front_end import FrontEndConfig, LogBands
from spolia.networks.nafp import LogMel, MelConfig
from spolia.training.batches import BatchMaker, plan
from spolia.training.caching import backward_in_chunks
from spolia.training.degrade import DegradeConfig, Degrader, Responses, follow, normalise
from spolia.training.export import export_checkpoint
from spolia.training.fingerprint import Run, train
from spolia.training.generator import generate_many
from spolia.training.initial import load_checkpoint
from spolia.training.losses import nt_xent, semi_hard_triplet, similarity_distillation
from spolia.training.pool import AudioPool
from spolia.training.recipe import Recipe, build, load_recipe
from spolia.training.responses import response_bank, trim, vary
from spolia.training.running import RunOptions, learning_rate
from spolia.training.warp import MaskConfig, WarpConfig, draw_factors, mask, warp

CPU = torch.device("cpu")
SMALL = {
    "name": "small",
    "model": {"channels": [8, 16, 16, 32], "hidden": 64, "dim": 16},
    "data": {"n_rows": 8, "n_segments": 2, "simulated_rooms": 0},
    "optimiser": {"steps": 6, "warmup": 2, "learning_rate": 2e-3, "mixed_precision": False},
}


def options(corpus, folder, **changes):
    return RunOptions((corpus,), folder, corpus / "cache", threads=1, **changes)


def small(**optimiser):
    values = json.loads(json.dumps(SMALL))
    values["optimiser"] |= optimiser
    return build(Recipe, values, "test")


def test_nt_xent_equals_the_definition():
    rng = np.random.default_rng(0)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 5, 8)))
    groups = np.array([0, 1, 2, 2, 3])  # rows 2 and 3 share material
    both, tau, total = np.concatenate([a, b]), 0.1, 0.0
    for i in range(10):
        partner = (i + 5) % 10
        others = [j for j in range(10) if groups[j % 5] != groups[i % 5]]
        terms = [math.exp(both[i] @ both[j] / tau) for j in (*others, partner)]
        total -= math.log(terms[-1] / sum(terms))
    found = nt_xent(*map(torch.from_numpy, (a, b, groups)), tau)
    assert float(found) == pytest.approx(total / 10, rel=1e-5)


def test_the_triplet_loss_equals_the_definition():
    rng = np.random.default_rng(1)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in rng.normal(size=(2, 9, 4)))
    b = a + 0.6 * b
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    groups = np.array([0, 1, 2, 2, 3, 4, 5, 6, 7])
    both, total, kinds = np.concatenate([a, b]), 0.0, set()
    for i in range(9):
        positive = np.square(a[i] - b[i]).sum()
        negatives = [
            np.square(a[i] - both[j]).sum() for j in range(18) if groups[j % 9] != groups[i]
        ]
        beyond = [d for d in negatives if d > positive]
        kinds.add(bool(beyond))
        total += max(0.0, positive - (min(beyond) if beyond else max(negatives)) + 0.5)
    found = semi_hard_triplet(*map(torch.from_numpy, (a, b, groups)), 0.5)
    assert float(found) == pytest.approx(total / 9, rel=1e-5)
    assert total > 0
    assert True in kinds


def test_a_batch_of_one_group_has_a_triplet_loss_of_zero_and_not_nan():
    rng = torch.Generator().manual_seed(0)
    anchors, positives = (torch.randn(4, 8, generator=rng, requires_grad=True) for _ in range(2))
    loss = semi_hard_triplet(anchors, positives, torch.zeros(4, dtype=torch.long), 0.5)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert not anchors.grad.any()
    assert not positives.grad.any()


def test_distillation_equals_the_definition_and_ends_at_the_teacher():
    rng = np.random.default_rng(2)
    student, teacher = (
        x / np.linalg.norm(x, axis=1, keepdims=True)
        for x in (rng.normal(size=(6, 3)), rng.normal(size=(6, 8)))
    )
    total = 0.0
    for i in range(6):
        others = [j for j in range(6) if j != i]
        p, q = (np.exp(v[i] @ v[others].T / tau) for v, tau in ((teacher, 0.2), (student, 0.1)))
        p, q = p / p.sum(), q / q.sum()
        total += (p * np.log(p / q)).sum()
    found = similarity_distillation(*map(torch.from_numpy, (student, teacher)), 0.1, 0.2)
    assert float(found) == pytest.approx(total / 6, rel=1e-5)
    turned = teacher @ np.linalg.qr(rng.normal(size=(8, 8)))[0]  # another basis, same similarities
    same = similarity_distillation(*map(torch.from_numpy, (turned, teacher)), 0.1, 0.1)
    assert float(same) == pytest.approx(0.0, abs=1e-6)


def test_perfect_pairs_lose_less_than_random_ones():
    x = torch.nn.functional.normalize(
        torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    )
    groups = torch.arange(16)
    assert nt_xent(x, x, groups, 0.05) < nt_xent(x, x.roll(1, 0), groups, 0.05)


def degrader(**changes):
    off = {f.name: 0.0 for f in dataclasses.fields(DegradeConfig) if f.type == "float"}
    identity = torch.zeros(1, 100)
    identity[0, 0] = 1
    spectra = torch.fft.rfft(identity, 32768)
    config = DegradeConfig(**{**off, **changes})
    return Degrader(config, Responses(spectra, spectra), sample_rate=8000, n_fft=32768)


@pytest.fixture
def signal():
    return 0.2 * torch.randn(4, 30000, generator=torch.Generator().manual_seed(1))


def test_all_parts_off_changes_nothing_but_the_level(signal):
    rng = torch.Generator().manual_seed(0)
    degraded = degrader()(signal, signal.flip(1), 8000, rng)
    assert torch.allclose(degraded, normalise(signal[:, 8000:]), atol=1e-4)


@pytest.mark.parametrize("snr_db", [0.0, 10.0])
def test_noise_has_the_stated_level(signal, snr_db):
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 30000, generator=rng)
    noisy = degrader(noise=1.0, snr_db=(snr_db, snr_db + 1e-6))(signal, noise, 8000, rng)
    clean = normalise(signal[:, 8000:])
    share = torch.nn.functional.cosine_similarity(noisy, clean, dim=1)
    expected = 1 / math.sqrt(1 + 10 ** (-snr_db / 10))
    assert torch.allclose(share, torch.full_like(share, expected), atol=0.03)


def test_a_room_rings_on_from_the_context(signal):
    """Sound that stopped before the segment is still heard in it."""
    response = torch.zeros(1, 6000)
    response[0, 0], response[0, 4000] = 1.0, 0.8
    spectra = torch.fft.rfft(response, 32768)
    config = dataclasses.replace(degrader().config, room=1.0)
    wet = Degrader(config, Responses(spectra, spectra), sample_rate=8000, n_fft=32768)
    sounding = signal.clone()
    sounding[:, 8000:] = 0
    degraded = wet(sounding, signal, 8000, torch.Generator().manual_seed(0))
    assert degraded[:, :3900].abs().mean() > 10 * degraded[:, 4100:].abs().mean()


@pytest.mark.parametrize(
    "part",
    [
        f.name
        for f in dataclasses.fields(DegradeConfig)
        if f.type == "float" and f.name != "equaliser_db"
    ],
)
def test_every_part_alone_is_finite_seeded_and_keeps_the_shape(signal, part):
    settings = {part: 1.0, "equaliser_db": 8.0}
    noise = torch.randn(4, 30000, generator=torch.Generator().manual_seed(2))
    first, again = (
        degrader(**settings)(signal, noise, 8000, torch.Generator().manual_seed(5))
        for _ in range(2)
    )
    assert first.shape == (4, 22000)
    assert torch.isfinite(first).all()
    assert torch.equal(first, again)


def test_silence_stays_finite():
    silent = torch.zeros(2, 30000)
    everything = {f.name: 1.0 for f in dataclasses.fields(DegradeConfig) if f.type == "float"}
    degraded = degrader(**everything)(silent, silent, 8000, torch.Generator().manual_seed(0))
    assert torch.isfinite(degraded).all()


def test_the_envelope_follows_the_level():
    signal = torch.cat([torch.full((1, 8000), 0.1), torch.full((1, 8000), 0.4)], dim=1)
    envelope = follow(signal, 400)
    assert envelope[0, 4000] == pytest.approx(0.1, abs=1e-3)
    assert envelope[0, 12000] == pytest.approx(0.4, abs=1e-3)


def tone(frequency, seconds=3.0):
    return 0.5 * torch.sin(2 * torch.pi * frequency * torch.arange(int(8000 * seconds)) / 8000)


def test_a_warped_spectrogram_equals_that_of_the_shifted_tone():
    config = FrontEndConfig()
    bands = LogBands(config)
    source = bands(tone(440.0)[None])
    semitones = torch.tensor([2.0])
    shifted = warp(source, semitones, torch.ones(1), n_frames=30, bands_per_octave=18)
    real = bands(tone(440.0 * 2 ** (2 / 12))[None])
    assert int(shifted.mean(2).argmax()) == int(real.mean(2).argmax())


def test_a_faster_tempo_shortens_the_time_axis():
    source = torch.zeros(1, 80, 91)
    source[:, :, 45 + 20] = 1.0  # 20 frames after the middle
    faster = warp(source, torch.zeros(1), torch.tensor([1.25]), n_frames=63, bands_per_octave=18)
    assert int(faster[0, 0].argmax()) == 31 + 16


def test_no_change_is_the_centre():
    source = torch.randn(3, 80, 73, generator=torch.Generator().manual_seed(0))
    same = warp(source, torch.zeros(3), torch.ones(3), n_frames=63, bands_per_octave=18)
    assert torch.allclose(same, source[:, :, 5:68], atol=1e-4)


def test_factors_stay_within_their_ranges():
    config = WarpConfig()
    semitones, tempo = draw_factors(2000, config, torch.zeros(1), torch.Generator().manual_seed(0))
    assert semitones.abs().max() <= config.semitones
    assert (tempo - 1).abs().max() <= config.tempo_change + 1e-6
    varispeed = (semitones != 0) & (tempo != 1)
    assert torch.allclose(semitones[varispeed], 12 * torch.log2(tempo[varispeed]), atol=1e-3)


def test_masks_cover_runs_only_where_drawn():
    x = torch.randn(50, 80, 63, generator=torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(1)
    off = MaskConfig(bands=0.0, time=0.0, holes=0.0)
    assert torch.equal(mask(x, off, rng), x)
    changed = (mask(x, MaskConfig(bands=1.0, time=0.0, holes=0.0), rng) != x).any(2).sum(1)
    assert changed.min() >= 1
    assert changed.max() <= MaskConfig().n_bands


@pytest.mark.parametrize(("front_end", "amplitude"), [(LogBands, False), (LogMel, True)])
def test_a_raised_floor_lies_as_many_decibels_below_the_loudest_band_as_stated(
    front_end, amplitude
):
    bands = front_end(FrontEndConfig() if front_end is LogBands else MelConfig())
    config = MaskConfig(bands=0.0, time=0.0, holes=1.0, holes_db=(3.0, 3.0))
    off = WarpConfig(pitch=0.0, speed=0.0, tempo=0.0)
    recipe = dataclasses.replace(small(), warp=off, mask=config)
    geometry = plan(recipe, bands, segment_frames=32, hop_frames=16)
    sound = (3000 * np.random.default_rng(0).normal(size=3 * 60000)).astype(np.int16)
    files = tuple(CorpusFile(n, "train", n, "train", "", "") for n in "abc")
    pool = AudioPool(sound, 60000 * np.arange(4), files, 8000)
    responses = response_bank([], [], n_fft=65536, longest=1000, lead=8, device=CPU)
    batches = BatchMaker(recipe, bands, geometry, responses, pool, pool, n_fft=65536, device=CPU)
    heard = batches.draw(0, seed=1).positives
    depth = heard.amax(1) - heard.amin(1)
    decibels = depth * 20 if amplitude else depth * 10 / math.log(10)
    torch.testing.assert_close(decibels, torch.full_like(decibels, 3.0), atol=1e-3, rtol=0)


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate(s, 100, 10, 1e-3) for s in range(100)]
    assert max(rates) == pytest.approx(1e-3)
    assert rates[0] < rates[9]
    assert rates[-1] < 2e-5


def test_the_same_seed_and_step_give_the_same_batch(corpus, tmp_path):
    run = Run(small(), options(corpus, tmp_path))
    first, again = run.batches.draw(3, seed=7), run.batches.draw(3, seed=7)
    other = run.batches.draw(4, seed=7)
    assert torch.equal(first.positives, again.positives)
    assert not torch.equal(first.positives, other.positives)
    assert len(set(first.groups.tolist())) == len(first.groups)


def test_validation_files_are_never_trained_on(corpus, tmp_path):
    run = Run(small(), options(corpus, tmp_path))
    assert len(run.batches.usable) == 8
    assert len(run.held_out.usable) == 4


def test_a_gradient_that_is_not_finite_moves_nothing(corpus, tmp_path):
    run = Run(small(), options(corpus, tmp_path))
    weight = next(run.model.parameters())
    before = weight.detach().clone()
    hook = weight.register_hook(lambda gradient: gradient * float("nan"))
    entries = []
    run.advance(entries.append)
    assert math.isnan(entries[0]["gradient_norm"])
    assert torch.equal(weight, before)
    hook.remove()
    run.advance(entries.append)
    assert math.isfinite(entries[1]["gradient_norm"])
    assert not torch.equal(weight, before)


def test_a_run_whose_gradients_stay_infinite_ends_with_a_reason(corpus, tmp_path):
    recipe = small(steps=30)
    run = Run(recipe, options(corpus, tmp_path))
    next(run.model.parameters()).register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match="step 10 .* mixed_precision = false"):
        run.run(lambda entry: None)
    assert not run.checkpoint.exists()


def test_a_loss_that_is_not_a_number_leaves_the_checkpoint_as_it_was(corpus, tmp_path):
    run = Run(small(), options(corpus, tmp_path))
    run.advance(lambda entry: None)
    run.save()
    kept = run.checkpoint.read_bytes()
    with torch.no_grad():
        next(run.model.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="loss of nan"):
        run.run(lambda entry: None)
    assert run.checkpoint.read_bytes() == kept


def test_resuming_gives_the_same_weights(corpus, tmp_path):
    train(small(), options(corpus, tmp_path / "whole"), lambda _: None)

    def stop(entry):
        if entry["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(small(), options(corpus, tmp_path / "parts"), stop)
    train(small(), options(corpus, tmp_path / "parts"), lambda _: None)
    whole, parts = (load_checkpoint(tmp_path / n / "checkpoint.pt") for n in ("whole", "parts"))
    assert whole["step"] == parts["step"] == 6
    for name, tensor in whole["average"].items():
        assert torch.equal(tensor, parts["average"][name]), name


def test_a_changed_recipe_does_not_continue(corpus, tmp_path):
    train(small(steps=2), options(corpus, tmp_path), lambda _: None)
    with pytest.raises(TrainingError, match="another version of the recipe"):
        Run(small(steps=3), options(corpus, tmp_path))


@pytest.mark.slow
def test_training_lifts_retrieval_above_chance(corpus, tmp_path):
    entries = []
    gentle = DegradeConfig(snr_db=(10.0, 20.0), room=0.2, microphone=0.0, telephone=0.0)
    recipe = dataclasses.replace(small(steps=150, warmup=5), degrade=gentle)
    train(recipe, options(corpus, tmp_path, validate_every=150), entries.append)
    assert np.mean([e["loss"] for e in entries[-5:]]) < 0.75 * np.mean(
        [e["loss"] for e in entries[:5]]
    )
    assert entries[-1]["val_n"] == 16
    assert entries[-1]["val_top1_run"] >= 6 / 16  # chance is 1 in 16
    logged = (tmp_path / "log.jsonl").read_text().splitlines()
    assert len(logged) == 150
    assert json.loads(logged[-1])["step"] == 150


def test_recipes_name_what_is_wrong(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text("[optimiser]\nlearnign_rate = 1.0\n")
    with pytest.raises(TrainingError, match="did you mean 'learning_rate'"):
        load_recipe(path)
    path.write_text("[optimiser]\nsteps = 'many'\n")
    with pytest.raises(TrainingError, match="steps: 'many' is not of type int"):
        load_recipe(path)
    path.write_text("not toml")
    with pytest.raises(TrainingError, match="not a readable TOML"):
        load_recipe(path)
    with pytest.raises(TrainingError, match="does not exist"):
        load_recipe(tmp_path / "none.toml")


def test_a_recipe_builds_on_another(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "base.toml").write_text(
        'name = "base"\nseed = 3\n[data]\nn_rows = 7\noffset = 0.5\n[model]\ndim = 64\n'
    )
    middle = tmp_path / "inner" / "middle.toml"
    middle.write_text('base = "../base.toml"\n[data]\nn_rows = 9\n')
    top = tmp_path / "inner" / "top.toml"
    top.write_text('base = "middle.toml"\nseed = 4\n[model.front_end]\nf_min = 160.0\n')
    recipe = load_recipe(top)
    assert (recipe.name, recipe.seed) == ("top", 4)
    assert (recipe.data.n_rows, recipe.data.offset) == (9, 0.5)
    assert recipe.model == {"dim": 64, "front_end": {"f_min": 160.0}}


def test_what_is_wrong_with_a_base_is_named(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text('base = "none.toml"\n')
    with pytest.raises(TrainingError, match=r"none.toml does not exist"):
        load_recipe(path)
    path.write_text("base = 3\n")
    with pytest.raises(TrainingError, match="base: 3 is not the name of a file"):
        load_recipe(path)
    (tmp_path / "s.toml").write_text('base = "r.toml"\n')
    path.write_text('base = "s.toml"\n')
    with pytest.raises(TrainingError, match="builds on itself"):
        load_recipe(path)


def test_a_missing_corpus_is_named(tmp_path):
    with pytest.raises(TrainingError, match="--corpus"):
        Run(small(), options(tmp_path / "nowhere", tmp_path / "run"))


def test_dropouts_are_short_silences_and_change_nothing_else(signal):
    rng = torch.Generator().manual_seed(0)
    quiet = torch.zeros_like(signal)
    whole = degrader()(signal, quiet, 8000, torch.Generator().manual_seed(0))
    holed = degrader(dropout=1.0)(signal, quiet, 8000, rng)
    lost = holed == 0
    assert 0.05 < float(lost.float().mean()) < 0.4
    torch.testing.assert_close(holed[~lost], whole[~lost])


def test_dropouts_last_at_least_60_ms_and_take_23_percent_of_a_clip():
    sound = torch.ones(200, 80000)
    holed = degrader(dropout=1.0)._drop(sound, torch.Generator().manual_seed(0))
    lost = holed[:, ::160] == 0  # blocks of 20 ms
    assert float(lost.float().mean()) == pytest.approx(1 - (11 / 12) ** 3, abs=0.01)
    lengths = []
    for row in lost.tolist():
        runs = [(is_lost, len(list(run))) for is_lost, run in groupby(row)]
        lengths += [n for is_lost, n in runs[1:-1] if is_lost]
    assert min(lengths) == 3
    assert max(lengths) > 9


def test_a_room_recorded_with_microphones_is_no_phone():
    def file(category):
        return CorpusFile("ir/a.flac", "train", "a", "train", "", category)

    assert is_device(file("phone"))
    assert is_device(file("guitar cabinet"))
    assert not is_device(file("warehouse, several microphones and distances"))


def decaying(rng, *, strongest=200, length=3200):
    response = rng.normal(size=length) * np.exp(-np.arange(length) / 400) * 0.1
    response[:strongest] *= 0.3
    response[strongest] = 1.0
    return response.astype(np.float32)


def test_the_strongest_arrival_of_a_trimmed_response_stands_at_the_lead():
    response = decaying(np.random.default_rng(0))
    for lead in (0, 8, 300):  # 300: more than the response has
        cut = trim(response, 2000, lead=lead)
        assert cut.shape == (2000,)
        assert int(np.abs(cut).argmax()) == lead
        assert float(np.square(cut).sum()) == pytest.approx(1.0, rel=1e-5)


def test_a_bank_delays_nothing_and_keeps_what_comes_before_the_strongest_arrival():
    response = np.zeros(500, np.float32)
    response[[100, 140]] = 0.5, 1.0  # a softer arrival 40 samples earlier
    bank = response_bank([response], [], n_fft=4096, longest=1000, lead=64, device=CPU)
    signal = torch.zeros(1, 2048)
    signal[0, 1000] = 1.0
    heard = torch.fft.irfft(torch.fft.rfft(signal, 4096) * bank.rooms, 4096)[0, :2048]
    assert int(heard.argmax()) == 1000
    assert float(heard[960] / heard[1000]) == pytest.approx(0.5, rel=1e-3)
    untouched = torch.fft.irfft(torch.fft.rfft(signal, 4096) * bank.microphones, 4096)[0, :2048]
    torch.testing.assert_close(untouched, signal[0], atol=1e-5, rtol=0)


def test_varied_rooms_are_finite_different_and_of_like_length():
    rng = np.random.default_rng(3)
    response = decaying(rng)
    response[1600:] = 1e-3 * rng.normal(size=1600)  # the noise at a measured response's end
    made = [vary(response, rng, sample_rate=8000) for _ in range(20)]
    assert all(np.isfinite(m).all() for m in made)
    assert all(0.74 <= len(m) / len(response) <= 1.34 for m in made)
    assert len({len(m) for m in made}) > 10
    tails = [np.abs(m[-200:]).mean() / np.abs(m).max() for m in made]
    assert max(tails) < 0.02  # noise is not lifted into a second room


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_of_a_model_file_can_be_trained_on(corpus, tmp_path):
    trained = train(small(), options(corpus, tmp_path / "one"), lambda _: None)
    model_file = tmp_path / "model.onnx"
    export_checkpoint(trained, model_file)
    again = dataclasses.replace(small(), initial=str(model_file))
    run = Run(again, options(corpus, tmp_path / "two"))
    sound = run.batches.tracks[:24000].float()[None] / 32768
    with torch.no_grad():
        restored = run.average(sound)
    expected = torch.from_numpy(Encoder(model_file).encode(sound.numpy()))
    assert float((restored * expected).sum(-1).min()) > 0.9999
    run.advance(lambda _: None)
    assert run.step == 1


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_of_another_architecture_are_refused(corpus, tmp_path):
    trained = train(small(), options(corpus, tmp_path / "one"), lambda _: None)
    export_checkpoint(trained, tmp_path / "model.onnx")
    wider = build(Recipe, {**SMALL, "model": {**SMALL["model"], "hidden": 32}}, "test")
    wider = dataclasses.replace(wider, initial=str(tmp_path / "model.onnx"))
    with pytest.raises(TrainingError, match="another architecture"):
        Run(wider, options(corpus, tmp_path / "two"))


def test_generated_pieces_are_seeded_loud_and_all_different():
    one = generate_many(40, seconds=4.0, seed=3, device=CPU)
    assert one.shape == (40, 32000)
    np.testing.assert_array_equal(one[:5], generate_many(5, seconds=4.0, seed=3, device=CPU))
    assert not np.array_equal(one[:5], generate_many(5, seconds=4.0, seed=4, device=CPU))
    assert (np.abs(one).max(1) > 25000).all()
    sound = one / np.sqrt(np.square(one.astype(float)).sum(1, keepdims=True))
    alike = np.abs(sound @ sound.T) - np.eye(40)
    assert alike.max() < 0.5


def test_generated_music_joins_the_training_groups_only(corpus, tmp_path):
    recipe = dataclasses.replace(
        small(), data=dataclasses.replace(small().data, generated=6, generated_seconds=6.0)
    )
    run, plain = (
        Run(recipe, options(corpus, tmp_path / "a")),
        Run(small(), options(corpus, tmp_path)),
    )
    assert len(run.batches.usable) == len(plain.batches.usable) + 6
    assert len(run.held_out.usable) == len(plain.held_out.usable)
    run.advance(lambda _: None)


@pytest.mark.parametrize("chunk", [1, 3, 5, 12])
def test_gradients_in_chunks_equal_those_of_the_whole(chunk):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(7, 9), torch.nn.Tanh(), torch.nn.Linear(9, 4))
    rows, groups = torch.randn(12, 7), torch.arange(6)

    def loss_of(vectors):
        return nt_xent(*torch.nn.functional.normalize(vectors, dim=1).chunk(2), groups, 0.1)

    loss_of(model(rows)).backward()
    whole = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    loss = backward_in_chunks(model, model, rows, loss_of, chunk)
    assert float(loss) == pytest.approx(float(loss_of(model(rows)).detach()), rel=1e-6)
    for parameter, expected in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, expected, atol=1e-6, rtol=1e-5)


def test_chunks_update_running_statistics_once_each():
    torch.manual_seed(0)
    rows = torch.randn(12, 5)
    norms = [torch.nn.BatchNorm1d(5) for _ in range(2)]
    for piece in rows.split(4):
        norms[0](piece)
    backward_in_chunks(norms[1], norms[1], rows, lambda v: v.square().mean(), 4)
    torch.testing.assert_close(norms[0].running_mean, norms[1].running_mean)
    torch.testing.assert_close(norms[0].running_var, norms[1].running_var)
    assert int(norms[1].num_batches_tracked) == 3


def test_training_in_chunks_runs(corpus, tmp_path):
    recipe = small(chunk=4)
    train(recipe, options(corpus, tmp_path), lambda _: None)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 6


def taught(corpus, tmp_path, **changes):
    teacher = train(small(), options(corpus, tmp_path / "teacher"), lambda _: None)
    values = json.loads(json.dumps(SMALL))
    return build(
        Recipe, values | {k: {**v, "weights": str(teacher)} for k, v in changes.items()}, "test"
    )


def test_a_student_comes_to_imitate_its_teacher(corpus, tmp_path):
    recipe = taught(corpus, tmp_path, teacher={"share": 1.0})
    recipe = dataclasses.replace(recipe, optimiser=dataclasses.replace(recipe.optimiser, steps=25))
    losses = []
    train(recipe, options(corpus, tmp_path / "student"), lambda e: losses.append(e["loss"]))
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_a_teacher_with_another_front_end_is_refused(corpus, tmp_path):
    recipe = taught(corpus, tmp_path, teacher={})
    other = dataclasses.replace(recipe, model={**recipe.model, "front_end": {"n_bands": 64}})
    with pytest.raises(TrainingError, match="another front end"):
        Run(other, options(corpus, tmp_path / "student"))


def test_mined_rows_are_neighbours_of_other_groups_and_no_group_comes_twice(corpus, tmp_path):
    recipe = taught(corpus, tmp_path, mining={"n_places": 4, "n_neighbours": 3})
    run = Run(recipe, options(corpus, tmp_path / "mined"))
    mined = run.batches.replace.__self__
    assert mined.nearest.shape == (4 * len(run.batches.usable), 3)
    assert (mined.places.groups[mined.nearest] != mined.places.groups[:, None]).all()
    known = set(zip(mined.places.files.tolist(), mined.places.starts.tolist(), strict=True))
    shares = []
    for step in range(20):
        drawn = run.batches.draw_places(torch.Generator().manual_seed(step))
        found = mined.replaced(drawn, torch.Generator().manual_seed(step))
        again = mined.replaced(drawn, torch.Generator().manual_seed(step))
        assert all(torch.equal(x, y) for x, y in zip(found, again, strict=True))
        assert len(found.groups) == len(drawn.groups) == len(set(found.groups.tolist()))
        places = zip(found.files.tolist(), found.starts.tolist(), strict=True)
        shares.append(np.mean([place in known for place in places]))
    assert 0.2 < np.mean(shares) < 0.8
    run.advance(lambda _: None)


def test_a_run_with_a_teacher_and_mining_resumes_to_the_same_weights(corpus, tmp_path):
    recipe = taught(corpus, tmp_path, teacher={}, mining={"n_places": 3, "n_neighbours": 2})
    train(recipe, options(corpus, tmp_path / "whole"), lambda _: None)
    train(recipe, options(corpus, tmp_path / "parts", stop_after=0.0), lambda _: None)
    assert load_checkpoint(tmp_path / "parts" / "checkpoint.pt")["step"] == 1
    train(recipe, options(corpus, tmp_path / "parts"), lambda _: None)
    whole, parts = (load_checkpoint(tmp_path / n / "checkpoint.pt") for n in ("whole", "parts"))
    for name, tensor in whole["average"].items():
        assert torch.equal(tensor, parts["average"][name]), name


def test_an_unknown_loss_is_named(corpus, tmp_path):
    with pytest.raises(TrainingError, match="unknown loss 'hope'; known: nt_xent, triplet"):
        Run(small(loss="hope"), options(corpus, tmp_path))
    train(small(loss="triplet", steps=2), options(corpus, tmp_path / "triplet"), lambda _: None)


def test_what_is_no_checkpoint_is_refused_in_a_sentence(tmp_path):
    for content in (b"", b"hello\n", bytes(range(256)) * 9):
        (tmp_path / "c.pt").write_bytes(content)
        with pytest.raises(TrainingError, match=r"c.pt is not a checkpoint \(.*\); give the"):
            load_checkpoint(tmp_path / "c.pt")
