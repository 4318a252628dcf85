"""Productions: made tracks whose ground truth is exact, seeded, and never mixes what is akin."""

from __future__ import annotations

import collections
import csv
import json
from itertools import pairwise

import numpy as np
import pytest

from fakes import tune
from spolia.audio import Audio
from spolia.encoding import write_wav
from spolia.errors import AudioError, ParameterError, TrainingError
from spolia.production import beats as rhythm
from spolia.production.arrange import Grid, arranged, laid
from spolia.production.crate import open_crate, read
from spolia.production.effects import EFFECTS, Effect
from spolia.production.excerpts import Wish, find_excerpt
from spolia.production.folder import MANIFEST, read_productions, write_productions
from spolia.production.levels import level_over
from spolia.production.plan import Change, Habits, draw_change, draw_plan
from spolia.production.produce import produce, sample_free
from spolia.production.transform import changed, transformed
from spolia.production.truth import Use
from spolia.production.voice import sing
from spolia.samples import transformation
from spolia.spectral_alignment import align

RATE = 16000
SECONDS = 24.0  # of a recording
TRANSFORMATIONS = ("untouched", "varispeed", "stretched", "pitched", "both")
DRY = {"effect": 0.0, "n_uses": {1: 1.0}}


def drumming(seed):
    """Drums at 120 beats per minute, struck at random on the eighths: no two bars are alike."""
    rng = np.random.default_rng([seed, 1])
    samples = np.zeros(round(SECONDS * RATE))
    fading = np.exp(-np.arange(2000) / 400)
    for eighth in range(int(SECONDS * 4)):
        loudness = 1.0 if eighth % 4 == 0 else float(rng.choice([0.0, 0.5, 0.8]))
        tone = np.sin(2 * np.pi * rng.uniform(80, 400) * np.arange(2000) / RATE)
        hit = (tone + rng.uniform(0, 1) * rng.normal(size=2000)) * fading * loudness
        start = eighth * RATE // 4
        samples[start : start + 2000] += hit[: len(samples) - start]
    return 0.2 * samples


def write_table(path, head, rows):
    with path.open("w", newline="") as out:
        csv.writer(out).writerows([head, *rows])


def make_crate_corpus(folder, *, n=14, n_stems=8, n_val=4, sounds=None):
    """A corpus of recordings with stems, loops, drum sounds and a talk, split by the last ones."""
    for name in ("tracks", "samples", "noise"):
        (folder / name).mkdir(parents=True)
    tracks, samples, splits = [], [], []
    for i in range(n):
        split = "val" if i >= n - n_val else "train"
        music = tune(i, seconds=SECONDS, sample_rate=RATE).samples
        parts = {"drums": drumming(i), "music": 0.7 * music}
        mix = sum(parts.values()) if sounds is None else sounds
        write_wav(folder / f"tracks/t{i}.wav", Audio(np.asarray(mix, "f"), RATE))
        tracks.append((f"tracks/t{i}.wav", f"g{i}", "train", f"by {i}"))
        splits.append(("track", f"tracks/t{i}.wav", split))
        for part, stem in parts.items() if i < n_stems or i >= n - 2 else ():
            write_wav(folder / f"samples/t{i}__{part}.wav", Audio(np.asarray(stem, "f"), RATE))
            samples.append((f"samples/t{i}__{part}.wav", "train", "", "stem"))
            splits.append(("sample", f"samples/t{i}__{part}.wav", split))
    for i in range(5):
        hit = Audio(drumming(90 + i)[:3000].astype("f"), RATE)
        write_wav(folder / f"samples/kit__hit{i}.wav", hit)
        samples.append((f"samples/kit__hit{i}.wav", "train", "", "drum"))
    write_wav(folder / "samples/loops__l.wav", Audio(drumming(99)[: 2 * RATE].astype("f"), RATE))
    samples.append(("samples/loops__l.wav", "train", "", "loop / break"))
    write_wav(folder / "noise/talk.wav", tune(77, seconds=SECONDS, sample_rate=RATE))
    write_table(folder / "tracks.csv", ("file", "group", "licence_class", "attribution"), tracks)
    write_table(folder / "samples.csv", ("file", "licence_class", "attribution", "kind"), samples)
    noises = [("noise/talk.wav", "train", "", "speech")]
    write_table(folder / "noise.csv", ("file", "licence_class", "attribution", "category"), noises)
    write_table(folder / "split.csv", ("kind", "file", "split"), splits)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_crate_corpus(tmp_path_factory.mktemp("crate") / "corpus")


@pytest.fixture(scope="module")
def crate(corpus):
    return open_crate([corpus], split="train")


def made(crate, seed, *, seconds=16.0, **habits):
    return produce(
        crate, np.random.default_rng(seed), seconds=seconds, habits=Habits(**{**DRY, **habits})
    )


def source(crate, use):
    """The sound that a use was taken from: the stem of its part, or the recording."""
    (reference,) = [r for r in crate.references if r.file.file == use.file]
    return read(dict(reference.stems).get(use.part, reference.file))


def lag_of(sound, other):
    """Seconds by which ``sound`` comes later than ``other``, and their likeness there."""
    n = max(len(sound), len(other))
    size = 1 << (2 * n - 1).bit_length()
    product = np.fft.rfft(sound.samples, size) * np.conj(np.fft.rfft(other.samples, size))
    likeness = np.fft.irfft(product, size)
    scale = np.linalg.norm(sound.samples) * np.linalg.norm(other.samples)
    lag = int(likeness.argmax())
    return (lag if lag < size // 2 else lag - size) / sound.sample_rate, likeness[lag] / scale


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("wanted", ["untouched", "varispeed"])
def test_undone_a_use_is_its_source_at_the_stated_place(crate, wanted, seed):
    production = made(crate, seed, transformations={wanted: 1}, manners={"loop": 1})
    (use,) = production.uses
    assert use.transformation == wanted
    recording = source(crate, use)
    for occurrence in use.occurrences:
        heard = production.alone[0].slice(occurrence.start, occurrence.end)
        undone = changed(heard, Change(-use.semitones, 1 / use.tempo_ratio))
        told = recording.slice(occurrence.source_start, occurrence.source_end)
        lag, likeness = lag_of(undone, told)
        assert abs(lag) < 0.002
        assert likeness > 0.95


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("wanted", TRANSFORMATIONS)
def test_place_pitch_and_tempo_are_measured_as_stated(crate, wanted, seed):
    production = made(
        crate,
        [9, seed],
        transformations={wanted: 1},
        manners={"loop": 1},
        parts={"mix": 1},
        other_kinds={"riff": 1},
        effect=0.1,
    )
    (use,) = production.uses
    occurrence = use.occurrences[-1]
    begins = max(0.0, occurrence.source_start - 1.0)
    recording = source(crate, use).slice(begins, occurrence.source_end + 1.0)
    found = align(
        production.alone[0].slice(occurrence.start, occurrence.end).resample(8000).samples,
        recording.resample(8000).samples,
        start=begins,
        offset=occurrence.source_start + 0.1,
        speed=use.tempo_ratio * 1.01,
        semitones=use.semitones - 0.6,
    )
    middle = (occurrence.end - occurrence.start) / 2
    told = occurrence.source_start + use.tempo_ratio * middle
    assert found.offset + found.speed * middle == pytest.approx(told, abs=0.010)
    assert found.semitones == pytest.approx(use.semitones, abs=0.2)
    assert found.speed == pytest.approx(use.tempo_ratio, rel=0.012)


@pytest.mark.parametrize("manner", ["once", "loop", "chop"])
def test_occurrences_are_ordered_and_map_onto_the_source(crate, manner):
    for seed in range(4):
        production = made(
            crate, [3, seed], manners={manner: 1}, parts={"drums": 1}, drum_kinds={"break": 1}
        )
        (use,) = production.uses
        rows = use.occurrences
        assert rows
        assert all(a.end <= b.start + 1e-9 for a, b in pairwise(rows))
        assert rows[-1].end <= production.audio.duration + 1e-9
        for row in rows:
            assert use.source_start - 1e-6 <= row.source_start < row.source_end
            assert row.source_end <= use.source_end + 0.001
            length = (row.source_end - row.source_start) / (row.end - row.start)
            assert length == pytest.approx(use.tempo_ratio, rel=1e-6)
        assert use.manner == (manner if len(rows) > 1 else "once")


def test_outside_its_occurrences_a_use_is_silent(crate):
    production = made(crate, 5, manners={"chop": 1})
    samples = production.alone[0].samples.copy()
    for occurrence in production.uses[0].occurrences:
        samples[round(occurrence.start * RATE) : round(occurrence.end * RATE)] = 0
    assert not samples.any()


def test_loops_come_at_equal_distances_and_sound_alike(crate):
    for seed in range(4):
        production = made(crate, [4, seed], manners={"loop": 1})
        starts = np.array([o.start for o in production.uses[0].occurrences])
        distances = np.diff(starts)
        rounds = distances / distances.min()
        assert np.abs(rounds - np.round(rounds)).max() < 0.01  # gaps are whole rounds
        first, *others = (
            production.alone[0].slice(o.start, o.end) for o in production.uses[0].occurrences
        )
        assert all(lag_of(other, first)[1] > 0.999 for other in others)


def test_chops_are_what_they_say_in_another_order(crate):
    production = made(
        crate, 8, manners={"chop": 1}, transformations={"untouched": 1}, parts={"mix": 1},
        other_kinds={"riff": 1},
    )  # fmt: skip
    (use,) = production.uses
    recording = source(crate, use)
    for o in use.occurrences:
        heard = production.alone[0].slice(o.start, o.end)
        lag, likeness = lag_of(heard, recording.slice(o.source_start, o.source_end))
        assert abs(lag) < 0.001
        assert likeness > 0.9
    starts = [o.source_start for o in use.occurrences]
    n = len(set(starts))
    assert n > 1
    assert starts[:n] != sorted(starts[:n])
    assert starts[n : 2 * n] in ([], starts[:n])  # the same again, as far as it goes


def test_what_is_laid_over_has_the_stated_level(crate):
    for seed in range(6):
        habits = {"overlay_db": (-3.0, 9.0), "n_uses": {1: 1, 2: 1}, "effect": 0.1}
        production = made(crate, [6, seed], **habits)
        for use, alone in zip(production.uses, production.alone):
            over = production.audio.samples - alone.samples
            size = RATE // 20
            n = len(over) // size
            above, below = (
                np.square(x[: n * size].astype(float)).reshape(n, size).mean(1)
                for x in (over, alone.samples)
            )
            both = (above > 1e-4 * above.max()) & (below > 1e-4 * below.max())
            level = 10 * np.log10(above[both].sum() / below[both].sum())
            assert use.overlay_db == pytest.approx(level, abs=0.1)
            if len(production.uses) == 1:
                assert -3.01 <= use.overlay_db <= 9.01


def test_the_track_is_the_sum_of_what_it_is_made_of(crate):
    production = made(crate, 12, seconds=12.0, n_uses={3: 1})
    total = production.bed.samples + sum(a.samples for a in production.alone)
    assert np.allclose(total, production.audio.samples, atol=1e-6)
    assert np.abs(production.audio.samples).max() == pytest.approx(0.9, abs=1e-4)
    assert len(production.audio) == 12 * RATE
    assert len(production.alone) == len(production.uses) == 3


def test_nothing_over_it_has_no_level():
    silence, sound = Audio(np.zeros(RATE, "f"), RATE), tune(1, seconds=1.0, sample_rate=RATE)
    assert level_over(silence, sound) is None


def test_a_use_survives_json(crate):
    for seed in range(3):
        for use in made(crate, [7, seed], n_uses={2: 1}, effect=0.5).uses:
            text = json.dumps(use.to_dict())
            assert Use.from_dict(json.loads(text)) == use
            assert json.loads(text)["transformation"] == use.transformation


def test_a_change_is_named_for_what_it_is():
    assert transformation(0.0, 1.0) == "untouched"
    assert transformation(12 * np.log2(1.1), 1.1) == "varispeed"
    assert transformation(0.0, 1.1) == "stretched"
    assert transformation(-2.0, 1.0) == "pitched"
    assert transformation(2.0, 0.9) == "both"
    rng = np.random.default_rng(0)
    for wanted in TRANSFORMATIONS:
        for _ in range(300):
            change = draw_change(rng, wanted)
            assert transformation(change.semitones, change.tempo_ratio) == wanted


def test_a_seed_gives_the_same_bytes(crate, corpus):
    again = open_crate([corpus], split="train")
    one, same, other = (
        produce(c, np.random.default_rng(s), seconds=14.0)
        for c, s in ((crate, 1), (again, 1), (crate, 2))
    )
    assert one.audio.samples.tobytes() == same.audio.samples.tobytes()
    assert one.uses == same.uses
    assert one.overlays == same.overlays
    assert one.audio.samples.tobytes() != other.audio.samples.tobytes()


def test_groups_are_never_shared(crate, corpus):
    val = open_crate([corpus], split="val")
    sides = [{r.file.group for r in side} for c in (crate, val) for side in (c.references, c.beds)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 14
    for seed in range(6):
        production = made(crate, [8, seed], seconds=10.0, n_uses={2: 1})
        used = [use.group for use in production.uses]
        assert len(set(used)) == len(used)
        assert set(used) <= sides[0]
        assert not sides[0] & {overlay.group for overlay in production.overlays}


def test_a_group_keeps_its_side_when_others_come(tmp_path, crate):
    fewer = open_crate([make_crate_corpus(tmp_path / "c", n=12, n_val=2)], split="train")
    beds = {r.file.group for r in crate.beds}
    assert {r.file.group for r in fewer.beds} == beds & {f"g{i}" for i in range(10)}


def test_a_part_is_of_a_stem_and_the_reference_is_the_mix(crate):
    for part in ("drums", "harmonic"):
        for seed in range(3):
            (use,) = made(crate, [5, seed], seconds=10.0, parts={part: 1}).uses
            assert use.part == part
            assert use.file.startswith("tracks/")
            assert part in dict(next(r.stems for r in crate.references if r.file.file == use.file))


def test_a_part_that_no_recording_has_gives_way_to_the_mix(crate):
    (use,) = made(crate, 1, seconds=10.0, parts={"bass": 1}).uses
    assert use.part == "mix"


def test_a_track_can_sample_nothing(crate):
    free = sample_free(crate, np.random.default_rng(3), seconds=12.0)
    assert free.uses == ()
    assert free.overlays
    assert len(free.audio) == 12 * RATE
    assert not {o.group for o in free.overlays} & {r.file.group for r in crate.references}


def test_silent_recordings_are_refused(tmp_path):
    folder = make_crate_corpus(tmp_path / "c", n_stems=0, sounds=np.zeros(RATE * 6))
    silent = open_crate([folder], split="train")
    with pytest.raises(AudioError, match="has nothing to sample as a riff"):
        made(silent, 1, other_kinds={"riff": 1})


def test_too_short_recordings_are_refused(tmp_path):
    folder = make_crate_corpus(tmp_path / "c", n_stems=0, sounds=drumming(1)[: 2 * RATE])
    short = open_crate([folder], split="train")
    with pytest.raises(AudioError, match=r"give recordings of 4 s or more that are not silent"):
        made(short, 1)


def test_silent_stretches_are_never_sampled():
    samples = drumming(2)[: 20 * RATE].astype("f")
    samples[: 12 * RATE] = 0
    sound = Audio(samples, RATE)
    for seed in range(20):
        wish = Wish("riff", 2.0, 1, 8.0)
        excerpt = find_excerpt(sound, sound, wish, np.random.default_rng(seed))
        assert excerpt.start > 11.9
    assert (
        find_excerpt(sound.slice(0, 8), sound.slice(0, 8), wish, np.random.default_rng(0)) is None
    )


def test_bad_wishes_are_named(crate, corpus, tmp_path):
    rng = np.random.default_rng(0)
    with pytest.raises(ParameterError, match=r"a track of 3.0 s is too short; give 10"):
        produce(crate, rng, seconds=3.0)
    with pytest.raises(ParameterError, match="unknown split 'test'"):
        open_crate([corpus], split="test")
    with pytest.raises(ParameterError, match="shares of parts must be positive"):
        Habits(parts={})
    with pytest.raises(ParameterError, match="chances of effects"):
        Habits(effect=2.0)
    with pytest.raises(ParameterError, match="overlay_db"):
        Habits(overlay_db=(3.0, -3.0))
    with pytest.raises(TrainingError, match=r"tracks.csv does not exist"):
        open_crate([tmp_path], split="train")
    with pytest.raises(TrainingError, match="recordings are too few"):
        made(open_crate([corpus], split="val"), 1, n_uses={4: 1})


def test_a_group_on_both_sides_of_the_split_is_refused(tmp_path):
    folder = make_crate_corpus(tmp_path / "c", n=6, n_stems=0, n_val=2)
    text = (folder / "tracks.csv").read_text().replace(",g5,", ",g0,")
    (folder / "tracks.csv").write_text(text)
    with pytest.raises(TrainingError, match="'g0' is on both sides of the split"):
        open_crate([folder], split="train")


def test_plans_follow_the_statistics_of_real_samples():
    rng = np.random.default_rng(0)
    plans = [draw_plan(rng, Habits(), seconds=60.0) for _ in range(3000)]
    uses = [use for plan in plans for use in plan.uses]
    share = lambda hits: pytest.approx(np.mean([*hits]), abs=0.04)  # noqa: E731
    assert share(len(p.uses) == 1 for p in plans) == 64 / 75
    assert share(u.part == "drums" for u in uses) == 26 / 106
    assert share(u.kind == "riff" for u in uses) == 71 / 106
    assert share(u.kind == "break" for u in uses) == 33 / 106
    assert share(u.kind == "note" for u in uses) == 2 / 106
    tempi = np.array([u.change.tempo_ratio for u in uses])
    assert share(np.abs(tempi - 1) < 0.03) == 51 / 106
    assert share(np.abs(tempi - 1) < 0.10) == 86 / 106
    assert tempi.min() >= 0.7
    assert tempi.max() <= 1.5
    assert max(abs(u.change.semitones) for u in uses) <= 12 * np.log2(1.5) + 1e-9
    layers = collections.Counter(layer.layer for p in plans for layer in p.layers)
    assert layers["voice"] / 3000 == pytest.approx(101 / 106, abs=0.03)
    assert layers["drums"] / 3000 == pytest.approx(53 / 106, abs=0.03)
    assert all(min(layer.enters for layer in p.layers) == 0 for p in plans)
    riffs = [u.seconds for u in uses if u.kind == "riff"]
    assert np.median(riffs) == pytest.approx(3.5, abs=0.3)
    assert np.quantile([u.overlay_db for u in uses], [0, 1]) == pytest.approx([-12, 12], abs=0.2)
    assert share(len(u.effects) for u in uses) == pytest.approx(0.2 * len(EFFECTS), abs=0.1)


def clicks(seconds=6.0, every=1.0, seed=1):
    samples = 0.002 * np.random.default_rng(seed).normal(size=round(seconds * RATE))
    for time in np.arange(every, seconds - 0.1, every):
        samples[round(time * RATE) : round(time * RATE) + 40] += 0.8 * np.hanning(40)
    return Audio(samples.astype("f"), RATE)


def click_near(audio, second):
    start = round((second - 0.2) * RATE)
    return (start + int(np.abs(audio.samples[start : start + round(0.4 * RATE)]).argmax())) / RATE


@pytest.mark.parametrize("name", EFFECTS)
def test_effects_change_the_sound_and_move_nothing(name):
    sound = Audio(0.1 * drumming(3).astype("f")[: 6 * RATE] + clicks().samples, RATE)
    for seed in range(3):
        values = EFFECTS[name].draw(np.random.default_rng(seed))
        after = Effect(name, values).apply(sound)
        assert len(after) == len(sound)
        assert np.isfinite(after.samples).all()
        assert not np.array_equal(after.samples, sound.samples)
        assert abs(lag_of(after, sound)[0]) < 0.002


@pytest.mark.parametrize("name", EFFECTS)
def test_effects_leave_silence_finite(name):
    silence = Audio(np.zeros(RATE, "f"), RATE)
    values = EFFECTS[name].draw(np.random.default_rng(0))
    assert np.isfinite(Effect(name, values).apply(silence).samples).all()


@pytest.mark.parametrize("wanted", TRANSFORMATIONS)
def test_a_transformed_excerpt_keeps_time(wanted):
    change = draw_change(np.random.default_rng(4), wanted)
    sound = transformed(clicks(), 1.5, 5.5, change=change, effects=())
    assert sound.duration == pytest.approx(4 / change.tempo_ratio, abs=1 / RATE)
    for click in (2.0, 3.0, 5.0):
        place = (click + 20 / RATE - 1.5) / change.tempo_ratio
        assert click_near(sound, place) == pytest.approx(place, abs=0.004)


@pytest.mark.parametrize("period", [0.42, 0.5, 0.62])
def test_beats_and_onsets_of_a_click_track(period):
    sound = clicks(20.0, period)
    strength = rhythm.onset_strength(sound)
    found = rhythm.estimate_beats(strength, RATE)
    assert found.period == pytest.approx(period, rel=0.002)
    away = (found.first - period + period / 2) % period - period / 2
    assert away == pytest.approx(0.0, abs=0.012)
    onsets = rhythm.onsets(sound, strength)
    told = np.arange(period, 19.9, period)
    assert len(onsets) == len(told)
    assert np.abs(onsets - told).max() < 0.004


def test_what_never_recurs_has_no_beat():
    assert rhythm.estimate_beats(np.zeros(2000), RATE) is None
    assert rhythm.estimate_beats(np.ones(50), RATE) is None
    assert not len(rhythm.onsets(Audio(np.zeros(RATE, "f"), RATE), np.zeros(101)))


def test_an_excerpt_lasts_whole_beats_and_begins_on_an_onset():
    sound = Audio(drumming(5).astype("f"), RATE)
    for seed in range(10):
        wish = Wish("break", 0.0, 2, 10.0)
        excerpt = find_excerpt(sound, sound, wish, np.random.default_rng(seed))
        n_beats = (excerpt.end - excerpt.start) / excerpt.beat
        assert n_beats == pytest.approx(8, abs=0.01)
        away = (excerpt.start + 0.005 + 0.125) % 0.25 - 0.125  # eighths
        assert abs(away) < 0.006


def test_an_arrangement_stays_in_its_section_where_it_fits():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        grid = Grid(0.2, 0.5)
        places = arranged(
            2 * RATE, [RATE // 2, RATE], grid, manner="loop", section=(3.0, 15.0), pause=0.0,
            sample_rate=RATE, rng=rng,
        )  # fmt: skip
        assert places[0].at >= 3 * RATE
        assert places[-1].at + 2 * RATE <= 15 * RATE
        assert all(round((p.at / RATE - 0.2) / 0.5, 3) % 1 == 0 for p in places)


def test_pieces_are_faded_at_both_ends():
    places = arranged(
        RATE, [], Grid(0.0, 0.5), manner="once", section=(0.0, 2.0), pause=0.0, sample_rate=RATE,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    track = laid(np.ones(RATE, "f"), places, 2 * RATE, 64)
    piece = track[places[0].at : places[0].at + RATE]
    assert piece[0] == 0
    assert piece[-1] == 0
    assert (piece[64:-64] == 1).all()


def test_a_voice_is_seeded_and_rests():
    first, again = (
        sing(np.random.default_rng(2), seconds=10.0, first=0.1, beat=0.5, sample_rate=RATE)
        for _ in range(2)
    )
    assert np.array_equal(first.samples, again.samples)
    assert np.abs(first.samples).max() == pytest.approx(0.9, abs=1e-3)
    assert 0.2 < np.mean(np.abs(first.samples) > 0.01) < 0.95


def test_a_folder_goes_on_where_it_was_interrupted(tmp_path, crate):
    settings = {"seed": 4, "n_free": 1, "seconds": (10.0, 12.0)}
    whole = write_productions(tmp_path / "whole", crate, 3, **settings)
    part = tmp_path / "part"
    write_productions(part, crate, 2, **{**settings, "n_free": 0})
    (part / whole[2].file).unlink()  # a sound is lost
    manifest = part / MANIFEST
    manifest.write_text(manifest.read_text()[:-20])  # and the last line was cut off

    def stop(done, n):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_productions(part, crate, 3, **settings, report=stop)
    reports = []
    lines = write_productions(part, crate, 3, **settings, report=lambda *r: reports.append(r))
    assert lines == whole == read_productions(part) == read_productions(tmp_path / "whole")
    for line in lines:
        sounds = [(folder / line.file).read_bytes() for folder in (part, tmp_path / "whole")]
        assert sounds[0] == sounds[1]
    assert reports[-1] == (4, 4)
    assert [bool(line.uses) for line in lines] == [False, True, True, True]
    fewer = write_productions(part, crate, 1, **settings)
    assert fewer == [whole[0], whole[1]]  # of a folder that holds more
    assert read_productions(part) == whole


def test_a_written_production_is_in_time_with_its_line(tmp_path, crate):
    (line,) = write_productions(tmp_path, crate, 1, seed=1, seconds=(10.0, 10.0))
    sound = Audio.load(tmp_path / line.file, sample_rate=RATE)
    assert sound.duration == pytest.approx(line.duration, abs=0.03)
    rng = np.random.default_rng([1, False, False, 0])
    made_again = produce(crate, rng, seconds=float(rng.uniform(10.0, 10.0)))
    assert abs(lag_of(sound, made_again.audio)[0]) < 0.001


def test_a_folder_of_other_settings_is_refused(tmp_path, crate):
    write_productions(tmp_path, crate, 1, seed=1, seconds=(10.0, 10.0))
    with pytest.raises(ParameterError, match="made from another crate or with other settings"):
        write_productions(tmp_path, crate, 1, seed=1, seconds=(10.0, 11.0))
    (tmp_path / MANIFEST).write_text("{}\n")
    with pytest.raises(ParameterError, match="is damaged"):
        read_productions(tmp_path)
