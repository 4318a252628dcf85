"""A corpus folder: manifests and the train/val split.

The corpus is a folder with ``tracks.csv``, ``noise.csv``, ``ir.csv``, … and ``split.csv`` (kind,
file, split). Files of one ``group`` share material; they are never negatives of each other.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from spolia.errors import TrainingError

MANIFESTS = {
    "track": "tracks",
    "noise": "noise",
    "ir": "ir",
    "samples": "samples",
    "midi": "midi",
}
DEVICE_WORDS = {"phone", "telephone", "cabinet", "vinyl"}  # microphones and speakers


@dataclass(frozen=True)
class CorpusFile:
    """One line of a manifest."""

    file: str  # path relative to the corpus
    split: str  # "train" or "val"
    group: str  # files with the same group share material
    licence_class: str  # "train": may be trained on
    attribution: str
    category: str
    corpus: Path = Path()  # the corpus' folder

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self.corpus / self.file


def read_manifests(corpora: Sequence[Path], kind: str) -> list[CorpusFile]:
    """Return the files of one kind in several corpora; a corpus may lack kinds that another has."""
    holding = [c for c in corpora if (c / f"{MANIFESTS[kind]}.csv").is_file()]
    return [f for corpus in holding or corpora[:1] for f in read_manifest(corpus, kind)]


def read_manifest(corpus: Path, kind: str) -> list[CorpusFile]:
    """Return the files of one kind (see MANIFESTS), in manifest order.

    Raises TrainingError where the corpus or a manifest is missing.
    """
    manifest, splits = corpus / f"{MANIFESTS[kind]}.csv", corpus / "split.csv"
    for path in (manifest, splits):
        if not path.is_file():
            raise TrainingError(f"{path} does not exist; give a corpus folder with --corpus")
    with splits.open(newline="") as lines:
        split_of = {row["file"]: row["split"] for row in csv.DictReader(lines)}
    with manifest.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [
        CorpusFile(
            row["file"],
            split_of.get(row["file"], "train"),
            row.get("group") or row["file"],
            row.get("licence_class", ""),
            row.get("attribution", ""),
            row.get("category") or "",
            corpus,
        )
        for row in rows
    ]


def groups_of(files: Iterable[Path]) -> dict[Path, str]:
    """Return the groups of tracks that a corpus around them lists; others are left out."""
    corpora: dict[Path, dict[Path, str]] = {}
    found = {}
    for file in files:
        corpus = file.parent.parent
        if corpus not in corpora:
            listed = all((corpus / f"{name}.csv").is_file() for name in ("tracks", "split"))
            tracks = read_manifest(corpus, "track") if listed else []
            corpora[corpus] = {f.path: f.group for f in tracks}
        if file in corpora[corpus]:
            found[file] = corpora[corpus][file]
    return found


def trainable(files: Iterable[CorpusFile]) -> list[CorpusFile]:
    """Return the files of the train split whose licence allows training."""
    return [f for f in files if f.split == "train" and f.licence_class == "train"]


def is_device(file: CorpusFile) -> bool:
    """Tell whether a response is of a device (microphone, speaker) and not of a room.

    By whole words: a room recorded with "several microphones" is no phone.
    """
    return not DEVICE_WORDS.isdisjoint(file.category.lower().split())
