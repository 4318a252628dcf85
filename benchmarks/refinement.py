"""Measures how exactly samples are placed where the right recording and about the place are known.

    python benchmarks/refinement.py CORPUS… --folder FOLDER [--tracks 110] [--split val] [--seed 21]

Corpora and packs (`spolia train render --stems`). Tracks are made of them; of each use, places in
the recording that are off by up to half a second, as windows of a search are, are compared, traced
and polished as `spolia samples` does. What is not found counts as wrong; chopped uses, of pieces of
a fraction of a second, count apart.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from spolia.evaluation.metrics import rate
from spolia.evaluation.sample_repeats import levels_of, sampled_sound, sounds_alike
from spolia.evaluation.samples import OVERLAYS
from spolia.production.crate import Crate, open_crate
from spolia.production.folder import Written, write_productions
from spolia.production.truth import Occurrence, Use
from spolia.sample_alignment import Played, find
from spolia.sample_patches import Bands, Pair
from spolia.sample_search import PATCH, REACH_OF_PLACE
from spolia.sample_tracing import Trace, exact

SECONDS = (20.0, 45.0)  # of the tracks
MOST_PAIRS, APART, OFF = 3, 1.5, 0.5
START, SEMITONES, TEMPO, PLACE = 0.05, 0.25, 0.01, 0.5  # aims: seconds, semitones, share, seconds

CRITERIA = "found", "start", "semitones", "tempo", "count"

Row = dict[str, Any]


def pairs_of(
    use: Use, occurrences: Sequence[Occurrence], rng: np.random.Generator, *, off: float = OFF
) -> list[Pair]:
    """Return rough places of the first occurrences that lie apart, as a search nominates them."""
    pairs: list[Pair] = []
    for o in occurrences:
        middle = (o.start + o.end) / 2
        if len(pairs) < MOST_PAIRS and all(abs(middle - p.query) >= APART for p in pairs):
            place = o.source_start + use.tempo_ratio * (middle - o.start)
            pairs.append(Pair(middle, place + float(rng.uniform(-off, off))))
    return pairs


def judged(use: Use, played: Played | None, found: Trace, sounds: Sequence[Bands]) -> Row:
    """Return what of a use is right; a place is, too, where the recording repeats the sound.

    sounds: levels of the part that is sampled, of each of its stems.
    """
    if played is None or not found.occurrences:
        return {**dict.fromkeys(CRITERIA, False), "errors": {}}
    starts = np.array([o.start for o in use.occurrences])
    errors = [float(np.abs(starts - o.query_start).min()) for o in found.occurrences]
    places = []
    for o in found.occurrences:
        middle = (o.query_start + o.query_end) / 2
        near = min(use.occurrences, key=lambda t: abs((t.start + t.end) / 2 - middle))
        wanted = near.source_start + use.tempo_ratio * (middle - near.start)
        place = (o.reference_start + o.reference_end) / 2
        alike = all(sounds_alike(known, place, wanted) for known in sounds)
        places.append(0.0 if alike else abs(place - wanted))
    start, place = float(np.median(errors)), float(np.median(places))
    semitones = abs(played.semitones - use.semitones)
    tempo = abs(np.log(played.tempo / use.tempo_ratio))
    return {
        "found": place <= PLACE,
        "start": start <= START,
        "semitones": semitones <= SEMITONES,
        "tempo": bool(tempo <= TEMPO),
        "count": len(found.occurrences) == len(use.occurrences),
        "errors": {"start": start, "place": place, "semitones": semitones, "tempo": float(tempo)},
        "n": [len(found.occurrences), len(use.occurrences)],
    }


def measured(folder: Path, written: Written, crate: Crate) -> Iterator[Row]:
    """Yield a row for each use of a made track."""
    recordings = {r.file.file: r for r in crate.references}
    heard = levels_of(folder / written.file)
    for use in written.uses:
        rng = np.random.default_rng([len(written.made), round(1000 * use.source_start)])
        known = levels_of(recordings[use.file].file.path)
        longest_first = sorted(use.occurrences, key=lambda o: o.start - o.end)
        pairs = pairs_of(use, longest_first, rng)
        played = find(heard, known, pairs, seconds=PATCH, reach=REACH_OF_PLACE)
        found = Trace((), 0.0, 0.0)
        if played is not None:
            played, found = exact(heard, known, played, seconds=PATCH)
        sounds = [levels_of(path) for path in sampled_sound(recordings[use.file], use.part)]
        yield {
            "file": written.file,
            "group": use.group,
            "part": use.part,
            "kind": use.kind,
            "manner": use.manner,
            "transformation": use.transformation,
            "overlay_db": use.overlay_db,
            **judged(use, played, found, sounds),
        }


def _has(key: str, value: Any, row: Row) -> bool:
    return bool(row[key] == value)


def _lies_under(low: float, high: float, row: Row) -> bool:
    return row["overlay_db"] is not None and low <= row["overlay_db"] < high


def report(rows: Sequence[Row]) -> None:
    """Print the share of right ones, of all and by kind, and medians of errors."""
    print(f"{len(rows)} uses of {len({r['group'] for r in rows})} recordings")
    slices: dict[str, Callable[[Row], bool]] = {
        "all": lambda r: True,
        "all but chopped": lambda r: r["manner"] != "chop",
    }
    for key in ("manner", "kind", "part", "transformation"):
        for value in sorted({r[key] for r in rows}):
            slices[f"{key} {value}"] = partial(_has, key, value)
    for low, high in OVERLAYS:
        slices[f"overlay {low:+.0f}…{high:+.0f} dB"] = partial(_lies_under, low, high)
    print(f"{'':28}{'n':>5}  found within 0.5 s / start / pitch / tempo / count, %")
    for name, belongs in slices.items():
        mine = [r for r in rows if belongs(r)]
        if mine:
            units = np.unique([r["group"] for r in mine], return_inverse=True)[1]
            cells = (str(rate(np.array([r[key] for r in mine]), units)) for key in CRITERIA)
            print(f"{name:28}{len(mine):>5}  {' / '.join(cells)}")


def main() -> None:
    """Make tracks, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpora", nargs="+", type=Path)
    parser.add_argument("--folder", required=True, type=Path)
    parser.add_argument("--tracks", type=int, default=110)
    parser.add_argument("--split", default="val")
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=Path, help="write what was measured here, as JSON lines")
    options = parser.parse_args()
    crate = open_crate(options.corpora, split=options.split)
    made = write_productions(
        options.folder, crate, options.tracks, seed=options.seed, seconds=SECONDS
    )
    with ThreadPoolExecutor(options.threads) as pool:
        parts = pool.map(lambda w: list(measured(options.folder, w, crate)), made)
        rows = [row for part in parts for row in part]
    if options.rows:
        options.rows.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report(rows)


if __name__ == "__main__":
    main()
