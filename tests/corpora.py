"""A corpus of a few synthesised files, in the layout of a real one."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from fakes import tune
from spolia.audio import Audio
from spolia.encoding import write_wav

FIELDS = ("file", "group", "licence_class", "attribution", "category")


def make_corpus(folder: Path, *, n_tracks: int = 12, n_val: int = 4) -> Path:
    """Write tracks, noises and impulse responses with their manifests and split."""
    splits: list[tuple[str, str, str]] = []
    tracks = [(f"tracks/t{i}.wav", tune(i, seconds=12.0)) for i in range(n_tracks)]
    noises = [(f"noise/n{i}.wav", hiss(i)) for i in range(4)]
    rooms = [(f"ir/r{i}.wav", echo(i)) for i in range(4)]
    for kind, manifest, files in (
        ("track", "tracks", tracks),
        ("noise", "noise", noises),
        ("ir", "ir", rooms),
    ):
        (folder / manifest).mkdir(parents=True)
        with (folder / f"{manifest}.csv").open("w", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(FIELDS)
            for i, (name, audio) in enumerate(files):
                write_wav(folder / name, audio)
                category = "phone" if kind == "ir" and i % 2 else "room"
                writer.writerow((name, name, "train", f"by {name}", category))
                is_val = i < (n_val if kind == "track" else 2)
                splits.append((kind, name, "val" if is_val else "train"))
    with (folder / "split.csv").open("w", newline="") as out:
        csv.writer(out).writerows([("kind", "file", "split"), *splits])
    return folder


def hiss(seed: int) -> Audio:
    rng = np.random.default_rng(seed)
    return Audio((0.1 * rng.normal(size=8 * 8000)).astype("f"), 8000)


def echo(seed: int) -> Audio:
    rng = np.random.default_rng(seed)
    response = rng.normal(size=1600) * np.exp(-np.arange(1600) / 300) * 0.1
    response[0] = 0.9
    return Audio(response.astype("f"), 8000)
