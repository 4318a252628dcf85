"""Crates: the recordings, stems, loops and one-shots of one split that productions are made from.

The groups of a crate are divided once and for all. Recordings of *references* may be sampled, and
a library may hold them; recordings of *beds* are only ever laid over samples, and no library that
productions are looked up in may hold them, or what is laid over would be found with good reason.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath

import av

from spolia.audio import Audio
from spolia.corpus import MANIFESTS, CorpusFile, read_manifest
from spolia.errors import AudioError, ParameterError, TrainingError
from spolia.production.plan import Layer
from spolia.samples import Part

SAMPLE_RATE = 16000  # Hz, of all productions
BED_SHARE = 0.3  # of the groups
STEM_PARTS: dict[str, Part] = {  # what a stem's name ends with → the part that it is
    "drums": "drums",
    "hihats": "drums",
    "bass": "bass",
    **dict.fromkeys(("music", "clavinet", "guitar", "horns", "arp", "lead", "pad"), "harmonic"),
    **dict.fromkeys(("pads", "chords", "melody", "keys"), "harmonic"),
}
VOCALS = "vocals"  # the ending of stems that are laid over, never sampled by themselves
LOOP_LAYERS: tuple[tuple[str, Layer], ...] = (  # words in the kind of a loop → its layer
    ("bass", "bass"),
    ("beat", "drums"),
    ("break", "drums"),
    ("drum", "drums"),
    ("groove", "drums"),
    ("latin", "drums"),
)
PART_LAYERS: dict[Part, Layer] = {
    "drums": "drums",
    "bass": "bass",
    "harmonic": "music",
    "mix": "music",
}


@dataclass(frozen=True)
class Reference:
    """A recording that may be sampled."""

    file: CorpusFile  # the full mix: what a library holds
    stems: tuple[tuple[Part, CorpusFile], ...]  # its parts, on the same time axis and scale


@dataclass(frozen=True)
class Material:
    """Something to lay over samples."""

    file: CorpusFile
    is_loop: bool  # repeats without a seam


@dataclass(frozen=True)
class Crate:
    """What productions of one split are made from; see the module for the two sides."""

    split: str  # "train" or "val"
    references: tuple[Reference, ...]
    beds: tuple[Reference, ...]
    layers: dict[Layer, tuple[Material, ...]]  # of the beds, the loops and the voices
    hits: tuple[CorpusFile, ...]  # single drum sounds

    def holding(self, part: Part, sampled: Sequence[CorpusFile] = ()) -> list[Reference]:
        """Return the references that have a part and nothing in common with sampled recordings."""
        having = [r for r in self.references if part == "mix" or part in dict(r.stems)]
        return [r for r in having if not _akin(r.file, sampled)]

    def usable(self, layer: Layer, sampled: Sequence[CorpusFile] = ()) -> list[Material]:
        """Return what may be laid over samples of some recordings."""
        return [m for m in self.layers[layer] if not _akin(m.file, sampled)]

    def usable_hits(self, sampled: Sequence[CorpusFile] = ()) -> list[CorpusFile]:
        """Return the single drum sounds that may be laid over samples of some recordings."""
        return [f for f in self.hits if not _akin(f, sampled)]


def open_crate(
    corpora: Sequence[Path], *, split: str, seed: int = 0, bed_share: float = BED_SHARE
) -> Crate:
    """Return the crate of a split of corpora and packs (`spolia train render --stems`).

    seed: which groups are beds; a group keeps its side when others come and go. Raises
    TrainingError where a group is on both sides of the split, or too little is there.
    """
    if split not in ("train", "val"):
        raise ParameterError(f"unknown split {split!r}; choose from: train, val")
    tracks = _of_split(_files(corpora, "track"), split)
    samples = [(f, _kinds(f.corpus)[f.file]) for f in _of_split(_files(corpora, "samples"), split)]
    stems = _owned((f for f, kind in samples if kind == "stem"), tracks)
    is_bed = {f: _is_bed(f.group, seed, bed_share) for f in tracks}
    recordings = [Reference(f, _parts(stems[f])) for f in tracks]
    beds = tuple(r for r in recordings if is_bed[r.file])
    voices = [f for bed in beds for ending, f in stems[bed.file] if ending == VOCALS]
    voices += [f for f in _of_split(_files(corpora, "noise"), split) if f.category == "speech"]
    crate = Crate(
        split,
        tuple(r for r in recordings if not is_bed[r.file]),
        beds,
        _layers(beds, samples, voices),
        tuple(f for f, kind in samples if kind == "drum"),
    )
    if not crate.references or not crate.layers["music"]:
        raise TrainingError(
            f"{len(tracks)} recordings of the split {split!r} give {len(crate.references)} to "
            f"sample and {len(beds)} to lay over; add recordings or another corpus"
        )
    return crate


def named_stems(
    corpora: Sequence[Path], tracks: Sequence[CorpusFile]
) -> dict[CorpusFile, list[tuple[str, CorpusFile]]]:
    """Return (part or VOCALS, stem) of each track; stems of other kinds are left out."""
    samples = _files([c for c in corpora if (c / "samples.csv").is_file()], "samples")
    stems = _owned((f for f in samples if _kinds(f.corpus)[f.file] == "stem"), tracks)
    known = {**STEM_PARTS, VOCALS: VOCALS}
    return {
        track: [(known[ending], f) for ending, f in found if ending in known]
        for track, found in stems.items()
    }


def _files(corpora: Sequence[Path], kind: str) -> list[CorpusFile]:
    """Return the files of a kind; corpora may lack all kinds but tracks."""
    holding = [c for c in corpora if kind == "track" or (c / f"{MANIFESTS[kind]}.csv").is_file()]
    return [f for corpus in holding for f in read_manifest(corpus, kind)]


def _of_split(files: Sequence[CorpusFile], split: str) -> list[CorpusFile]:
    """Return the files of a split; what is trained on must be licensed for it."""
    mine = {f.group for f in files if f.split == split}
    if shared := mine & {f.group for f in files if f.split != split}:
        raise TrainingError(
            f"the group {min(shared)!r} is on both sides of the split; correct split.csv"
        )
    return [f for f in files if f.split == split and (split == "val" or f.licence_class == "train")]


@lru_cache(maxsize=64)
def _kinds(corpus: Path) -> dict[str, str]:
    """Return the kind of each file of samples.csv: "stem", "drum", "loop / break", …"""
    with (corpus / "samples.csv").open(newline="") as lines:
        return {row["file"]: row.get("kind") or "" for row in csv.DictReader(lines)}


def _owned(
    stems: Iterable[CorpusFile], tracks: Sequence[CorpusFile]
) -> dict[CorpusFile, list[tuple[str, CorpusFile]]]:
    """Return (ending, stem) of each track, in its group; stems of no track are left out."""
    tracks_by_name = {(f.corpus, _name(f)): f for f in tracks}
    owned: dict[CorpusFile, list[tuple[str, CorpusFile]]] = {f: [] for f in tracks}
    for stem in stems:
        name, _, ending = _name(stem).rpartition("__")
        owner = tracks_by_name.get((stem.corpus, name))
        if owner is not None:
            owned[owner].append((ending, replace(stem, group=owner.group)))
    return owned


def _parts(stems: Sequence[tuple[str, CorpusFile]]) -> tuple[tuple[Part, CorpusFile], ...]:
    return tuple((STEM_PARTS[ending], f) for ending, f in stems if ending in STEM_PARTS)


def _is_bed(group: str, seed: int, share: float) -> bool:
    return zlib.crc32(f"{seed} {group}".encode()) < share * 2**32


def _layers(
    beds: Sequence[Reference],
    samples: Sequence[tuple[CorpusFile, str]],
    voices: Sequence[CorpusFile],
) -> dict[Layer, tuple[Material, ...]]:
    """Return what there is for each layer; recordings without stems are music as they are."""
    found: dict[Layer, list[Material]] = {"drums": [], "bass": [], "music": [], "voice": []}
    for bed in beds:
        parts: tuple[tuple[Part, CorpusFile], ...] = bed.stems or (("mix", bed.file),)
        for part, file in parts:
            found[PART_LAYERS[part]].append(Material(file, is_loop=False))
    for file, kind in samples:
        if "loop" in kind:
            layers = [layer for word, layer in LOOP_LAYERS if word in kind]
            found[layers[0] if layers else "music"].append(Material(file, is_loop=True))
    found["voice"] = [Material(file, is_loop=False) for file in voices]
    return {layer: tuple(materials) for layer, materials in found.items()}


def _akin(file: CorpusFile, others: Iterable[CorpusFile]) -> bool:
    """Tell whether a file may share material with others: by its group or its collection."""
    return any(f.group == file.group or _collection(f) == _collection(file) for f in others)


def _name(file: CorpusFile) -> str:
    return PurePosixPath(file.file).stem


def _collection(file: CorpusFile) -> str:
    """Return what a file's name begins with: those of one artist or pack may share loops."""
    return _name(file).partition("__")[0]


@lru_cache(maxsize=1 << 16)
def duration(file: CorpusFile) -> float:
    """Return how many seconds a file lasts by its container's word."""
    try:
        with av.open(str(file.path)) as container:
            length = container.duration
    except (av.FFmpegError, OSError) as error:
        raise AudioError(str(file.path), f"cannot be opened ({error})") from error
    if not length:
        raise AudioError(str(file.path), "does not say how long it is; convert it to FLAC or Opus")
    return float(length / av.time_base)


def read(file: CorpusFile, *, start: float = 0.0, end: float | None = None) -> Audio:
    """Return a stretch of a file at SAMPLE_RATE."""
    return Audio.load(file.path, sample_rate=SAMPLE_RATE, start=start, end=end)
