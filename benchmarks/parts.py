"""Fits which part of a recording is sampled on made tracks of train, and tests it on those of val.

    python benchmarks/parts.py CORPUS… --folder FOLDER [--train 340] [--val 110] [--seed 11]

Corpora and packs of both splits (`spolia train render --stems`). Of recordings with stems, two
parts or more, all four parts are sampled equally often; other val tracks sample the whole of
recordings without stems, many of which have no drums. Each use is compared with its recording
twice: where the truth says that it is, give or take 10 ms, 0.1 % and 0.1 semitones, and where
tracing finds it from the right recording and places off by up to 0.3 s. The model is fitted on
both; uses without an occurrence of 0.4 s, the shortest that tracing finds, are left out. Without
tracks of train (`--train 0`) the shipped weights are tested.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from refinement import pairs_of

from spolia.audio import Audio
from spolia.evaluation.metrics import rate
from spolia.evaluation.samples import NEAR, OVERLAYS
from spolia.production.crate import Crate, open_crate
from spolia.production.folder import Written, write_productions
from spolia.production.plan import Habits
from spolia.production.truth import Use
from spolia.sample_alignment import SAMPLE_RATE, Played, find, levels
from spolia.sample_parts import (
    ALONE,
    BIAS,
    N_FEATURES,
    PARTS,
    SHORT,
    SURE,
    TOGETHER,
    Cells,
    compared,
    dominance,
    features,
)
from spolia.sample_search import PATCH, REACH_OF_PLACE
from spolia.sample_tracing import LEAST, Occurrence, exact

KINDS = ("train", "val", "val-whole")
RIDGE = 30.0
SECONDS = (20.0, 45.0)
SHIPPED = np.column_stack([BIAS, TOGETHER, SHORT])
OFF = 0.3  # seconds by which places are off, at most
AROUND = 2.0  # seconds of the recording around what is played

Floats = npt.NDArray[np.float64]
Row = dict[str, Any]


def crate_of(corpora: Sequence[Path], split: str, *, whole: bool) -> Crate:
    """Return a crate whose recordings that may be sampled have no stems, or two parts or more."""
    crate = open_crate(corpora, split=split)
    kept = [r for r in crate.references if (not r.stems if whole else len(dict(r.stems)) >= 2)]
    return replace(crate, references=tuple(kept))


def true_place(use: Use, rng: np.random.Generator) -> tuple[Played, list[Occurrence]]:
    """Return how a use is played, about as exactly as polishing finds it."""
    tempo = use.tempo_ratio * float(np.exp(rng.normal(0, 0.001)))
    semitones, late = use.semitones + float(rng.normal(0, 0.08)), float(rng.normal(0, 0.01))
    found = [
        Occurrence(o.start + late, o.end + late, o.source_start, o.source_end, o.end - o.start)
        for o in use.occurrences
        if o.end - o.start >= LEAST
    ]
    return Played(0.0, tempo, semitones, 0.0, 0.0, 0.0, 0.0), found


def traced_place(
    query: Audio, sound: Audio, use: Use, rng: np.random.Generator
) -> tuple[Played, list[Occurrence]] | None:
    """Return what tracing finds of a use, or None where none of it is where the truth says."""
    heard, known = levels(query.samples), levels(sound.samples)
    pairs = pairs_of(use, use.occurrences, rng, off=OFF)
    played = find(heard, known, pairs, seconds=PATCH, reach=REACH_OF_PLACE)
    if played is None:
        return None
    played, found = exact(heard, known, played, seconds=PATCH)
    near = any(_is_near(o, use) for o in found.occurrences)
    return (played, list(found.occurrences)) if near else None


def _is_near(found: Occurrence, use: Use) -> bool:
    middle = (found.query_start + found.query_end) / 2
    place = (found.reference_start + found.reference_end) / 2
    return any(
        o.start - NEAR <= middle <= o.end + NEAR
        and abs(o.source_start + use.tempo_ratio * (middle - o.start) - place) <= NEAR
        for o in use.occurrences
    )


def measured(folder: Path, written: Written, crate: Crate) -> Iterator[Row]:
    """Yield what is heard of each use of a made track, at the true place and where it is traced."""
    files = {r.file.file: r.file.path for r in crate.references}
    query = Audio.load(folder / written.file, sample_rate=SAMPLE_RATE)
    for use in written.uses:
        rng = np.random.default_rng([len(written.made), round(1000 * use.source_start)])
        sound = Audio.load(files[use.file], sample_rate=SAMPLE_RATE)
        places = {"true": true_place(use, rng), "traced": traced_place(query, sound, use, rng)}
        for how, place in places.items():
            yield {
                "how": how,
                "part": use.part,
                "group": use.group,
                "overlay_db": use.overlay_db,
                **_heard(query, sound, place),
            }


def _heard(query: Audio, sound: Audio, place: tuple[Played, list[Occurrence]] | None) -> Row:
    """Return features, dominance and the time they took; None and 1 where nothing is compared."""
    nothing = {"features": None, "dominance": 1.0, "seconds": 0.0}
    if place is None or not place[1]:
        return nothing
    played, found = place
    origin = max(0.0, min(o.reference_start for o in found) - AROUND)
    near = sound.slice(origin, max(o.reference_end for o in found) + AROUND)
    began = time.process_time()
    cells: Cells | None = compared(query.samples, near.samples, found, played, origin=origin)
    if cells is None:
        return nothing
    values = features(cells).tolist()
    seconds = time.process_time() - began
    return {"features": values, "dominance": dominance(cells), "seconds": seconds}


def rows_of(folder: Path, corpora: Sequence[Path], kind: str, n: int, seed: int) -> list[Row]:
    """Return what is heard of all uses of ``n`` made tracks; what was heard before is read.

    kind: one of KINDS.
    """
    split, _, whole = kind.partition("-")
    crate, folder = crate_of(corpora, split, whole=bool(whole)), folder / kind
    habits = Habits(parts={"mix": 1.0} if whole else dict.fromkeys(PARTS, 1 / len(PARTS)))
    made = write_productions(folder, crate, n, seed=seed, habits=habits, seconds=SECONDS)
    heard = folder / "heard.jsonl"
    rows = [json.loads(line) for line in heard.read_text().splitlines()] if heard.is_file() else []
    done = {row["file"] for row in rows}
    with heard.open("a") as out:
        for written in made:
            if written.file not in done:
                new = [{"file": written.file, **row} for row in measured(folder, written, crate)]
                out.writelines(json.dumps(row) + "\n" for row in new)
                out.flush()
                rows += new
    return rows


def fitted(x: Floats, y: npt.NDArray[np.int64]) -> Floats:
    """Return softmax weights [shape=(n_parts, 1 + N_FEATURES)]; all parts weigh the same.

    Newton's method, with RIDGE on the weights of features that are scaled to a deviation of 1.
    """
    middle, scale = x.mean(0), x.std(0) + 1e-6
    z = np.column_stack([np.ones(len(x)), (x - middle) / scale])
    d, k = z.shape[1], len(PARTS)
    weight = (len(y) / k / np.maximum(np.bincount(y, minlength=k), 1))[y]
    penalty = np.append(1e-3, np.full(d - 1, RIDGE))
    weights = np.zeros((k, d))
    for _ in range(30):
        p = softmax(z @ weights.T)
        gradient = (weight[:, None] * (p - np.eye(k)[y])).T @ z + penalty * weights
        curvature = np.diag(np.tile(penalty, k))
        for i in range(k):
            for j in range(k):
                s = weight * p[:, i] * ((i == j) - p[:, j])
                curvature[i * d : (i + 1) * d, j * d : (j + 1) * d] += (z * s[:, None]).T @ z
        weights -= np.linalg.solve(curvature, gradient.ravel()).reshape(k, d)
    inner = weights[:, 1:] / scale
    return np.column_stack([weights[:, 0] - inner @ middle, inner])


def softmax(heights: Floats) -> Floats:
    """Return shares that sum to 1 along the last axis."""
    powers = np.exp(heights - heights.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def likely(rows: Sequence[Row], weights: Floats) -> Floats:
    """Return the probability of each part [shape=(n, n_parts)]; 0 of what was not compared."""
    x = np.array([r["features"] or [0.0] * N_FEATURES for r in rows]).reshape(-1, N_FEATURES)
    heard = np.array([r["features"] is not None for r in rows])
    chances = softmax(np.column_stack([np.ones(len(x)), x]) @ weights.T)
    return np.asarray(chances * heard[:, None])


def answers(rows: Sequence[Row], p: Floats) -> npt.NDArray[np.int64]:
    """Return the number of the part that is named, −1 where none is."""
    mixed = np.array([r["dominance"] <= ALONE for r in rows])
    return np.where(mixed & (p.max(1) >= SURE), p.argmax(1), -1)


def cross_validated(rows: Sequence[Row], n_folds: int = 5) -> Floats:
    """Return the probabilities by weights fitted without a row's recording."""
    groups = sorted({r["group"] for r in rows})
    np.random.default_rng(0).shuffle(groups)
    fold = np.array([groups.index(r["group"]) % n_folds for r in rows])
    x, y = arrays(rows)
    found = np.zeros((len(rows), len(PARTS)))
    for i in range(n_folds):
        kept = [r for r, f in zip(rows, fold, strict=True) if f == i]
        found[fold == i] = likely(kept, fitted(x[fold != i], y[fold != i]))
    return found


def arrays(rows: Sequence[Row]) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return features and the numbers of the parts."""
    return np.array([r["features"] for r in rows]), np.array([PARTS.index(r["part"]) for r in rows])


def report(name: str, rows: Sequence[Row], p: Floats) -> None:
    """Print the accuracy, by overlay and decided, and who is taken for whom."""
    truth = np.array([PARTS.index(r["part"]) for r in rows])
    said, best = answers(rows, p), p.argmax(1)
    units = np.unique([r["group"] for r in rows], return_inverse=True)[1]
    decided = said >= 0
    print(f"\n{name}: {len(rows)} uses, {len(np.unique(units))} recordings")
    print(f"  most probable part right {rate(best == truth, units)}")
    print(f"  right of all, None is wrong {rate(said == truth, units)}")
    print(f"  named {decided.mean():.3f}, of those right", _rate_of(said == truth, units, decided))
    for low, high in OVERLAYS:
        of = np.array([r["overlay_db"] is not None and low <= r["overlay_db"] < high for r in rows])
        print(
            f"  {low:+.0f}…{high:+.0f} dB: {of.sum()}, most probable right",
            _rate_of(best == truth, units, of),
            f"named {decided[of].mean():.2f}, of those right",
            _rate_of(said == truth, units, of & decided),
        )
    print("  truth \\ said", *(f"{part:>8}" for part in (*PARTS, "None")))
    for i, part in enumerate(PARTS):
        counts = [int(((truth == i) & (said == j)).sum()) for j in (*range(len(PARTS)), -1)]
        print(f"  {part:>12}", *(f"{count:>8}" for count in counts))


def _rate_of(
    right: npt.NDArray[np.bool_], units: npt.NDArray[np.int64], of: npt.NDArray[np.bool_]
) -> str:
    return str(rate(right[of], units[of])) if of.any() else "–"


def main() -> None:
    """Make tracks, measure, fit, test and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpora", nargs="+", type=Path)
    parser.add_argument("--folder", required=True, type=Path)
    parser.add_argument("--train", type=int, default=340)
    parser.add_argument("--val", type=int, default=110)
    parser.add_argument("--val-whole", type=int, default=30)
    parser.add_argument("--seed", type=int, default=11)
    options = parser.parse_args()
    numbers = {kind: getattr(options, kind.replace("-", "_")) for kind in KINDS}
    rows = {
        kind: rows_of(options.folder, options.corpora, kind, n, options.seed + i)
        for i, (kind, n) in enumerate(numbers.items())
    }
    usable = [r for r in rows["train"] if r["features"] is not None]
    weights = np.round(fitted(*arrays(usable)), 3) if usable else SHIPPED
    tested = {kind: (rows[kind], likely(rows[kind], weights)) for kind in KINDS[1:]}
    if usable:
        tested = {"train, other folds": (usable, cross_validated(usable)), **tested}
    for name, (of, p) in tested.items():
        for how in ("true", "traced"):
            mine = [i for i, r in enumerate(of) if r["how"] == how and r["features"] is not None]
            report(f"{name}, {how} places", [of[i] for i in mine], p[mine])
    seconds = [r["seconds"] for r in rows["val"] if r["features"] is not None]
    print(f"\n{1000 * np.median(seconds):.0f} ms of a core's time a match (median)")
    print(weights.tolist())


if __name__ == "__main__":
    main()
