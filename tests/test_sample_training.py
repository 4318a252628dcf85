"""The encoder of samples and its training on mixtures."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra train")
pytest.importorskip("onnx", reason="needs the extra train")

from typer.testing import CliRunner

from corpora import make_corpus
from fakes import tune
from spolia.audio import Audio
from spolia.cli import app
from spolia.cli.sample_commands import distinct_stems
from spolia.corpus import read_manifest
from spolia.encoders import Encoder, open_encoder
from spolia.encoding import write_wav
from spolia.errors import ModelError, ParameterError, TrainingError
from spolia.fingerprints.samples import SampleFingerprinter
from spolia.networks.sample_encoder import Peaks, SampleEncoder, SampleEncoderConfig
from spolia.training.batches import plan
from spolia.training.classifying import build_classifier
from spolia.training.export import export_checkpoint, export_encoder
from spolia.training.fingerprint import Run, make_batches, train
from spolia.training.initial import load_checkpoint, network_of
from spolia.training.losses import mixture_nt_xent
from spolia.training.objective import Objective, Temperature
from spolia.training.pool import load_pool
from spolia.training.recipe import (
    DataConfig,
    OptimiserConfig,
    Recipe,
    SamplingConfig,
    TeacherConfig,
)
from spolia.training.running import RunOptions
from spolia.training.stems import load_stems
from spolia.training.warp import MaskConfig, WarpConfig

pytestmark = pytest.mark.filterwarnings("ignore")

TINY = SampleEncoderConfig(channels=(4, 8, 8, 16), hidden=32, dim=16)
SETTINGS = {"channels": [4, 8, 8, 16], "hidden": 32, "dim": 16}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    model = SampleEncoder(TINY).eval()
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    export_encoder(model, path, name="tiny", training={})
    return model, path


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, (1, round(16000 * seconds))).astype("f")


def test_a_window_is_four_seconds_and_steps_half_a_second():
    assert (TINY.segment_frames, TINY.hop_frames) == (127, 16)
    assert TINY.segment_samples / 16000 == pytest.approx(4.16)
    assert TINY.hop_samples / 16000 == pytest.approx(0.512)
    model = SampleEncoder(TINY).eval()
    assert model(torch.from_numpy(noise(4.16))).shape == (1, 1, 16)


def test_vectors_are_finite_in_silence_and_independent_of_batch_mates():
    model = SampleEncoder(TINY).eval()
    sound = torch.from_numpy(np.concatenate([noise(6.0, 1), 3 * noise(6.0, 2)]))
    together = model(sound)
    assert torch.allclose(model(sound[:1]), together[:1], atol=1e-5)
    assert torch.allclose(together.norm(dim=2), torch.ones(2, together.shape[1]), atol=1e-5)
    assert torch.isfinite(model(torch.zeros(1, 80000))).all()
    model.train()(sound)[..., 0].sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_onnx_equals_torch_by_cosine_and_by_order(exported):
    model, path = exported
    sound = noise(20.0)
    with torch.no_grad():
        expected = model(torch.from_numpy(sound))[0].numpy()
    found = Encoder(path).encode(sound)[0]
    assert (expected * found).sum(1).min() > 0.9999
    gap = np.sort(expected @ expected.T, axis=1)[:, -2:]
    clear = gap[:, 1] - gap[:, 0] > 1e-3
    assert np.array_equal(
        (found @ expected.T).argmax(1)[clear], (expected @ expected.T).argmax(1)[clear]
    )


def test_a_long_recording_equals_its_blocks_and_short_queries_have_a_vector(exported):
    fingerprinter = SampleFingerprinter(Encoder(exported[1]))
    sound = noise(90.0)[0]
    whole = Encoder(exported[1]).encode(sound[None])[0]
    blocks = fingerprinter.fingerprint(Audio(sound, 16000))
    assert np.abs(blocks.values[: len(whole)] - whole[: len(blocks)]).max() < 1e-3
    short = fingerprinter.fingerprint_query(Audio(sound[:32000], 16000))
    assert (len(short), short.duration) == (1, 2.0)
    query = fingerprinter.fingerprint_query(Audio(sound[:160000], 16000))
    assert np.allclose(np.diff(query.times), 0.256)


def test_nodes_are_the_columns_that_a_window_covers(exported):
    model, path = exported
    sound = noise(8.0)
    with torch.no_grad():
        vectors, nodes = model.with_nodes(model.spectrogram(torch.from_numpy(sound)))
        assert torch.equal(vectors, model(torch.from_numpy(sound)))
    assert nodes.shape == (1, vectors.shape[1], 9 * 7, 16)
    grid = nodes.unflatten(2, (9, 7))
    assert torch.equal(grid[:, 1:, :, :-1], grid[:, :-1, :, 1:])  # a window on, a column on
    found = Encoder(path).nodes(sound)
    assert np.allclose(found, nodes.numpy(), atol=0.02 * float(nodes.max()))
    judge = build_classifier({"size": "nano"}, model).eval()
    assert judge(nodes[0], nodes[0]).shape == (nodes.shape[1],)


def test_models_of_another_kind_are_refused(exported):
    with pytest.raises(ModelError, match="is a model of kind 'sample'; give one of kind 'segment'"):
        open_encoder(str(exported[1]))


def unit(rows):
    return torch.nn.functional.normalize(rows, dim=1)


def test_the_loss_of_mixtures_equals_its_definition():
    rng = torch.Generator().manual_seed(0)
    n, tau = 5, 0.2
    anchors, mixtures = (unit(torch.randn(n, 8, generator=rng)) for _ in range(2))
    groups, others = torch.tensor([0, 1, 2, 3, 3]), torch.tensor([1, 2, 3, 3, 0])
    vectors = torch.cat([anchors, mixtures]).double()
    parts = [{int(g)} for g in groups]
    parts += [{int(groups[i]), int(groups[others[i]])} for i in range(n)]
    total = []
    for i in range(n):
        for row in (i, int(others[i])):
            positive = math.exp(vectors[n + i] @ vectors[row] / tau)
            for one in (n + i, row):
                negative = sum(
                    math.exp(vectors[one] @ vectors[k] / tau)
                    for k in range(2 * n)
                    if not parts[one] & parts[k]
                )
                total.append(-math.log(positive / (positive + negative)))
    found = mixture_nt_xent(anchors, mixtures, groups, others, tau)
    assert float(found) == pytest.approx(np.mean(total), rel=1e-5)


def recipe(**sampling):
    return Recipe(
        "tiny",
        architecture="sample",
        model=SETTINGS,
        data=DataConfig(n_rows=8, n_segments=1, offset=0.2, context=0.0, simulated_rooms=1),
        warp=WarpConfig(0.2, 6.0, 0.2, 0.3, 0.2, 0.4, both=0.2),
        mask=MaskConfig(0.0, 1, 0.0, 1, 0.0),
        optimiser=OptimiserConfig(steps=12, warmup=2, learning_rate=1e-3),
        sampling=SamplingConfig(use=True, **sampling),
    )


def maker(corpus, tmp_path, of):
    model = SampleEncoder(TINY)
    options = RunOptions((corpus,), tmp_path / "run", tmp_path / "cache", "cpu", 1)
    geometry = plan(of, model.log_bands, segment_frames=127, hop_frames=16)
    return make_batches(of, options, model, geometry, "train")


def test_mixtures_hold_both_rows_and_come_again_by_seed(corpus, tmp_path):
    batches = maker(corpus, tmp_path, recipe(bed=1.0))
    batch = batches.draw(3, seed=5)
    again = batches.draw(3, seed=5)
    assert batch.anchors.shape == batch.positives.shape == (8, 144, 127)
    assert torch.equal(batch.positives, again.positives)
    assert torch.isfinite(batch.positives).all()
    assert (batch.others != torch.arange(8)).all()
    assert (batch.groups[batch.others] != batch.groups).all()
    alone = maker(corpus, tmp_path, recipe(bed=0.0)).draw(3, seed=5)
    assert torch.equal(alone.others, torch.arange(8))


def test_an_unchanged_sample_without_a_bed_is_its_anchor(corpus, tmp_path):
    plain = dataclasses.replace(
        recipe(bed=0.0, loop=0.0, part=0.0, equaliser=0.0, edge=0.0, reverb=0.0),
        warp=WarpConfig(0.0, 1.0, 0.0, 0.3, 0.0, 0.4),
        data=DataConfig(n_rows=8, n_segments=1, offset=0.0, context=0.0, simulated_rooms=1),
    )
    batch = maker(corpus, tmp_path, plain).draw(0, seed=1)
    difference = batch.positives - batch.anchors
    heard = batch.anchors > batch.anchors.amax((1, 2), keepdim=True) - 12
    for row, loud in zip(difference, heard, strict=True):
        assert float((row[loud] - row[loud].median()).abs().quantile(0.9)) < 0.05


@pytest.fixture
def corpus_of_stems(tmp_path):
    """Three train recordings, two of them with a high and a low part under the names of stems."""
    folder = make_corpus(tmp_path / "stems", n_tracks=5, n_val=2)
    (folder / "samples").mkdir()
    rows, time = [("file", "group", "licence_class", "attribution", "category", "kind")], None
    for i in (3, 4):
        time = np.arange(12 * 16000) / 16000
        parts = {"drums": 0.3 * np.sin(12000 * time), "bass": 0.3 * np.sin(1500 * time + i)}
        write_wav(folder / f"tracks/t{i}.wav", Audio(sum(parts.values()).astype("f"), 16000))
        for kind, part in parts.items():
            file = f"samples/t{i}__{kind}.wav"
            write_wav(folder / file, Audio(part.astype("f"), 16000))
            rows.append((file, file, "train", "", "", "stem"))
    with (folder / "samples.csv").open("w", newline="") as out:
        csv.writer(out).writerows(rows)
    return folder


def test_stems_lie_where_their_mixes_do(corpus_of_stems, tmp_path):
    files = [f for f in read_manifest(corpus_of_stems, "track") if f.split == "train"]
    tracks = load_pool(files, sample_rate=16000, cache=tmp_path / "cache")
    for _ in range(2):  # decoded, then read again
        stems = load_stems(tracks, (corpus_of_stems,), cache=tmp_path / "cache")
        assert stems.first.tolist() == [-1, 0, 12 * 16000]
        mixes = tracks.samples[tracks.offsets[1] :].astype(int)
        assert np.abs(stems.samples.astype(int).sum(0) - mixes).max() < 4
        assert not stems.samples[2:].any()


def test_stems_of_another_pack_with_equal_names_are_decoded_anew(corpus_of_stems, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(corpus_of_stems, other)
    for kind in ("drums", "bass"):
        stem = other / f"samples/t3__{kind}.wav"
        write_wav(stem, Audio(np.full(12 * 16000, 0.25, "f"), 16000))
    for folder, is_flat in ((corpus_of_stems, False), (other, True)):
        files = [f for f in read_manifest(folder, "track") if f.split == "train"]
        tracks = load_pool(files, sample_rate=16000, cache=tmp_path / "cache")
        stems = load_stems(tracks, (folder,), cache=tmp_path / "cache")
        assert (np.ptp(stems.samples[0, : 12 * 16000]) < 10) == is_flat


def test_a_part_is_sampled_alone_and_its_anchor_is_the_mix(corpus_of_stems, tmp_path, monkeypatch):
    monkeypatch.setattr("spolia.training.sampling.ALONE", (1.0, 0.0, 0.0, 0.0))
    unchanged = {"bed": 0.0, "loop": 0.0, "part": 0.0, "equaliser": 0.0, "edge": 0.0, "reverb": 0.0}
    plain = dataclasses.replace(
        recipe(stems=1.0, **unchanged),
        warp=WarpConfig(0.0, 1.0, 0.0, 0.3, 0.0, 0.4),
        data=DataConfig(n_rows=8, n_segments=1, offset=0.0, context=0.0, simulated_rooms=1),
    )
    batch = maker(corpus_of_stems, tmp_path, plain).draw(0, seed=1)
    low, high = (
        of[:, 30:50].amax((1, 2)) - of[:, 90:110].amax((1, 2))
        for of in (batch.anchors, batch.positives)
    )
    has_stems = batch.files > 0
    assert (low[has_stems].abs() < 3).all()  # both parts in the mix
    assert (high[has_stems] < -6).all()  # the high one only, sampled
    with_mix = (batch.anchors - batch.positives)[~has_stems]
    assert float((with_mix - with_mix.median()).abs().quantile(0.5)) < 0.05


def test_a_chopped_window_holds_the_same_in_another_order(corpus, tmp_path):
    batches = maker(corpus, tmp_path, recipe())
    rng = torch.Generator().manual_seed(1)
    window = torch.arange(128.0).expand(3, 2, 128)
    chopped = batches._chopped(window, SamplingConfig(chop=1.0), rng)
    assert torch.equal(chopped.sort(2).values, window)
    assert (chopped != window).any(2).all()
    assert ((chopped.diff(dim=2) == 1).sum(2) >= 128 - 8).all()
    assert torch.equal(batches._chopped(window, SamplingConfig(chop=0.0), rng), window)


def test_training_runs_resumes_and_validates(corpus, tmp_path):
    seen = []
    options = RunOptions((corpus,), tmp_path / "run", tmp_path / "cache", "cpu", 1)
    train(recipe(), dataclasses.replace(options, validate_every=6), seen.append)
    assert [int(e["step"]) for e in seen] == list(range(1, 13))
    assert 0.0 <= seen[-1]["val_top1_run"] <= 1.0
    assert np.mean([e["loss"] for e in seen[-3:]]) < seen[0]["loss"]


def test_the_command_line_adds_asks_and_writes(exported, tmp_path):
    (tmp_path / "crate").mkdir()
    for number in range(3):
        write_wav(tmp_path / "crate" / f"{number}.wav", tune(number, 20.0, 16000))
    library = ["--library", str(tmp_path / "library"), "--sample-model", str(exported[1])]
    run = CliRunner().invoke(
        app, ["add", str(tmp_path / "crate"), "--methods", "samples", "--json", *library]
    )
    assert run.exit_code == 0, run.output
    track = tmp_path / "track.wav"
    write_wav(track, tune(1, 20.0, 16000).slice(3.0, 14.0))
    asked = ["samples", str(track), "--json", "--top", "3", *library]
    outputs = ["--export", str(tmp_path / "labels"), "--html", str(tmp_path / "page.html")]
    run = CliRunner().invoke(app, [*asked, *outputs, "--graph", str(tmp_path / "who.json")])
    assert run.exit_code == 0, run.output
    answer = json.loads(run.stdout.splitlines()[-1])
    assert answer["matches"][0]["recording"]["path"].endswith("1.wav")
    assert answer["matches"][0]["transformation"] == "untouched"
    assert (tmp_path / "page.html").is_file()
    assert len(list((tmp_path / "labels").iterdir())) == 3
    assert json.loads((tmp_path / "who.json").read_text())["nodes"]
    own = CliRunner().invoke(app, ["samples", str(tmp_path / "crate"), "--json", *library])
    assert own.exit_code == 0, own.output
    answers = [json.loads(line) for line in own.stdout.splitlines() if line.startswith("{")]
    assert len(answers) == 3
    for one in answers:  # none samples itself
        assert all(m["recording"]["path"] != one["query"] for m in one["matches"])
    run = CliRunner().invoke(app, [*asked, "--graph", str(tmp_path / "who.png")])
    assert isinstance(run.exception, ParameterError)
    run = CliRunner().invoke(app, ["samples", str(tmp_path / "none.wav"), *library])
    assert run.exit_code == 1
    (tmp_path / "nothing").mkdir()
    run = CliRunner().invoke(app, ["samples", str(tmp_path / "nothing"), *library])
    assert isinstance(run.exception, ParameterError)
    assert str(run.exception).endswith("nothing looks like audio; give tracks or their folder")
    (tmp_path / "other").mkdir()
    track.with_name("other").joinpath("track.flac").write_bytes(track.read_bytes())
    both = [str(track), str(tmp_path / "other")]
    outputs = ["--export", str(tmp_path / "both"), "--html", str(tmp_path / "pages")]
    run = CliRunner().invoke(app, ["samples", *both, *outputs, *library])
    assert run.exit_code == 0, run.output
    assert {p.name for p in (tmp_path / "pages").iterdir()} == {"track.html", "track-2.html"}
    assert len(list((tmp_path / "both").iterdir())) == 6


def test_tracks_of_one_name_are_told_apart():
    tracks = [Path(p) for p in ("a/01.flac", "b/01.mp3", "c/01-2.wav", "d/01.ogg", "A/01.flac")]
    assert list(distinct_stems(tracks).values()) == ["01", "01-2", "01-2-2", "01-3", "01-4"]
    assert distinct_stems(tracks[:1] * 2) == {tracks[0]: "01"}


def test_weights_of_a_model_file_can_be_trained_on(corpus, tmp_path):
    options = RunOptions((corpus,), tmp_path / "one", tmp_path, threads=1)
    trained = train(recipe(), options, lambda _: None)
    export_checkpoint(trained, tmp_path / "model.onnx")
    again = dataclasses.replace(recipe(), initial=str(tmp_path / "model.onnx"))
    run = Run(again, dataclasses.replace(options, folder=tmp_path / "two"))
    sound = run.batches.tracks[:80000].float()[None] / 32768
    with torch.no_grad():
        restored = run.average(sound)
    expected = torch.from_numpy(Encoder(tmp_path / "model.onnx").encode(sound.numpy()))
    assert float((restored * expected).sum(-1).min()) > 0.9999


def test_a_larger_network_begins_as_a_smaller_one(corpus, tmp_path):
    options = RunOptions((corpus,), tmp_path / "one", tmp_path, threads=1)
    first = train(recipe(), options, lambda _: None)
    export_checkpoint(first, tmp_path / "one.onnx")
    larger = {**SETTINGS, "peaks": True, "n_blocks": [0, 1, 2, 0]}
    for source in (first, tmp_path / "one.onnx"):
        of = dataclasses.replace(recipe(), model=larger, initial=str(source), seed=2)
        folder = tmp_path / source.suffix[1:]
        begun = Run(of, dataclasses.replace(options, folder=folder))
        rows = begun.batches.draw(0, seed=1).anchors
        small = network_of(load_checkpoint(first)).eval()
        with torch.no_grad():
            cosine = (begun.average.embed(rows) * small.embed(rows)).sum(-1)
        assert float(cosine.min()) > 0.999
    trained = train(of, dataclasses.replace(options, folder=tmp_path / "two"), lambda _: None)
    state = load_checkpoint(trained)["model"]  # what was new has learnt something
    assert float(state["trunk.0.conv.weight"][:, 1].abs().max()) > 0
    assert float(state["trunk.2.norm2.weight"].abs().max()) > 0
    export_checkpoint(trained, tmp_path / "two.onnx")
    model, sound = network_of(load_checkpoint(trained)).eval(), noise(6.0)
    with torch.no_grad():
        expected = model(torch.from_numpy(sound)).numpy()
    found = Encoder(tmp_path / "two.onnx").encode(sound)
    assert float((found * expected).sum(-1).min()) > 0.9999
    again = dataclasses.replace(of, initial=str(tmp_path / "two.onnx"))
    restored = Run(again, dataclasses.replace(options, folder=tmp_path / "three"))
    rows = restored.batches.draw(0, seed=1).anchors
    with torch.no_grad():
        cosine = (restored.average.embed(rows) * model.embed(rows)).sum(-1)
    assert float(cosine.min()) > 0.999
    other = dataclasses.replace(of, model={**SETTINGS, "hidden": 16}, initial=str(first))
    with pytest.raises(TrainingError, match="another architecture"):
        Run(other, dataclasses.replace(options, folder=tmp_path / "four"))


def test_peaks_of_silence_are_zeros_and_never_negative():
    peaks = Peaks()
    assert float(peaks(torch.zeros(1, 144, 40)).abs().max()) == 0.0
    x = torch.randn(2, 144, 40, generator=torch.Generator().manual_seed(0))
    found = peaks(x)
    assert found.shape == (2, 144, 40)
    assert 0.0 <= float(found.min()) < float(found.max())
    for band, frame in ((0, 0), (70, 1), (143, 39)):  # above the mean of what there is around
        around = x[:, max(0, band - 6) : band + 7, max(0, frame - 8) : frame + 9].mean((1, 2))
        above = (x[:, band, frame] - around).clamp(min=0)
        least, most = above, 2 * above  # its rise is added
        assert (found[:, band, frame] >= least - 1e-5).all()
        assert (found[:, band, frame] <= most + 1e-5).all()


def spectra(corpus, tmp_path, config, *, seed=1):
    """Return a batch of unchanged windows, their samples made as the settings say."""
    plain = {"loop": 0.0, "part": 0.0, "equaliser": 0.0, "edge": 0.0, "reverb": 0.0} | config
    of = dataclasses.replace(
        recipe(**plain),
        warp=WarpConfig(0.0, 1.0, 0.0, 0.3, 0.0, 0.4),
        data=DataConfig(n_rows=8, n_segments=1, offset=0.0, context=0.0, simulated_rooms=1),
    )
    return maker(corpus, tmp_path, of).draw(0, seed=seed)


def balance(log_power):
    """Return by how much the low part of the corpus with stems stands over the high one."""
    return log_power[:, 30:50].amax((1, 2)) - log_power[:, 90:110].amax((1, 2))


def test_beds_are_made_of_other_parts_than_samples(corpus_of_stems, tmp_path, monkeypatch):
    monkeypatch.setattr("spolia.training.sampling.ALONE", (1.0, 0.0, 0.0, 0.0))  # the high part
    config = {"stems": 1.0, "bed": 1.0, "bed_db": (60.0, 60.0)}  # nothing is heard but beds
    shared, apart = (
        spectra(corpus_of_stems, tmp_path, config | {"apart": of}) for of in (False, True)
    )
    second = shared.others
    assert torch.equal(apart.others, second)
    with_stems = shared.files[second] > 0
    assert with_stems.any()
    assert (balance(shared.positives)[with_stems] < -6).all()
    assert (balance(apart.positives)[with_stems] > 6).all()


def test_voices_lie_over_mixtures(corpus, tmp_path):
    without = spectra(corpus, tmp_path, {"bed": 0.0})
    with pytest.raises(TrainingError, match="category 'speech'; add a pack"):
        spectra(corpus, tmp_path, {"bed": 0.0, "voice": 1.0})
    manifest = corpus / "noise.csv"
    text = manifest.read_text()
    rows = list(csv.DictReader(text.splitlines()))
    for row in rows:
        row["category"] = "speech"
    try:
        with manifest.open("w", newline="") as out:
            writer = csv.DictWriter(out, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
        spoken = spectra(corpus, tmp_path, {"bed": 0.0, "voice": 1.0, "voice_db": (0.0, 0.0)})
    finally:
        manifest.write_text(text)
    assert torch.equal(spoken.anchors, without.anchors)
    louder = spoken.positives - without.positives
    assert float(louder.min()) > -1e-4
    power = [of.exp().mean((1, 2)) for of in (spoken.positives, without.positives)]
    assert torch.allclose(power[0], 2 * power[1], rtol=1e-3)


def test_one_part_is_left_out_of_a_sample_and_lies_over_it(corpus_of_stems, tmp_path):
    config = {"left_out": True, "bed_db": (0.0, 0.0)}
    batch = spectra(corpus_of_stems, tmp_path, config)
    assert (batch.files > 0).all()
    assert batch.others is None
    assert batch.anchors.shape == batch.positives.shape
    assert (balance(batch.anchors).abs() > 6).all()  # one of both parts
    assert (balance(batch.positives).abs() < 3).all()  # and the other over it
    drawn = [balance(spectra(corpus_of_stems, tmp_path, config, seed=s).anchors) for s in range(6)]
    assert len({bool(of > 0) for of in torch.cat(drawn)}) == 2
    loud = spectra(corpus_of_stems, tmp_path, config | {"bed_db": (10.0, 10.0)})
    assert (balance(loud.positives) * balance(loud.anchors) > 0).all()
    for file in (corpus_of_stems / "samples").glob("t4*"):
        file.unlink()
    lines = (corpus_of_stems / "samples.csv").read_text().splitlines(keepends=True)
    (corpus_of_stems / "samples.csv").write_text("".join(x for x in lines if "t4" not in x))
    with pytest.raises(TrainingError, match="needs recordings with stems"):
        spectra(corpus_of_stems, tmp_path, config)


def test_a_temperature_is_learned_kept_and_bounded(corpus, tmp_path):
    of = dataclasses.replace(
        recipe(),
        optimiser=OptimiserConfig(
            steps=6, warmup=1, learning_rate=1e-2, temperature=0.1, learn_temperature=True
        ),
    )
    seen = []
    options = RunOptions((corpus,), tmp_path / "run", tmp_path / "cache", "cpu", 1)
    with pytest.raises(KeyboardInterrupt):
        train(of, options, lambda e: seen.append(e) or interrupt_at(3, e))
    train(of, options, seen.append)
    chunked = dataclasses.replace(of, optimiser=dataclasses.replace(of.optimiser, chunk=4))
    train(chunked, dataclasses.replace(options, folder=tmp_path / "chunks"), lambda _: None)
    assert [int(e["step"]) for e in seen] == [1, 2, 3, 4, 5, 6]
    temperatures = [e["temperature"] for e in seen]
    assert 0.03 < temperatures[-1] < 0.2
    assert len({round(t, 6) for t in temperatures}) == 6
    state = load_checkpoint(tmp_path / "chunks" / "checkpoint.pt")
    assert float(state["temperature"]["log"]) != pytest.approx(math.log(0.1), abs=1e-4)
    assert float(Temperature(5.0)()) == pytest.approx(0.2)
    with pytest.raises(TrainingError, match="has no temperature"):
        Objective(OptimiserConfig(loss="triplet"), TeacherConfig(), learned=Temperature(0.1))


def interrupt_at(step, entry):
    if entry["step"] == step:
        raise KeyboardInterrupt
