"""The tables of AMG-Embedding's paper, with its figures beside ours.

Su, Y. et al.: AMG-Embedding. ACM MM 2024, tables 2–4 (table 1 names systems; its figures are not in
the text at hand). Its library: 100,000 songs, 7,722 hours; its queries: 2,500 of each length, the
degradation of Chang et al. 2021; one vector searched at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import faiss

from spolia.errors import ParameterError
from spolia.evaluation.amg import Bench, Landmarks, Measured, Report, System
from spolia.evaluation.amg_journal import AmgJournal
from spolia.evaluation.collection import Collection, collect, enlarged
from spolia.evaluation.dejavu import Dejavu, installed
from spolia.evaluation.identify import Evaluation, Plan
from spolia.evaluation.report import table_row
from spolia.evaluation.running import header
from spolia.fingerprints.compressed import HALF, CompressedFingerprinter
from spolia.fingerprints.registry import make_compressed
from spolia.library import Library
from spolia.store.kinds import KINDS

# Top-1 in per cent at 2, 3, 5, 10 and 30 s.
LENGTHS = (2.0, 3.0, 5.0, 10.0, 30.0)
PAPER_BY_DURATION: dict[str, tuple[float, ...]] = {
    "segments": (89.7, 94.2, 97.6, 99.3, 100.0),
    "5": (87.7, 93.2, 96.5, 98.4, 99.4),
    "10": (77.3, 87.6, 96.0, 99.2, 99.8),
    "15": (71.1, 85.1, 95.4, 98.6, 99.8),
    "30": (63.5, 79.2, 90.3, 98.0, 99.6),
}
# Top-1 in per cent at 2, 3, 5, 6 and 10 s with runs of 10 s, by the recipe's name after "amg-".
SHORTER = (2.0, 3.0, 5.0, 6.0, 10.0)
PAPER_BY_NAME: dict[str, tuple[float, ...]] = {
    "resnet18": (68.7, 81.6, 94.8, 96.4, 98.6),
    "resnet50": (68.5, 80.4, 95.2, 96.7, 98.6),
    "bilstm": (70.0, 82.6, 95.4, 96.8, 98.6),
    "densenet121": (70.8, 82.9, 95.7, 96.4, 98.6),
    "efficientnet_b3": (73.6, 85.7, 96.2, 97.0, 98.9),
    "transformer": (77.3, 87.6, 96.0, 97.2, 99.2),
    "triplet": (14.4, 32.7, 64.6, 74.3, 87.2),
    "info_nce": (49.5, 66.4, 89.4, 92.7, 96.6),
    "arcface": (0.0, 0.0, 0.0, 0.0, 0.0),
    "pi": (75.0, 86.4, 96.0, 96.5, 98.8),
    "pi-om": (76.6, 86.7, 96.2, 96.9, 99.0),
    "pi-om-pa": (77.3, 87.6, 96.0, 97.2, 99.2),
}


@dataclass(frozen=True)
class Layout:
    """What a table compares."""

    name: str
    lengths: tuple[float, ...]  # of queries, seconds
    kinds: tuple[str, ...] = ("sq8",)  # of index
    landmarks: bool = False
    segments: bool = True
    two_stages: bool = True


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("1", LENGTHS, landmarks=True),
        Layout("2", LENGTHS, kinds=("sq8", "ivf-pq")),
        Layout("3", SHORTER, segments=False, two_stages=False),
        Layout("4", SHORTER, segments=False, two_stages=False),
        Layout("index", (30.0,), kinds=KINDS),
    )
}


@dataclass(frozen=True)
class Setting:
    """On what a table is measured."""

    corpus: Path
    folder: Path  # of the library
    model: str | None
    rivals: tuple[Path, ...]  # further segment models
    compressors: tuple[Path, ...]
    distractors: tuple[Path, ...]
    n_queries: int  # of each length
    n_vectors: int  # up to which modelled recordings are added
    seed: int
    threads: int
    n_runs: int = 0  # up to which modelled runs are added
    dejavu: bool = False  # also ask that package, in table 1


def layout(table: str) -> Layout:
    """Return what a table compares; raises ParameterError for an unknown one."""
    if table not in LAYOUTS:
        raise ParameterError(f"unknown table {table!r}; choose from: {', '.join(LAYOUTS)}")
    return LAYOUTS[table]


def measure(
    layout: Layout,
    setting: Setting,
    *,
    filling: Callable[[Any], None] | None = None,
    report: Report | None = None,
) -> list[Measured]:
    """Return the rows of a table; an interrupted call continues with those it has measured."""
    faiss.omp_set_num_threads(setting.threads)
    if setting.dejavu:
        installed()  # or fail before anything is computed
    journals: list[AmgJournal] = []
    rows = list(_rows(layout, setting, setting.model, filling, report, journals))
    if layout.landmarks:
        alone = replace(setting, compressors=(), n_vectors=0, n_runs=0, dejavu=False)
        fewer = replace(layout, landmarks=False)
        for rival in setting.rivals:
            of = _rows(fewer, alone, str(rival), filling, report, journals)
            rows += [replace(r, name=r.name.replace("segments", rival.stem, 1)) for r in of]
    for journal in journals:
        journal.remove()
    return rows


def _rows(
    layout: Layout,
    setting: Setting,
    model: str | None,
    filling: Callable[[Any], None] | None,
    report: Report | None,
    journals: list[AmgJournal],
) -> Iterator[Measured]:
    """Yield the rows over one segment model; what holds them on disk is added to ``journals``."""
    methods = ["segments", *(["landmarks"] if layout.landmarks else [])]
    name = "-".join([Path(model).stem if model else "shipped", *methods])
    plan = Plan(setting.n_queries, 0, layout.lengths, ("noise-room",), setting.seed)
    folder = setting.folder / name
    with Library(folder, methods=methods, model=model, threads=setting.threads) as library:
        evaluation = Evaluation(setting.corpus, library, plan, setting.distractors)
        evaluation.fill(filling)
        real = collect(library.catalog.sequences("segments"))
        collection = enlarged(real, setting.n_vectors, seed=setting.seed)
        segments = library.fingerprinter("segments")
        hours, share = len(collection) * segments.hop_seconds / 3600, len(real) / len(collection)
        bench = Bench(evaluation, collection, segments, hours=hours, real_share=share)
        bench.ask(report)
        files, threads = setting.compressors, setting.threads
        runs = [make_compressed(segments, str(file), threads=threads) for file in files]
        stamp = header(evaluation, layout.name, also=runs)
        facts = stamp, asdict(setting), len(collection)
        path = setting.folder / f"{name}-{layout.name}.jsonl"
        journals.append(journal := AmgJournal(path, {"of": repr(facts)}))
        for key, system in _systems(bench, layout, setting, runs, library, report):
            if key not in journal.done:
                journal.add(key, bench.measure(system(), report))
            yield journal.done[key]


def _systems(
    bench: Bench,
    layout: Layout,
    setting: Setting,
    compressed: Sequence[CompressedFingerprinter],
    library: Library,
    report: Report | None,
) -> Iterator[tuple[str, Callable[[], System]]]:
    """Yield a key for each system, and what makes it when it is not measured yet."""
    if layout.landmarks:
        yield "landmarks", lambda: _unmodelled(Landmarks(library), bench)
    if layout.landmarks and setting.dejavu:
        yield "Dejavu", lambda: _unmodelled(Dejavu(installed(), list(library), report), bench)
    if layout.segments:
        for kind in layout.kinds:
            yield f"segments, {kind}", partial(bench.exhaustive, kind)
    for runs in compressed:
        made = lru_cache(maxsize=1)(partial(_grown, bench, runs, setting))
        for kind in layout.kinds:
            systems = lru_cache(maxsize=1)(partial(_compressed, bench, runs, made, kind))
            for i in range(3 if layout.two_stages else 2):
                yield f"{runs.model_id}, {kind}, {i}", partial(lambda of, i: of()[i], systems, i)


def _unmodelled(system: System, bench: Bench) -> System:
    """Return a system that holds the real recordings of a collection alone."""
    system.growth = bench.real_share
    return system


def _grown(
    bench: Bench, runs: CompressedFingerprinter, setting: Setting
) -> tuple[Collection, float, float]:
    """Return all runs, modelled ones too, how long they took, and how much was modelled."""
    made, seconds = bench.compress(runs)
    grown = enlarged(made, setting.n_runs, seed=setting.seed)
    return grown, seconds, len(grown) / len(made)


def _compressed(
    bench: Bench,
    runs: CompressedFingerprinter,
    made: Callable[[], tuple[Collection, float, float]],
    kind: str,
) -> tuple[System, ...]:
    grown, seconds, growth = made()
    systems = bench.compressed(runs, grown, seconds, kind)
    for system in systems:
        system.growth = growth
    return systems


def paper_figures(measured: Measured) -> dict[str, float]:
    """Return the paper's Top-1 by query length for the same system; empty if it has none."""
    name = measured.name.split(",")[0]
    if any(word in measured.name for word in ("then segments", "by place", HALF)):
        return {}
    if name.removeprefix("amg-") in PAPER_BY_NAME:
        lengths, figures = SHORTER, PAPER_BY_NAME[name.removeprefix("amg-")]
    else:
        key = "segments" if name == "segments" else f"{measured.seconds + 0.5:g}"
        lengths, figures = LENGTHS, PAPER_BY_DURATION.get(key, ())
    return dict(zip((f"{s:g}" for s in lengths), figures, strict=False))


def markdown(rows: Sequence[Measured], lengths: Sequence[float]) -> str:
    """Return the measured table as Markdown, the paper's figures in brackets after ours."""
    keys = [f"{length:g}" for length in lengths]
    head = ["system", "vectors", "bytes / h", *(f"{k} s" for k in keys)]
    head += ["within 0.5 s", "recall@10", "build, s"]
    head += [f"{keys[-1]} s: index one by one, ms", "at once, ms", "whole answer, ms"]
    lines = [table_row(head), table_row(["---"] * len(head))]
    for row in rows:
        paper = paper_figures(row)
        cells = [row.name, f"{row.n_vectors:,}", f"{row.bytes_per_hour:,.0f}"]
        for key in keys:
            beside = f" (paper {paper[key]:g})" if key in paper else ""
            cells.append(f"{row.top1[key]}{beside}" if key in row.top1 else "–")
        cells.append(_over(keys, {k: 100 * r.value for k, r in row.near.items()}))
        cells.append(_over(keys, {k: 100 * r["10"] for k, r in row.recall.items()}))
        cells.append(f"{row.build_seconds:.1f}")
        cells += [f"{ms:.2f}" for ms in row.index_ms] if row.index_ms else ["–", "–"]
        cells.append(f"{row.query_ms[keys[-1]]:.1f}" if keys[-1] in row.query_ms else "–")
        lines.append(table_row(cells))
    return "\n".join(lines)


def _over(keys: Sequence[str], values: dict[str, float]) -> str:
    return " / ".join(f"{values[k]:.1f}" for k in keys if k in values) or "–"
