"""What training hears: caches never mix up corpora, and a run goes on with its own data only."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra train")

from fakes import tune
from spolia.audio import Audio
from spolia.corpus import CorpusFile, read_manifest
from spolia.encoding import write_wav
from spolia.errors import AudioError, TrainingError
from spolia.networks.architectures import build_encoder
from spolia.training.batches import BatchMaker, plan
from spolia.training.coding import code_file
from spolia.training.encoded import EncodedFolder
from spolia.training.fingerprint import Run, make_batches, train
from spolia.training.initial import load_checkpoint
from spolia.training.pool import AudioPool, load_pool
from spolia.training.recipe import DataConfig, OptimiserConfig, Recipe, SamplingConfig
from spolia.training.responses import response_bank
from spolia.training.running import RunOptions
from spolia.training.runs import compute_runs

CPU = torch.device("cpu")
RECIPE = Recipe(
    "small",
    model={"channels": [8, 16, 16, 32], "hidden": 64, "dim": 16},
    data=DataConfig(n_rows=4, n_segments=2, simulated_rooms=0),
    optimiser=OptimiserConfig(steps=2, warmup=1, mixed_precision=False),
)


@pytest.fixture
def copied(corpus, tmp_path):
    """Return a corpus whose files have the names of another's."""
    shutil.copytree(corpus, tmp_path / "copied")
    return tmp_path / "copied"


def pool_of(corpus, cache, **changes):
    return load_pool(read_manifest(corpus, "track"), sample_rate=8000, cache=cache, **changes)


def test_corpora_with_equal_names_do_not_share_decoded_sound(corpus, copied, tmp_path):
    write_wav(copied / "tracks/t0.wav", tune(77, seconds=12.0))
    first, second = (pool_of(of, tmp_path / "cache") for of in (corpus, copied))
    assert not np.array_equal(first.samples, second.samples)
    third = pool_of(corpus, tmp_path / "cache")
    np.testing.assert_array_equal(first.samples, third.samples)


def test_a_file_that_changed_is_decoded_anew(copied, tmp_path):
    before = pool_of(copied, tmp_path / "cache").samples
    track = copied / "tracks/t0.wav"
    changed_at = track.stat().st_mtime_ns
    write_wav(track, tune(77, seconds=12.0))
    os.utime(track, ns=(changed_at + 10**9, changed_at + 10**9))
    assert not np.array_equal(before, pool_of(copied, tmp_path / "cache").samples)


def test_a_track_that_cannot_be_coded_keeps_its_place(corpus, tmp_path):
    """Else every later coded track would be cut from another's sound."""

    def code(audio, position):
        if position == 1:
            raise AudioError("t1", "cannot be coded")
        return Audio(-audio.samples, audio.sample_rate)

    plain = pool_of(corpus, tmp_path / "cache")
    coded = pool_of(corpus, tmp_path / "cache", variant="test", change=code)
    np.testing.assert_array_equal(plain.offsets, coded.offsets)
    sign = np.full(len(plain), -1, np.int16)
    sign[1] = 1
    np.testing.assert_array_equal(
        coded.samples, plain.samples * np.repeat(sign, np.diff(plain.offsets))
    )


def test_tracks_below_a_tenth_of_a_second_are_coded_too(copied, tmp_path):
    for number, n_samples in enumerate((1, 10, 100, 399)):
        write_wav(copied / f"tracks/t{number}.wav", tune(number, 1.0).slice(0, n_samples / 8000))
    plain = pool_of(copied, tmp_path / "cache")
    coded = pool_of(copied, tmp_path / "cache", variant="coded", change=code_file)
    np.testing.assert_array_equal(plain.offsets, coded.offsets)


def batches_of(model, **changes):
    """Return a batch maker of made-up sound; changes: other seeds of its parts."""
    seeds = {"tracks": 0, "noise": 1, "rooms": 2, "devices": 3, "coded": 4, **changes}

    def sound(part, n):
        return np.random.default_rng(seeds[part]).normal(0, 1000, n)

    files = tuple(CorpusFile(name, "train", name, "train", "", "") for name in "ab")
    tracks, noise, coded = (
        AudioPool(sound(part, 120000).astype(np.int16), 60000 * np.arange(3), files, 8000)
        for part in ("tracks", "noise", "coded")
    )
    rooms, devices = ([sound(part, 99).astype("f")] for part in ("rooms", "devices"))
    responses = response_bank(rooms, devices, n_fft=32768, longest=500, lead=8, device=CPU)
    frames = model.config.segment_frames, model.config.hop_frames
    geometry = plan(RECIPE, model.log_bands, segment_frames=frames[0], hop_frames=frames[1])
    return BatchMaker(
        RECIPE,
        model.log_bands,
        geometry,
        responses,
        tracks,
        noise,
        n_fft=32768,
        device=CPU,
        coded=coded,
    )


@pytest.mark.parametrize("part", ["tracks", "noise", "rooms", "devices", "coded"])
def test_computed_runs_are_of_the_sound_that_is_heard_now(part, tmp_path):
    model = build_encoder(RECIPE.architecture, RECIPE.model).eval()
    for seeds in ({}, {}, {part: 9}):
        batches = batches_of(model, **seeds)
        compute_runs(model, batches, tmp_path, n_versions=1, seed=0, facts={})
    assert len(list(tmp_path.glob("runs-*.i8"))) == 2


def test_what_is_encoded_is_of_the_sound_that_is_heard_now(tmp_path):
    model = build_encoder(RECIPE.architecture, RECIPE.model).eval()
    first, again, other = (
        EncodedFolder(tmp_path, model, batches_of(model, **seeds)).folder
        for seeds in ({}, {}, {"noise": 9})
    )
    assert first == again
    assert first != other


def options(corpus, folder):
    return RunOptions((corpus,), folder, folder / "cache", threads=1)


def test_a_run_goes_on_where_its_corpus_was_moved_to(corpus, copied, tmp_path):
    train(RECIPE, options(corpus, tmp_path / "run"), lambda _: None)
    assert Run(RECIPE, options(copied, tmp_path / "run")).step == 2


@pytest.mark.parametrize("change", ["a file is longer", "a file is in another split"])
def test_a_run_does_not_go_on_with_other_data(corpus, copied, tmp_path, change):
    train(RECIPE, options(corpus, tmp_path / "run"), lambda _: None)
    if change == "a file is longer":
        write_wav(copied / "tracks/t5.wav", tune(5, seconds=13.0))
    else:
        split = (copied / "split.csv").read_text()
        (copied / "split.csv").write_text(split.replace("t5.wav,train", "t5.wav,val"))
    with pytest.raises(TrainingError, match=r"trained on other files .* --corpus, or choose"):
        Run(RECIPE, options(copied, tmp_path / "run"))


def test_a_checkpoint_that_does_not_tell_its_data_goes_on(corpus, tmp_path):
    path = train(RECIPE, options(corpus, tmp_path), lambda _: None)
    state = load_checkpoint(path)
    del state["data"]
    torch.save(state, path)
    assert Run(RECIPE, options(corpus, tmp_path)).step == 2


def test_levels_that_are_no_powers_are_not_mixed(tmp_path):
    nafp = Recipe("x", architecture="nafp", sampling=SamplingConfig(use=True))
    with pytest.raises(TrainingError, match="choose another architecture"):
        make_batches(nafp, RunOptions((tmp_path,), tmp_path, tmp_path), None, None, "train")
