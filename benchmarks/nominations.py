"""Measures how early the sampled recording is nominated: by vectors, by nodes, and by sketches too.

    python benchmarks/nominations.py CORPUS… --folder FOLDER --library LIBRARY
        [--distractors FOLDER…] [--tracks 120] [--split val] [--seed 7] [--model sample]

Corpora and packs (`spolia train render --stems`). Tracks are made of them and searched as `spolia
samples` does up to the places whose sketches are heard; recordings that share a group with a track
but are not sampled are left out. Printed: shares of uses whose recording is among the first places,
and the mean reciprocal rank among recordings, in per cent.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from spolia.audio import Audio
from spolia.evaluation.metrics import rate
from spolia.evaluation.report import table_row
from spolia.evaluation.sample_running import SampleEvaluation, SamplePlan
from spolia.library import Library
from spolia.production.folder import Written
from spolia.sample_agreement import N_HITS, N_PLACES
from spolia.sample_alignment import SAMPLE_RATE
from spolia.sample_search import N_SCREENED, SampleFinder
from spolia.samples import Nominee, nominate, thinned

AMONG = (1, 5, 12, 24, 50, 100, 200, 400, 1000)  # first places

Ranks = tuple[int, int]  # of a recording's best place: among places, among recordings


def orders(finder: SampleFinder) -> dict[str, list[Nominee]]:
    """Return the places that a query may sample, the likeliest first, as each stage has them."""
    assert finder.search is not None
    hits = partial(finder.hits, N_HITS)
    every = hits(0.0, np.inf)
    agreeing = thinned(finder.search.nominees(hits), N_PLACES)
    return {
        "vectors": nominate(every, seconds=finder.seconds, n=N_PLACES),
        "nodes": agreeing,
        f"nodes, then sketches of {N_SCREENED}": finder.screened(agreeing[:N_SCREENED]),
    }


def rank(nominees: Sequence[Nominee], recording: int) -> Ranks | None:
    """Return where a recording first stands; None where it does not."""
    before: set[int] = set()
    for place, nominee in enumerate(nominees):
        if nominee.recording == recording:
            return place, len(before)
        before.add(nominee.recording)
    return None


def measured(
    evaluation: SampleEvaluation, library: Library, track: Written, id_of: dict[str, str]
) -> dict[str, list[Ranks | None]]:
    """Return the ranks of what a track samples, as each stage has them."""
    without = [id_of[file] for file in evaluation.akin(track) if file in id_of]
    audio = Audio.load(evaluation.folder / track.file, sample_rate=SAMPLE_RATE)
    finder = library.sample_finder(audio, without=without)
    numbers = [finder.index.recording_ids.index(id_of[use.file]) for use in track.uses]
    return {
        name: [rank(nominees, number) for number in numbers]
        for name, nominees in orders(finder).items()
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpora", type=Path, nargs="+")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--distractors", type=Path, nargs="*", default=[])
    parser.add_argument("--tracks", type=int, default=120)
    parser.add_argument("--split", default="val")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--model", default="sample")
    options = parser.parse_args()
    plan = SamplePlan(options.tracks, 0, split=options.split, seed=options.seed)
    evaluation = SampleEvaluation(options.corpora, options.folder, plan, options.distractors)
    tracks = evaluation.make()
    found: dict[str, list[Ranks | None]] = {}
    with Library(options.library, methods=["samples"], sample_model=options.model) as library:
        id_of = {file: name for name, file in evaluation.fill(library).items()}
        for number, track in enumerate(tracks, 1):
            for name, ranks in measured(evaluation, library, track, id_of).items():
                found.setdefault(name, []).extend(ranks)
            print(f"{number} of {len(tracks)} tracks", end="\r", flush=True)
    print(table_row(["first places", *map(str, AMONG), "mean reciprocal rank"]))
    print(table_row(["---"] * (len(AMONG) + 2)))
    for name, ranks in found.items():
        among = [100 * np.mean([r is not None and r[0] < n for r in ranks]) for n in AMONG]
        reciprocal = np.array([1.0 / (1 + r[1]) if r else 0.0 for r in ranks])
        shown = rate(reciprocal, np.arange(len(ranks)))
        print(table_row([f"{name} ({len(ranks)})", *(f"{a:.0f}" for a in among), str(shown)]))


if __name__ == "__main__":
    main()
