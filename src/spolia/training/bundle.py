"""Bundles: what training needs of corpora, small enough to be carried to another machine.

An excerpt of every recording and the same excerpt of its stems, noises and responses, at a low bit
rate, in parts below a size. A part is a corpus of its own, of which any number can be trained on;
a recording and its stems are in one part, and each part holds some of every corpus.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from spolia.audio import Audio
from spolia.corpus import CorpusFile, read_manifests, trainable
from spolia.encoding import encode, write_whole
from spolia.errors import AudioError, TrainingError
from spolia.production.crate import duration, named_stems, read
from spolia.training.pack import FIELDS, write_table
from spolia.training.running import data_digest

logger = logging.getLogger(__name__)

KINDS = {"ir": "ir", "noise": "noise", "track": "tracks", "stem": "samples"}  # → manifest, folder
PLAN = "bundle.json"
ABOUT = 500  # bytes of a file's rows in the manifests, roughly

Report = Callable[[int, int], None]
T = TypeVar("T")
M = TypeVar("M")


@dataclass(frozen=True)
class BundlePlan:
    """How small a bundle is."""

    seconds: float = 40.0  # of each recording and noise, from its middle
    bit_rate: int = 24000  # bits a second of Opus; responses stay lossless
    part_mb: float = 60.0  # megabytes of a part, at most


@dataclass(frozen=True)
class Entry:
    """A file of a corpus that goes into a bundle."""

    kind: str  # of KINDS
    file: CorpusFile
    target: str  # path relative to a part


class Bundler:
    """Makes one bundle, or goes on with it."""

    def __init__(self, corpora: Sequence[Path], folder: Path, plan: BundlePlan) -> None:
        """Raises TrainingError where the folder holds a bundle of another plan or other corpora."""
        self.folder, self.plan = folder, plan
        self.items = list(_items(corpora))
        known = folder / PLAN
        values = {**asdict(plan), "data": data_digest(corpora)}
        if known.is_file() and json.loads(known.read_text()) != values:
            raise TrainingError(
                f"{folder} holds a bundle made with {known.read_text().strip()}; give the same "
                "settings and corpora to go on with it, or choose another folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(known, (json.dumps(values) + "\n").encode())

    def bundle(self, *, threads: int = 1, report: Report) -> list[Path]:
        """Make what is missing, then write the manifests; return the parts.

        ``report`` gets (done, all) recordings, noises and responses. What cannot be decoded is left
        out with a warning.
        """
        held = self._held()
        missing = [item for item in self.items if item[0].target not in held]
        done = len(self.items) - len(missing)
        report(done, len(self.items))
        part = max(held.values(), default=1)
        size = sum(f.stat().st_size for f in self._part(part).rglob("*.*"))
        with ThreadPoolExecutor(threads) as pool:
            for item, made in _in_order(pool, self._made, missing, 4 * threads):
                n_bytes = sum(len(content) + ABOUT for content in made)
                if made and size > 0 and size + n_bytes > self.plan.part_mb * 1e6:
                    part, size = part + 1, 0
                self._write(part, item, made)
                size += n_bytes
                done += 1
                report(done, len(self.items))
        return self._write_manifests()

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number}"

    def _held(self) -> dict[str, int]:
        """Return the part of each recording, noise and response that is there already."""
        parts = [p for p in self.folder.glob("part-*") if p.is_dir()]
        return {
            str(file.relative_to(part)): int(part.name.removeprefix("part-"))
            for part in parts
            for file in part.glob("*/*.*")
            if file.suffix in (".opus", ".flac")
        }

    def _made(self, item: list[Entry]) -> list[bytes]:
        """Return the files of an item; none of one that cannot be decoded."""
        whole = item[0]
        try:
            if whole.kind == "ir":
                sound = Audio.load(whole.file.path)
                return [encode(sound, codec="flac", container="flac")]
            start = max(0.0, (duration(whole.file) - self.plan.seconds) / 2)
            end = start + self.plan.seconds
            sounds = [read(entry.file, start=start, end=end) for entry in item]
        except AudioError as error:
            logger.warning("left out: %s", error)
            return []
        rate = self.plan.bit_rate
        return [encode(s, codec="libopus", container="ogg", bit_rate=rate) for s in sounds]

    def _write(self, part: int, item: list[Entry], made: list[bytes]) -> None:
        """Write an item's files, the one that tells of it last."""
        for entry, content in reversed([*zip(item, made, strict=False)]):
            target = self._part(part) / entry.target
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, content)

    def _write_manifests(self) -> list[Path]:
        held = self._held()
        parts = sorted({*held.values()})
        for part in parts:
            inside = [e for i in self.items if held.get(i[0].target) == part for e in i]
            splits = []
            for kind, manifest in KINDS.items():
                rows = [_row(entry) for entry in inside if entry.kind == kind]
                if rows or kind == "track":
                    write_table(self._part(part) / f"{manifest}.csv", FIELDS, rows)
                splits += [(kind, e.target, e.file.split) for e in inside if e.kind == kind]
            write_table(self._part(part) / "split.csv", ("kind", "file", "split"), splits)
        return [self._part(part) for part in parts]


def _in_order(
    pool: ThreadPoolExecutor, make: Callable[[T], M], items: Sequence[T], most: int
) -> Iterator[tuple[T, M]]:
    """Yield items and what is made of them, ``most`` at a time: Ctrl-C waits for these only."""
    for first in range(0, len(items), most):
        some = items[first : first + most]
        yield from zip(some, pool.map(make, some), strict=True)


def _items(corpora: Sequence[Path]) -> Iterator[list[Entry]]:
    """Yield what belongs together: a response, a noise, or a recording and its stems."""
    for kind in ("ir", "noise", "track"):
        files = read_manifests(corpora, kind)
        usable = [*trainable(files), *(f for f in files if f.split == "val")]
        usable.sort(key=lambda f: zlib.crc32(f.file.encode()))
        stems = named_stems(corpora, usable) if kind == "track" else {}
        suffix = "flac" if kind == "ir" else "opus"
        names: set[str] = set()
        for file in usable:
            name = _unused(PurePosixPath(file.file).stem, names)
            yield [
                Entry(kind, file, f"{KINDS[kind]}/{name}.{suffix}"),
                *(_stem(name, stem) for _, stem in stems.get(file, [])),
            ]


def _stem(name: str, stem: CorpusFile) -> Entry:
    ending = PurePosixPath(stem.file).stem.rpartition("__")[2]
    return Entry("stem", stem, f"{KINDS['stem']}/{name}__{ending}.opus")


def _unused(name: str, names: set[str]) -> str:
    """Return a name that no file of another corpus has, and remember it."""
    free, number = name, 1
    while free in names:
        number += 1
        free = f"{name}-{number}"
    names.add(free)
    return free


def _row(entry: Entry) -> tuple[str, ...]:
    file, kind = entry.file, "stem" if entry.kind == "stem" else ""
    title = PurePosixPath(entry.target).stem
    about = (file.group, file.licence_class, file.attribution, file.category)
    return (entry.target, *about, kind, title)
