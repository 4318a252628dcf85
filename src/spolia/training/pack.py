"""Packs: folders of rendered recordings in the layout of a corpus, reproducible from a seed.

Recording ``i`` of a pack depends on the seed and ``i`` only (up to −60 dB in the first 4 ms of a
note, where FluidSynth remembers the voice's last one), so a pack can be rendered by several
threads, interrupted, continued, and extended.
"""

from __future__ import annotations

import csv
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from spolia.audio import Audio
from spolia.corpus import CorpusFile, read_manifest
from spolia.encoding import encode, write_whole
from spolia.errors import TrainingError
from spolia.training.arrangement import Rng, draw_arrangement, perform
from spolia.training.instruments import SoundFont, find_fonts
from spolia.training.scores import read_score
from spolia.training.voices import crowd, line, talk

FONT_CREDITS = {  # by file name, for the attributions of model cards
    "FluidR3_GM.sf2": "Fluid R3, Frank Wen, MIT",
    "FluidR3Mono_GM.sf3": "Fluid R3 Mono, Frank Wen and Michael Cowgill, MIT",
    "MuseScore_General_Lite.sf3": "MuseScore General, S. Christian Collins and others, MIT",
    "OPL-3_FM_128M.sf2": "OPL-3 FM 128M, Zandro Reveille, CC BY-SA 4.0",
    "TimGM6mb.sf2": "TimGM6mb, Tim Brechbill, GPL-2",
    "sf_GMbank.sf2": "sf_GMbank, public domain",
}
VALIDATION_FONTS = ("TimGM6mb.sf2",)  # never heard in training
SAMPLE_RATE = 16000
BIT_RATE = 24000
N_TRIES = 5
TALK_SECONDS = 15.0
FIELDS = ("file", "group", "licence_class", "attribution", "category", "kind", "title")


@dataclass(frozen=True)
class PackPlan:
    """What a pack holds."""

    n: int  # recordings
    seed: int
    split: str = "train"  # "train" or "val": which scores and fonts
    seconds: float = 75.0  # length of a recording, less where the score is shorter
    voices: float = 0.3  # share of recordings with a voice over them
    stems: bool = False  # also write the stems, as the corpus does
    n_talks: int = 0  # noises beside them: speakers and crowds in turn


class Packer:
    """Renders one pack; one sound font is open per thread and font."""

    def __init__(
        self, corpus: Path, folder: Path, plan: PackPlan, fonts: Sequence[Path] | None = None
    ) -> None:
        self.corpus, self.folder, self.plan = corpus, folder, plan
        self.scores = [f for f in read_manifest(corpus, "midi") if _usable(f, plan.split)]
        if not self.scores:
            raise TrainingError(f"{corpus} has no MIDI files of the split {plan.split!r}")
        self.fonts = list(fonts or _fonts_of(plan.split))
        self._local = threading.local()
        self._score = lru_cache(maxsize=512)(lambda file: read_score(corpus / file))

    def render(self, *, threads: int = 1, report: Callable[[int, int], None]) -> None:
        """Render what is missing, then write the manifests; ``report`` gets (done, all)."""
        wanted = [*map(self.file, range(self.plan.n)), *map(self.talk_file, self._talks)]
        makers = [partial(self._make, i) for i in range(self.plan.n)]
        makers += [partial(self._make_talk, i) for i in self._talks]
        missing = [
            maker
            for file, maker in zip(wanted, makers, strict=True)
            if not (self.folder / file).is_file()
        ]
        for folder in {(self.folder / file).parent for file in wanted}:
            folder.mkdir(parents=True, exist_ok=True)
        done = len(wanted) - len(missing)
        report(done, len(wanted))
        with ThreadPoolExecutor(threads) as pool:
            for _ in _bounded(pool, missing, 2 * threads):
                done += 1
                report(done, len(wanted))
        self._write_manifests()

    @property
    def _talks(self) -> range:
        return range(self.plan.n_talks)

    def file(self, i: int) -> str:
        """Return the name of recording ``i`` relative to the pack."""
        return f"tracks/rendered-{self.plan.split}-{self.plan.seed}-{i:05d}.opus"

    def talk_file(self, i: int) -> str:
        """Return the name of a noise: even numbers are speakers, odd ones crowds."""
        kind = "crowd" if i % 2 else "speech"
        return f"noise/{kind}-{self.plan.split}-{self.plan.seed}-{i:05d}.opus"

    def _rng(self, i: int, part: int) -> Rng:
        return np.random.default_rng([self.plan.seed, self.plan.split == "val", i, part])

    def _choice(self, i: int) -> tuple[CorpusFile, Path]:
        """Return the score and the font of a recording."""
        rng = self._rng(i, 0)
        score = self.scores[int(rng.integers(len(self.scores)))]
        return score, self.fonts[int(rng.integers(len(self.fonts)))]

    def _make(self, i: int) -> None:
        mix, stems = self._perform(i)
        if self.plan.stems:
            for kind, stem in stems.items():
                target = self.folder / self._stem_file(i, kind)
                target.parent.mkdir(exist_ok=True)
                write_whole(target, encode(stem, codec="flac", container="flac"))
        data = encode(mix, codec="libopus", container="ogg", bit_rate=BIT_RATE)
        write_whole(self.folder / self.file(i), data)

    def _make_talk(self, i: int) -> None:
        rng = self._rng(i, N_TRIES + 1)
        sound = (crowd if i % 2 else talk)(rng, seconds=TALK_SECONDS)
        data = encode(sound, codec="libopus", container="ogg", bit_rate=BIT_RATE)
        write_whole(self.folder / self.talk_file(i), data)

    def _perform(self, i: int) -> tuple[Audio, dict[str, Audio]]:
        chosen, font = self._choice(i)
        score = self._score(chosen.file)
        for attempt in range(1, N_TRIES + 1):
            rng = self._rng(i, attempt)
            drawn = draw_arrangement(score, rng, seconds=self.plan.seconds, voices=self.plan.voices)
            try:
                return perform(score, drawn, self._font(font), speak=line, rng=rng)
            except TrainingError:
                if attempt == N_TRIES:
                    raise
        raise AssertionError("unreachable")

    def _font(self, path: Path) -> SoundFont:
        opened: dict[Path, SoundFont] = self._local.__dict__.setdefault("fonts", {})
        if path not in opened:
            opened[path] = SoundFont(path, sample_rate=SAMPLE_RATE)
        return opened[path]

    def _stem_file(self, i: int, kind: str) -> str:
        return f"samples/{Path(self.file(i)).stem}__{kind}.flac"

    def _write_manifests(self) -> None:
        tracks, stems = [], []
        for i in range(self.plan.n):
            score, font = self._choice(i)
            credit = FONT_CREDITS.get(font.name, font.name)
            by = f"{score.attribution}; rendered by spolia with the sound font {credit}"
            row = (score.group, "train", by, "rendered")
            tracks.append((self.file(i), *row, "", Path(score.file).stem))
            for path in sorted(self.folder.glob(self._stem_file(i, "*"))):
                stems.append((f"samples/{path.name}", *row, "stem", path.stem))
        write_table(self.folder / "tracks.csv", FIELDS, tracks)
        splits = [("track", row[0], self.plan.split) for row in tracks]
        noises = [
            (file, file, "train", "spoken by eSpeak NG", Path(file).name.split("-")[0], "", "")
            for file in map(self.talk_file, self._talks)
        ]
        for kind, manifest, rows in (("sample", "samples", stems), ("noise", "noise", noises)):
            if rows:
                write_table(self.folder / f"{manifest}.csv", FIELDS, rows)
                splits += [(kind, row[0], self.plan.split) for row in rows]
        write_table(self.folder / "split.csv", ("kind", "file", "split"), splits)


def _usable(file: CorpusFile, split: str) -> bool:
    return file.split == split and file.licence_class == "train"


def _fonts_of(split: str) -> list[Path]:
    fonts = [f for f in find_fonts() if (f.name in VALIDATION_FONTS) == (split == "val")]
    if not fonts:
        wanted = "timgm6mb-soundfont" if split == "val" else "fluid-soundfont-gm"
        raise TrainingError(
            f"no sound font for the split {split!r} is installed; "
            f"install the system's package {wanted}, or name fonts with --font"
        )
    return fonts


def _bounded(
    pool: ThreadPoolExecutor, items: Sequence[Callable[[], None]], most: int
) -> Iterator[None]:
    """Yield as items are done, at most ``most`` under way: Ctrl-C waits for these only."""
    waiting = iter(items)
    running: set[Future[None]] = set()
    while True:
        for item in waiting:
            running.add(pool.submit(item))
            if len(running) >= most:
                break
        if not running:
            return
        finished, running = wait(running, return_when=FIRST_COMPLETED)
        for future in finished:
            future.result()
            yield


def write_table(target: Path, head: Sequence[str], rows: Sequence[tuple[str, ...]]) -> None:
    """Write a manifest that appears whole or not at all."""
    unfinished = target.with_suffix(".partial")
    with unfinished.open("w", newline="") as out:
        csv.writer(out).writerows([head, *rows])
    unfinished.replace(target)
