"""Samples: the encoder, its training on mixtures, how a sample was played, and where."""

from __future__ import annotations

import csv
import itertools
import json
import re
import struct
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from fakes import BandEnergies
from spolia import sample_stretches
from spolia.alignment import Line
from spolia.audio import Audio
from spolia.cli.sample_commands import sample_lines
from spolia.degradation import change_speed, shift_pitch, stretch
from spolia.encoding import write_wav
from spolia.errors import AudioError, ParameterError
from spolia.fingerprints.base import UNCHANGED, Fingerprint
from spolia.fingerprints.registry import TWO_STAGE
from spolia.labels import audacity, sonic_visualiser, table, write_labels
from spolia.library import Library
from spolia.recording import Recording
from spolia.rivals import Candidate
from spolia.sample_alignment import (
    COARSE,
    FRAME,
    SAMPLE_RATE,
    Played,
    find,
    joined,
    levels,
    patches_of,
)
from spolia.sample_graph import write_graph
from spolia.sample_hints import Hint, hinted, hints_of, hits_of
from spolia.sample_page import LEAST_PIXELS, Windows, matrix_png, plot_png, write_page
from spolia.sample_patches import Near, Pair
from spolia.sample_search import SampleFinder
from spolia.sample_sound import Sounds
from spolia.sample_tracing import Occurrence, polished, trace
from spolia.samples import (
    UNFITTED,
    SampleCalibration,
    Samples,
    calibration_of,
    nominate,
    transformation,
)
from spolia.searching import hinting
from spolia.store.hits import NO_HITS, Hits

RATE = SAMPLE_RATE


def onsets(seed: int) -> np.ndarray:
    """Return the samples at which the chords of a piece begin."""
    lengths = np.random.default_rng(seed).choice([3200, 4800, 7200], 400)
    return np.concatenate([[0], np.cumsum(lengths)])


def onset(seed: int, near: float) -> float:
    """Return the second at which the chord of a piece nearest to a time begins."""
    begins = onsets(seed) / RATE
    return float(begins[np.abs(begins - near).argmin()])


def piece(seed: int, seconds: float = 30.0) -> Audio:
    """Return chords and drums that never repeat."""
    rng = np.random.default_rng([seed, 1])
    n = round(seconds * RATE)
    sound = np.zeros(n + RATE)
    begins = onsets(seed)
    for place, end in itertools.pairwise(begins):
        if place >= n:
            break
        length = int(end - place)
        time = np.arange(length) / RATE
        for _ in range(3):
            pitch = 110 * 2 ** (rng.integers(0, 36) / 12)
            tone = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 6))
            sound[place : place + length] += 0.1 * tone * np.exp(-4 * time)
        hit = rng.normal(size=length // 3) * np.exp(-60 * time[: length // 3])
        sound[place : place + length // 3] += 0.3 * rng.random() * hit
    return Audio(sound[:n].astype(np.float32), RATE)


FIRST, LAST = onset(1, 11.0), onset(1, 14.0)


def mixed(sample: Audio, bed: Audio, starts: list[float], overlay_db: float) -> Audio:
    """Return a bed with a sample at some places, the bed so much louder."""
    sound = bed.samples.copy()
    power = np.sqrt(np.square(sample.samples).mean() / np.square(sound).mean())
    sound *= power * 10 ** (overlay_db / 20)
    for start in starts:
        first = round(start * RATE)
        part = sample.samples[: len(sound) - first]
        sound[first : first + len(part)] += part
    return Audio(sound.astype(np.float32), RATE)


CHANGES = {
    "untouched": (lambda a: a, 1.0, 0.0),
    "varispeed": (lambda a: change_speed(a, 1.12), 1.12, 12 * np.log2(1.12)),
    "stretched": (lambda a: stretch(a, 0.88), 0.88, 0.0),
    "pitched": (lambda a: shift_pitch(a, -3.0), 1.0, -3.0),
}


@pytest.fixture(scope="module")
def recording():
    return piece(1)


@pytest.fixture(scope="module")
def known(recording):
    return levels(recording.samples)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("overlay_db", [-6.0, 3.0])
def test_pitch_tempo_and_every_occurrence_of_a_loop_are_found(recording, known, name, overlay_db):
    change, tempo, semitones = CHANGES[name]
    sample = change(recording.slice(FIRST, LAST))
    starts = [4.0, 4.0 + sample.duration, 4.0 + 2 * sample.duration, 24.0]
    track = mixed(sample, piece(2, 36.0), starts, overlay_db)
    heard = levels(track.samples)
    middle = sample.duration / 2
    pairs = [Pair(s + middle + 0.3, (FIRST + LAST) / 2 - 0.4) for s in starts]
    played = find(heard, known, pairs, seconds=4.0, reach=1.0)
    assert played.tempo == pytest.approx(tempo, rel=0.02)
    found = trace(heard, known, played, seconds=4.0)
    played = polished(heard, known, played, found)
    assert played.tempo == pytest.approx(tempo, rel=0.01)
    assert played.semitones == pytest.approx(semitones, abs=0.25)
    assert min(abs(played.tempo * s + played.offset - FIRST) for s in starts) < 0.05
    found = trace(heard, known, played, seconds=found.seconds)
    assert len(found.occurrences) == 4
    for occurrence, start in zip(found.occurrences, starts, strict=True):
        assert occurrence.query_start == pytest.approx(start, abs=0.08)
        assert occurrence.query_end == pytest.approx(start + sample.duration, abs=0.2)
        assert occurrence.reference_start == pytest.approx(FIRST, abs=0.1)
        assert occurrence.reference_end == pytest.approx(LAST, abs=0.25)
    assert found.pooled > found.z > 4.5


def test_a_loop_is_found_at_both_ends_of_a_long_track(recording, known):
    starts = [4.0, 4.0 + LAST - FIRST, 281.0]  # products are made of 262 s at once
    track = mixed(recording.slice(FIRST, LAST), piece(2, 290.0), starts, -3.0)
    played = Played(FIRST - 4.0, 1.0, 0.0, middle=5.5, correlation=0.5, patch_z=5.0, z=5.0)
    found = trace(levels(track.samples), known, played, seconds=3.0)
    assert [o.query_start for o in found.occurrences] == pytest.approx(starts, abs=0.08)
    assert all(o.reference_start == pytest.approx(FIRST, abs=0.1) for o in found.occurrences)


def test_two_seconds_are_compared_as_far_as_they_go(recording, known):
    track = mixed(recording.slice(FIRST, FIRST + 2.0), piece(2, 2.0), [0.0], -6.0)
    window = Pair(2.05, FIRST + 1.5)  # of four seconds, half of them silence: its middle is the end
    played = find(levels(track.samples), known, [window], seconds=2.0, reach=2.0)
    assert played.tempo == pytest.approx(1.0, abs=0.03)
    assert played.semitones == pytest.approx(0.0, abs=0.25)
    assert played.tempo * 1.0 + played.offset == pytest.approx(FIRST + 1.0, abs=0.05)


def test_what_is_not_there_stands_out_less(known, recording):
    track = mixed(recording.slice(11.0, 14.0), piece(2, 36.0), [4.0, 20.0], 0.0)
    heard, other = levels(track.samples), levels(piece(3).samples)
    pairs = [Pair(5.5, 12.5), Pair(21.5, 12.5)]
    right, wrong = (find(heard, r, pairs, seconds=4.0, reach=1.0) for r in (known, other))
    assert right.z > wrong.z + 2
    assert right.correlation > wrong.correlation + 0.1
    assert right.patch_z > wrong.patch_z + 2


def test_nothing_stands_out_endlessly_in_a_track_that_mostly_rests(known):
    words = np.zeros(25 * RATE, np.float32)
    for start in (3.0, 11.0, 19.0):  # as a voice alone, between long rests
        words[round(start * RATE) : round((start + 0.8) * RATE)] = piece(7, 0.8).samples
    played = Played(6.0, 1.0, 0.0, middle=3.4, correlation=0.5, patch_z=5.0, z=5.0)
    assert trace(levels(words), known, played, seconds=4.0).z < 40.0


def test_silence_is_no_sample_and_levels_have_a_row_every_frame(known):
    silent = levels(np.zeros(5 * RATE, np.float32))
    assert silent.shape == (1 + 5 * RATE // 256, known.shape[1])
    assert not silent.any()
    assert find(silent, known, [Pair(2.0, 12.5)], seconds=4.0, reach=1.0) is None
    assert find(known, silent, [Pair(12.5, 2.0)], seconds=4.0, reach=1.0) is None
    assert FRAME * (len(known) - 1) == pytest.approx(30.0, abs=FRAME)


def hits(rows):
    recordings, query, reference, scores = (np.array(c) for c in zip(*rows, strict=True))
    return Hits(recordings.astype(np.int32), query, reference, scores.astype("f"))


def test_places_are_nominated_by_their_best_pair_and_never_by_their_number():
    long = [(0, t, 10.0 * t, 0.5) for t in np.arange(0.0, 40.0)]
    loop = [(1, 4.0 * i, 20.2 + 0.1 * i, 0.6 - 0.01 * i) for i in range(5)]
    first, *others = nominate(hits(long + loop), seconds=4.0, n=40)
    assert first.recording == 1
    assert first.score == pytest.approx(0.6)
    assert [p.query for p in first.pairs] == [2.0, 6.0, 10.0]
    assert first.pairs[0].recording == pytest.approx(22.2)
    assert len(others) == 3
    assert {n.recording for n in others} == {0}
    assert len(nominate(hits(long + loop), seconds=4.0, n=2)) == 2
    assert nominate(NO_HITS, seconds=4.0, n=40) == []


def test_pairs_of_a_nominee_are_of_different_times():
    near = [(0, 0.25 * i, 30.0 + 0.25 * i, 0.9 - 0.01 * i) for i in range(4)]
    (only,) = nominate(hits(near), seconds=4.0, n=40)
    assert len(only.pairs) == 1


@pytest.mark.parametrize(
    ("semitones", "tempo_ratio", "name"),
    [
        (0.0, 1.0, "untouched"),
        (0.2, 1.009, "untouched"),
        (12 * np.log2(1.1), 1.1, "varispeed"),
        (0.0, 0.8, "stretched"),
        (3.0, 1.0, "pitched"),
        (3.0, 0.9, "both"),
    ],
)
def test_what_was_done_has_a_name(semitones, tempo_ratio, name):
    assert transformation(float(semitones), tempo_ratio) == name


def test_a_calibration_survives_json_and_names_what_is_wrong():
    assert calibration_of({}) is UNFITTED
    assert calibration_of(json.loads(json.dumps(UNFITTED.to_dict()))) == UNFITTED
    with pytest.raises(ParameterError, match="has 18 weights, not 1"):
        SampleCalibration.from_dict({"weights": [1.0], "threshold": 0.5})
    with pytest.raises(ParameterError, match="calibrate the model again"):
        SampleCalibration.from_dict({"threshold": 0.5})


def path(seed, step=0.8):
    """Return unit vectors as a function of time that is smooth over ``step`` seconds."""
    knots = np.arange(0.0, 60.0, step)
    values = np.random.default_rng([seed, 2]).normal(size=(32, len(knots)))

    def at(times):
        rows = np.stack([np.interp(times, knots, column) for column in values], axis=1)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype("f")

    return at


class Oracle:
    """Stands in for the encoder: knows pieces by their sound, and roughly what a track samples."""

    method, model_id, sample_rate = "samples", "oracle-1", RATE
    hop_seconds, segment_seconds, step = 0.512, 4.096, 0.8
    card = SimpleNamespace(calibration={})

    def __init__(self):
        self.beginnings = np.stack([piece(n).samples[:2000] for n in range(5)])

    def fingerprint_blocks(self, blocks):
        audio = Audio(np.concatenate([block.samples for block in blocks]), RATE)
        distance = np.abs(self.beginnings - audio.samples[:2000]).mean(1)
        return self.made(audio, path(int(distance.argmin()), self.step))

    def fingerprint_query(self, audio, change=UNCHANGED):
        def at(times):
            vectors = path(99)(times)
            for start in STARTS if audio.duration == 30.0 else []:
                inside = np.abs(times + 2.0 - (start + LOOP / 2)) < 1.0
                vectors[inside] = path(1)(FIRST + 1.05 * (times[inside] - start) + 0.6)
            return vectors

        return self.made(audio, at)

    def made(self, audio, at):
        times = np.arange(0.0, audio.duration - self.segment_seconds, self.hop_seconds)
        return Fingerprint(self.method, self.model_id, times, at(times), audio.duration)


@pytest.fixture(scope="module")
def crate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crate")
    for number in range(5):
        write_wav(folder / f"{number}.wav", piece(number))
    return folder


@pytest.fixture(scope="module")
def library(crate, tmp_path_factory):
    with Library(tmp_path_factory.mktemp("library"), fingerprinters=[Oracle()]) as opened:
        opened.add([crate])
        yield opened


LOOP = (onset(1, 13.6) - FIRST) / 1.05  # seconds, five per cent faster
STARTS = [4.0, 4.0 + LOOP, 4.0 + 2 * LOOP, 20.0]


@pytest.fixture(scope="module")
def track(tmp_path_factory):
    """Return a new track that loops a part of piece 1, five per cent faster, under piece 9."""
    loop = change_speed(piece(1).slice(FIRST, onset(1, 13.6)), 1.05)
    path = tmp_path_factory.mktemp("tracks") / "new & old.wav"
    write_wav(path, mixed(loop, piece(9, 30.0), STARTS, 0.0))
    return path


@pytest.fixture(scope="module")
def answer(library, track):
    return library.find_samples(track)


def test_a_buried_loop_is_found_with_its_spans_pitch_tempo_and_count(answer):
    assert answer.decided
    match = answer.matches[0]
    assert match.recording.path.endswith("1.wav")
    assert match.tempo_ratio == pytest.approx(1.05, rel=0.01)
    assert match.semitones == pytest.approx(12 * np.log2(1.05), abs=0.25)
    assert match.transformation == "varispeed"
    assert len(match.occurrences) == 4
    for occurrence, start in zip(match.occurrences, STARTS, strict=True):
        assert occurrence.query_start == pytest.approx(start, abs=0.1)
        assert occurrence.query_end == pytest.approx(start + LOOP, abs=0.2)
        assert occurrence.reference_start == pytest.approx(FIRST, abs=0.15)
    assert match.coverage == pytest.approx(4 * LOOP, abs=0.8)
    assert match.part == "mix"


def test_the_answer_in_json_is_as_the_contract_says(answer):
    values = json.loads(json.dumps(answer.to_dict()))
    assert set(values) == {"query", "duration", "seconds", "decided", "matches"}
    match = values["matches"][0]
    assert {"recording", "probability", "semitones", "tempo_ratio", "transformation"} < set(match)
    assert {"part", "occurrences", "query_start", "reference_start", "method"} < set(match)
    names = {"query_start", "query_end", "reference_start", "reference_end", "score"}
    assert all(set(o) == names for o in match["occurrences"])


def test_a_track_that_samples_nothing_is_said_to(library):
    other = library.find_samples(piece(20, 29.0))
    assert not other.decided
    assert other.matches == []
    assert "no sample found" in sample_lines(other)[0]
    shown = library.find_samples(piece(20, 29.0), top=3)
    assert not shown.decided
    with pytest.raises(AudioError):
        library.find_samples(Audio(np.zeros(10 * RATE, np.float32), RATE))
    with pytest.raises(ParameterError, match="do not identify clips"):
        library.identify(piece(1).slice(3.0, 9.0), method="samples")


def test_patches_of_a_query_are_forgotten_with_the_answer(library, track):
    finder = library.sample_finder(Audio.load(track, sample_rate=RATE))
    assert finder.matches()
    caches = finder.patches._patch, finder.patches._stretches
    assert [cache.cache_info().currsize for cache in caches] == [0, 0]


def test_sound_of_recordings_is_read_once_for_several_queries(library, track, monkeypatch):
    whole = Audio.load(track, sample_rate=RATE)
    first = library.find_samples(whole)
    assert first.matches
    monkeypatch.setattr("spolia.sample_sound.levels", None)  # would fail if it were called
    again = library.find_samples(whole)
    assert [m.to_dict() for m in again.matches] == [m.to_dict() for m in first.matches]


def test_sound_is_read_anew_when_a_file_has_changed(tmp_path):
    path = tmp_path / "one.wav"
    recordings = {}

    def added(piece_number):
        write_wav(path, piece(piece_number, 8.0))
        status = path.stat()
        recordings["id"] = Recording(
            "id", str(path), 8.0, size=status.st_size, modified=status.st_mtime_ns
        )

    added(1)
    sounds = Sounds(recordings.__getitem__)
    first, origin = sounds.levels("id", 2.2, 4.7)
    assert origin == 0.0  # a short recording is read whole
    assert sounds.levels("id", 1.0, 3.0)[0] is first
    write_wav(path, piece(2, 8.5))
    assert sounds.levels("id", 2.2, 4.7) is None
    assert sounds.load("id", 2.0, 4.0) is None
    added(2)
    assert not np.array_equal(sounds.levels("id", 2.2, 4.7)[0], first)
    path.unlink()
    assert sounds.levels("id", 2.2, 4.7) is None


def test_a_long_track_is_asked_about_stretch_by_stretch(library, answer, monkeypatch):
    monkeypatch.setattr(sample_stretches, "LONGEST", 40.0)
    monkeypatch.setattr(sample_stretches, "STRETCH", 35.0)
    monkeypatch.setattr(sample_stretches, "OVERLAP", 5.0)
    starts = [first + i * LOOP for first in (4.0, 21.0, 48.0) for i in range(3)]  # 21: in two
    loop = change_speed(piece(1).slice(FIRST, onset(1, 13.6)), 1.05)
    done = []
    found = library.find_samples(
        mixed(loop, piece(9, 66.0), starts, -6.0),
        threshold=0.5,
        progress=lambda *of: done.append(of),
    )
    (match,) = found.matches
    assert match.recording.path.endswith("1.wav")
    begun = np.array([o.query_start for o in match.occurrences])
    assert np.all(np.abs(begun[:, None] - starts).min(1) < 0.15)
    assert len(starts) - 1 <= len(begun) <= len(starts)  # none twice, in all stretches
    assert np.diff(begun).min() > 1.0
    assert found.duration == pytest.approx(66.0)
    assert np.all(np.diff(found.fingerprint.times) > 0)
    assert found.fingerprint.times[-1] > 60.0
    assert done == sorted(done)
    assert done[-1][0] == done[-1][1]


def test_people_read_what_was_sampled(answer):
    text = "\n".join(sample_lines(answer))
    assert re.search(
        r"1\.wav: 4 times, varispeed; \+[45]\.\d % tempo, \+0\.[789] semitones; mix", text
    )
    assert "0:04.0–" in text


def test_labels_hold_every_occurrence(answer, tmp_path):
    paths = write_labels(tmp_path / "labels", answer)
    assert [p.name for p in paths] == [
        "new & old.audacity.txt",
        "new & old.sonic-visualiser.csv",
        "new & old.csv",
    ]
    regions = [line.split("\t") for line in audacity(answer).splitlines()]
    assert [float(r[0]) for r in regions] == pytest.approx(STARTS, abs=0.1)
    assert all(r[2].startswith("1.wav ") for r in regions)
    layers = list(csv.reader(sonic_visualiser(answer).splitlines()))
    assert [float(r[2]) for r in layers] == pytest.approx([LOOP] * 4, abs=0.2)
    head, *rows = csv.reader(table(answer).splitlines())
    assert len(rows) == 4
    first = dict(zip(head, rows[0], strict=True))
    assert (first["transformation"], first["part"]) == ("varispeed", "mix")
    assert audacity(Samples("x", 1.0, 0.1, [replace(answer.matches[0], decided=False)])) == ""


def test_a_catalogue_becomes_a_graph(answer, tmp_path):
    doubtful = replace(answer.matches[0], decided=False)
    other = Samples("other.wav", 3.0, 0.1, [doubtful])
    write_graph(tmp_path / "who.json", [answer, other])
    graph = json.loads((tmp_path / "who.json").read_text())
    assert [n["name"] for n in graph["nodes"]] == ["new & old.wav", "other.wav", "1.wav"]
    (link,) = graph["links"]
    assert (link["source"], link["transformation"]) == (answer.query, "varispeed")
    assert link["part"] == "mix"
    assert (link["target"], link["occurrences"]) == (answer.matches[0].recording.path, 4)
    write_graph(tmp_path / "who.graphml", [answer, other])
    root = ElementTree.parse(tmp_path / "who.graphml").getroot()
    space = "{http://graphml.graphdrawing.org/xmlns}"
    assert len(root.findall(f".//{space}node")) == 3
    (edge,) = root.findall(f".//{space}edge")
    assert edge.get("target") == answer.matches[0].recording.path
    assert {d.get("key") for d in edge} >= {"probability", "tempo_ratio", "occurrences"}
    with pytest.raises(ParameterError, match="end with .json or .graphml"):
        write_graph(tmp_path / "who.png", [answer])


def test_recordings_can_be_left_out(answer, library, track):
    own = answer.matches[0].recording.id
    again = library.find_samples(track, top=5, without=[own])
    assert own not in {m.recording.id for m in again.matches}
    assert not again.decided


def unpacked(png):
    """Return a PNG's pixels, grey or in three colours."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", png[16:24])
    place, data = 8, b""
    while place < len(png):
        (size,) = struct.unpack(">I", png[place : place + 4])
        kind, body = png[place + 4 : place + 8], png[place + 8 : place + 8 + size]
        checksum = struct.unpack(">I", png[place + 8 + size : place + 12 + size])[0]
        assert checksum == zlib.crc32(kind + body)
        data += body if kind == b"IDAT" else b""
        place += 12 + size
    colours = {0: 1, 2: 3}[png[25]]
    rows = np.frombuffer(zlib.decompress(data), np.uint8).reshape(height, colours * width + 1)
    return rows[:, 1:] if colours == 1 else rows[:, 1:].reshape(height, width, 3)


def test_the_matrix_is_dark_where_both_are_alike():
    values = np.eye(12, dtype=np.float32)
    windows = [
        Fingerprint("samples", None, np.arange(float(n)), values[:n], n + 3.0) for n in (8, 12)
    ]
    picture = unpacked(matrix_png(Windows(windows[0], windows[1], 4.0)))
    assert picture.shape == (12, 8)
    assert picture[11, 0] == picture[4, 7] == picture.min()  # the recording's time goes upwards
    assert picture[0, 0] == picture.max()
    line = Occurrence(3.0, 6.0, 4.0, 7.0, 0.9)
    large = unpacked(plot_png(Windows(windows[0], windows[1], 4.0), [line]))
    scale = LEAST_PIXELS // 12 + 1
    assert large.shape == (12 * scale, 8 * scale, 3)
    grey = (large[:, :, 0] == large[:, :, 1]) & (large[:, :, 1] == large[:, :, 2])
    rows, columns = np.nonzero(~grey)
    width, height = 8 * scale - 1, 12 * scale - 1  # middles of windows: 2 s before the line's ends
    assert columns.min() == pytest.approx(width * 1 / 7, abs=2)
    assert columns.max() == pytest.approx(width * 4 / 7, abs=2)
    assert rows.max() == pytest.approx(height * (1 - 2 / 11), abs=3)
    assert rows.min() == pytest.approx(height * (1 - 5 / 11), abs=3)
    assert np.array_equal(large[grey][:, 0], picture.repeat(scale, 0).repeat(scale, 1)[grey])


class Players(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.text, self.open = [], "", []

    def handle_starttag(self, tag, attrs):
        if tag in ("audio", "img"):
            self.sources.append((tag, dict(attrs)["src"]))

    def handle_data(self, data):
        self.text += data


def test_the_page_stands_alone_and_lets_one_hear_both(answer, library, track, tmp_path):
    windows = [
        Windows(answer.fingerprint, library.catalog.fingerprint(m.recording.id, "samples"), 4.16)
        for m in answer.matches
    ]
    page = tmp_path / "pages" / "one.html"
    write_page(page, answer, Audio.load(track, sample_rate=RATE), windows)
    parsed = Players()
    parsed.feed(page.read_text())
    assert "new & old.wav" in parsed.text
    assert "varispeed: 1.05" in parsed.text
    assert " · mix · " in parsed.text
    kinds = [tag for tag, _ in parsed.sources]
    assert kinds.count("audio") == 2 * len(answer.matches)
    assert kinds.count("img") == len(answer.matches)
    assert all(src.startswith("data:") for _, src in parsed.sources)
    assert "http" not in page.read_text().replace("http-equiv", "")


@pytest.mark.parametrize("semitones", [-7, 0, 5])
@pytest.mark.parametrize("middle", [1.0, 8.0])  # the first patch is cut short by the beginning
def test_patches_find_pitch_and_place_of_equal_levels(known, semitones, middle):
    rows = joined(known, COARSE)
    shifted = np.roll(rows, semitones, axis=1)
    shifted[:, :semitones] = 0.0 if semitones > 0 else shifted[:, :semitones]
    if semitones < 0:
        shifted[:, semitones:] = 0.0
    query = np.repeat(shifted[150:450], 2, axis=1)  # joined() takes means of two bands a semitone
    query = np.repeat(query, COARSE, axis=0)
    place = 150 * COARSE * FRAME
    pairs = [Pair(middle, middle + place + 1.3)]
    found = patches_of(query, seconds=4.0, reach=2.0).fit(rows, pairs)
    assert found.semitones == semitones
    assert found.tempo == pytest.approx(1.0, abs=0.015)
    assert found.pair.recording - found.pair.query == pytest.approx(place, abs=COARSE * FRAME)
    assert 0.8 < found.correlation < 1.2  # the energy is that of all that was searched
    assert found.z > 6.0
    assert found.patch_z > 6.0


def test_with_nothing_beside_it_a_recording_is_ahead_of_nothing(library, track):
    audio = Audio.load(track, sample_rate=RATE)
    others = [r.id for r in library if not r.path.endswith("1.wav")]
    for left_out, ahead in ((others[:-1], True), (others, False)):
        evidence = library.sample_finder(audio, without=left_out).evidence()
        assert [e.lead != 0.0 for e in evidence[:1]] == [ahead]


def test_parts_are_heard_of_what_is_shown(library, track, monkeypatch):
    heard = []
    monkeypatch.setattr(SampleFinder, "_part", lambda _, e: heard.append(e.recording_id) or "mix")
    shown = library.find_samples(track, threshold=0.5)
    assert shown.matches
    assert sorted(heard) == sorted(m.recording.id for m in shown.matches)
    heard.clear()
    shown = library.find_samples(track, threshold=1.0, top=2)
    assert sorted(heard) == sorted(m.recording.id for m in shown.matches)
    assert len(heard) == 2


def test_occurrences_stand_where_their_windows_do_after_silence():
    values = np.eye(40, dtype=np.float32)
    times = np.concatenate([np.arange(20) * 0.5, 60.0 + np.arange(20) * 0.5])
    windows = Windows(*[Fingerprint("samples", None, times, values, 75.0)] * 2, 4.0)
    picture = unpacked(plot_png(windows, [Occurrence(62.0, 71.5, 62.0, 71.5, 0.9)]))
    red = np.flatnonzero((picture[:, :, 0] != picture[:, :, 1]).any(axis=0))
    assert red.min() / picture.shape[1] == pytest.approx(20 / 39, abs=0.02)
    assert red.max() / picture.shape[1] == pytest.approx(1.0, abs=0.01)


def test_a_long_matrix_is_thinned():
    values = np.ones((7000, 4), np.float32)
    long = Fingerprint("samples", None, np.arange(7000) * 0.5, values, 3504.0)
    assert unpacked(matrix_png(Windows(long, long, 4.0))).shape == (1000, 1000)


def test_names_that_xml_and_labels_cannot_hold_are_made_to(answer, tmp_path):
    (match, *_) = answer.matches
    odd = replace(match, recording=replace(match.recording, title="a\x0bb\rc", path="/x\x01.wav"))
    strange = replace(answer, query="new\x02.wav", matches=[odd])
    write_graph(tmp_path / "who.graphml", [strange])
    edges = list(ElementTree.parse(tmp_path / "who.graphml").getroot().iter())
    assert any(e.get("target") == "/x .wav" for e in edges)
    assert audacity(strange).splitlines()[0].split("\t")[2].startswith("a b c ")


class Misled(Oracle):
    """Hears piece 0 in every track."""

    def fingerprint_query(self, audio, change=UNCHANGED):
        return self.made(audio, path(0))


class Told(Oracle):
    """Segment vectors that know where a track samples piece 1, and nothing else."""

    method, model_id = "segments", "told-1"
    hop_seconds, segment_seconds, step = 0.2, 1.0, 0.3
    calibration, confirmation, delay, query_changes = BandEnergies.calibration, None, {}, ()

    def fingerprint_query(self, audio, change=UNCHANGED):
        def at(times):
            vectors = path(99, self.step)(times)
            inside = (times >= STARTS[0]) & (times < STARTS[0] + LOOP - 1.0)
            played = FIRST + 1.05 * (times[inside] - STARTS[0])
            vectors[inside] = path(1, self.step)(played)
            return vectors

        return self.made(audio, at)


def test_places_that_another_method_finds_are_heard_too(crate, track, tmp_path, monkeypatch):
    monkeypatch.setattr("spolia.sample_search.N_NOMINEES", 1)
    for methods, found in ((["samples"], False), (["segments"], True)):
        given = [Misled(), Told()][: 1 + found]
        with Library(tmp_path / "held", methods=methods, fingerprinters=given) as library:
            library.add([crate])
            matches = library.find_samples(track, top=5).matches
            right = [m for m in matches if m.recording.path.endswith("1.wav")]
            assert len(right) == found
            if found:
                assert right[0] is matches[0]
                assert right[0].tempo_ratio == pytest.approx(1.05, rel=0.01)
                assert right[0].features[16] > 1.0
                own = right[0].recording.id
                left = library.find_samples(track, top=5, without=[own]).matches
                assert own not in {m.recording.id for m in left}
                assert len({m.recording.id for m in matches}) == len(matches)


def test_large_libraries_give_hints_by_runs():
    held = [TWO_STAGE, "segments", "compressed", "landmarks", "samples"]
    assert hinting(held, 3600.0) == ["segments", "landmarks"]
    assert hinting(held, 200 * 3600.0) == [TWO_STAGE, "landmarks"]
    assert hinting(["segments", "samples"], 200 * 3600.0) == ["segments"]
    assert hinting(["compressed", "samples"], 3600.0) == []


def test_hints_lie_on_the_lines_of_the_most_probable_recordings():
    def candidate(name, probability, end=20.0):
        line = Line(1.05, 3.0, 10.0, end, 0.8, 5.0, 4.0)
        return Candidate(name, line, probability=probability, semitones=0.8)

    found = [candidate("a", 1.0), candidate("left out", 0.9), candidate("a", 0.5)]
    found += [candidate("b", 1e-4), candidate("c", 0.1, 12.0)]
    found += [candidate(f"d{i}", 1e-9) for i in range(9)]
    numbers = {name: i for i, name in enumerate(["c", "b", "a", *(f"d{i}" for i in range(9))])}
    hints = hints_of(found, numbers)
    assert [h.recording for h in hints] == [2, 1, 0, 3, 4, 5]
    assert [(p.query, p.recording) for p in hints[0].pairs] == [
        pytest.approx((15.0, 18.75)),
        pytest.approx((15.0 - 10 / 3, 18.75 - 3.5)),
        pytest.approx((15.0 + 10 / 3, 18.75 + 3.5)),
    ]
    assert len(hints[2].pairs) == 1
    assert hints[0].near == Near(0.8, 1.05, pytest.approx(0.055))
    assert hints[2].near.doubt == pytest.approx(0.155)
    assert [h.word for h in hints[:4]] == [10.0, 0.0, pytest.approx(3 - np.log(9)), 0.0]


def test_a_patch_is_looked_for_where_it_is_said_to_be(known):
    rows = joined(known, COARSE)
    query = np.repeat(np.repeat(np.roll(rows, 3, axis=1)[150:450], 2, axis=1), COARSE, axis=0)
    patches, place = patches_of(query, seconds=4.0, reach=6.0), 150 * COARSE * FRAME
    pairs = [Pair(8.0, 8.0 + place)]
    free = patches.fit(rows, pairs)
    told = patches.fit(rows, pairs, Near(2.0, 1.02, 0.05))
    assert told == free
    wrong = patches.fit(rows, pairs, Near(-4.0, 1.02, 0.05))
    assert abs(wrong.semitones + 4) <= 2
    assert wrong.patch_z < free.patch_z / 2
    away = patches.fit(rows, [Pair(8.0, 8.0 + place + 3.0)], Near(3.0, 1.0, 0.05))
    assert abs(away.pair.recording - away.pair.query - place - 3.0) < 0.5
    assert away.patch_z < free.patch_z
    outside = patches.fit(rows, pairs, Near(-99.0, 99.0, 0.05))
    assert outside.semitones <= -6
    assert outside.tempo > 1.4


def test_hints_without_vectors_are_left_out():
    def vectors(times):
        values = np.eye(4, dtype=np.float32)[np.arange(len(times)) % 4]
        return Fingerprint("samples", None, np.array(times, float), values, 20.0)

    pairs = (Pair(6.0, 9.5), Pair(8.0, 11.5))
    hints = [Hint(n, pairs, Near(1.0, 1.1, 0.1), 3.0) for n in (0, 1)]
    stored = {0: vectors([]), 1: vectors([7.5, 8.0])}
    query = vectors([0.0, 1.0, 2.0, 3.0, 4.0])
    (one,) = hinted(hints, query, stored.get, seconds=4.0)
    assert (one.recording, one.pairs, one.near, one.word) == (1, pairs, hints[1].near, 3.0)
    assert one.score == 1.0  # of the windows that begin at 4 s and at 7.5 s
    assert hinted(hints, vectors([]), stored.get, seconds=4.0) == []
    found = hits_of([one, replace(one, pairs=(Pair(1.0, 1.5),))], seconds=4.0)
    assert found.query_times.tolist() == [4.0, 0.0]
    assert found.reference_times.tolist() == [7.5, 0.0]
    assert len(hits_of([], seconds=4.0)) == 0


def test_of_long_tracks_other_methods_hear_no_other_pitches(crate, track, tmp_path, monkeypatch):
    class Counting(Told):
        query_changes, heard = (UNCHANGED, UNCHANGED), []

        def fingerprint_query(self, audio, change=UNCHANGED):
            self.heard.append(audio.duration)
            return self.made(audio, path(99, self.step))

    given = [Misled(), Counting()]
    with Library(tmp_path / "held", fingerprinters=given) as library:
        library.add([crate])
        for longest, n in ((90.0, 3), (29.0, 1)):
            monkeypatch.setattr("spolia.library.LONGEST_SHIFTED", longest)
            Counting.heard.clear()
            library.sample_finder(Audio.load(track, sample_rate=RATE))
            assert Counting.heard == [30.0] * n
