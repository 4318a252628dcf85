"""evaluate: the wing of measuring, imported only here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spolia.cli.options import (
    N_CORES,
    ClassifierOption,
    CompressorOption,
    CorpusOption,
    JsonOption,
    ModelOption,
    ThreadsOption,
    cache_folder,
)

if TYPE_CHECKING:
    from spolia.evaluation.identify import Plan
    from spolia.evaluation.sample_running import SampleBenchmark
    from spolia.ingest import AddProgress
    from spolia.library import Library

LONGEST_QUERY = 600.0  # seconds

evaluate_app = typer.Typer(help="Measure on a corpus.", no_args_is_help=True)

DistractorsOption = Annotated[
    list[Path] | None,
    typer.Option(
        help="Folder whose recordings the library holds as well; may be repeated.",
        show_default=False,
    ),
]
OutOption = Annotated[
    Path | None, typer.Option(help="Folder for the JSON and the plot.", show_default=False)
]
EvaluationLibraryOption = Annotated[
    Path | None, typer.Option(help="Folder of the evaluation's library.", show_default=False)
]


@evaluate_app.command("identify")
def evaluate_identify(
    corpus: CorpusOption,
    model: ModelOption = None,
    compressor: CompressorOption = None,
    method: Annotated[
        str, typer.Option(help="segments, compressed, compressed+segments or landmarks.")
    ] = "segments",
    lengths: Annotated[str, typer.Option(help="Seconds, separated by commas.")] = "1,2,3,5,10",
    conditions: Annotated[
        str, typer.Option(help="Conditions, or sets of them: standard, hard, all; with commas.")
    ] = "standard",
    known: Annotated[int, typer.Option(min=1, help="Known queries per condition.")] = 48,
    absent: Annotated[int, typer.Option(min=1, help="Absent queries per condition.")] = 48,
    seed: Annotated[int, typer.Option(min=0, help="Seed of places and degradations.")] = 0,
    fold: Annotated[int, typer.Option(min=0, max=1, help="Which half of val is left out.")] = 0,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Fit the calibration on this run and write it here.", show_default=False),
    ] = None,
    out: OutOption = None,
    library: EvaluationLibraryOption = None,
    distractors: DistractorsOption = None,
    recordings: Annotated[
        Path | None,
        typer.Option(
            help="Corpus or pack whose tracks are held and asked about instead of the corpus' own.",
            show_default=False,
        ),
    ] = None,
    threads: ThreadsOption = N_CORES,
    as_json: JsonOption = False,
) -> None:
    """Measure identification under stated conditions; prints a table, writes JSON and a plot."""
    from spolia.evaluation.conditions import named
    from spolia.evaluation.identify import Plan

    plan = Plan(
        known,
        absent,
        _seconds(lengths.split(",")),
        named(conditions.split(",")),
        seed,
        fold,
    )
    folder = library or cache_folder() / f"evaluate-{method}-{fold}"
    facts = _measure(
        (corpus, distractors or [], recordings),
        folder,
        plan,
        (model, compressor),
        method,
        threads,
        calibrate,
        out,
    )
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        from spolia.evaluation.report import markdown

        typer.echo(markdown(facts))


def _seconds(lengths: Iterable[str]) -> tuple[float, ...]:
    """Return lengths of queries as they were typed."""
    found = []
    for text in lengths:
        try:
            found.append(float(text))
        except ValueError:
            found.append(float("nan"))
        if not 1.0 <= found[-1] <= LONGEST_QUERY:
            raise typer.BadParameter(
                f"{text!r} in --lengths is no length; give seconds from 1 to {LONGEST_QUERY:.0f}"
            )
    return tuple(found)


def _measure(
    sources: tuple[Path, list[Path], Path | None],
    folder: Path,
    plan: Plan,
    models: tuple[str | None, str | None],
    method: str,
    threads: int,
    calibrate: Path | None,
    out: Path | None,
) -> dict[str, Any]:
    from dataclasses import asdict

    from spolia.cli.output import AddBar, Bar
    from spolia.evaluation import identify, report, running
    from spolia.library import Library

    corpus, distractors, recordings = sources
    model, compressor = models
    options: dict[str, Any] = {"model": model, "compressor": compressor, "threads": threads}
    with Library(folder, methods=method.split("+"), **options) as opened:
        evaluation = identify.Evaluation(corpus, opened, plan, distractors, recordings)
        with AddBar() as adding:
            evaluation.fill(adding.update)
        path = folder.with_name(f"{folder.name}.partial.jsonl")
        journal = running.Journal(path, running.header(evaluation, method))
        with Bar("queries") as bar:
            outcomes = running.run(
                evaluation, method=method, processes=threads, journal=journal, progress=bar.show
            )
        facts: dict[str, Any] = {
            "plan": asdict(plan),
            "library": repr(opened).split(": ", 1)[1].rstrip(">"),
            "method": method,
            "table": identify.summarise(outcomes, plan),
        }
        n_entries = len(opened.index(method.split("+")[-1]))
    if calibrate is not None:
        report.write_calibration(calibrate, outcomes, n_entries)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        identify.write_outcomes(out / f"identify-{method}-{plan.fold}.json", outcomes, **facts)
        report.plot(out / f"identify-{method}-{plan.fold}.png", facts)
    journal.remove()
    return facts


@evaluate_app.command("samples")
def evaluate_samples(
    corpus: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of a corpus or pack; may be repeated: ask about tracks made of it.",
            show_default=False,
        ),
    ] = None,
    sample100: Annotated[
        Path | None,
        typer.Option(
            help="Your folder of Sample100, audio and annotations: ask about its tracks instead.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="samples (+segments), segments, compressed, landmarks or random.")
    ] = "samples",
    model: Annotated[
        str | None,
        typer.Option(help="Model of samples, a name or a file.", show_default=False),
    ] = None,
    classifier: ClassifierOption = None,
    tracks: Annotated[int, typer.Option(min=1, help="Tracks to make that sample something.")] = 200,
    free: Annotated[int, typer.Option(min=0, help="Tracks to make that sample nothing.")] = 100,
    lengths: Annotated[
        str, typer.Option(help="Seconds of queries, separated by commas; default: whole tracks.")
    ] = "",
    split: Annotated[str, typer.Option(help="train or val: what tracks are made of.")] = "val",
    seed: Annotated[int, typer.Option(min=0, help="Of everything drawn.")] = 0,
    folder: Annotated[
        Path | None, typer.Option(help="Folder of the tracks that are made.", show_default=False)
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Fit the calibration on this run and write it here.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the JSON.", show_default=False)
    ] = None,
    library: EvaluationLibraryOption = None,
    distractors: DistractorsOption = None,
    threads: ThreadsOption = N_CORES,
    as_json: JsonOption = False,
) -> None:
    """Measure what is found of samples in made tracks or in Sample100; prints a table."""
    if sample100 and calibrate:
        raise typer.BadParameter("--calibrate needs sample-free tracks; give --corpus")
    if classifier and not method.startswith("samples"):
        raise typer.BadParameter("--classifier judges what the method samples finds")
    benchmark = _sample_benchmark(
        corpus or [], sample100, folder, distractors or [], tracks, free, split, lengths, seed
    )
    ending = "" if sample100 else f"-{split}"
    held = library or cache_folder() / f"evaluate-{benchmark.name}-{method}{ending}"
    models = {"sample_model": model, "sample_classifier": classifier}
    facts = _measure_samples(benchmark, method, models, held, calibrate, out, threads)
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        from spolia.evaluation.sample_report import markdown

        typer.echo(markdown(facts))


def _sample_benchmark(
    corpora: list[Path],
    sample100: Path | None,
    folder: Path | None,
    distractors: list[Path],
    n_tracks: int,
    n_free: int,
    split: str,
    lengths: str,
    seed: int,
) -> SampleBenchmark:
    from spolia.evaluation.sample100 import Sample100
    from spolia.evaluation.sample_running import SampleEvaluation, SamplePlan

    if bool(corpora) == bool(sample100):
        raise typer.BadParameter("give either --corpus or --sample100")
    seconds = _seconds(filter(None, lengths.split(",")))
    if sample100:
        return Sample100(sample100, distractors=distractors, lengths=seconds, seed=seed)
    plan = SamplePlan(n_tracks, n_free, lengths=seconds, split=split, seed=seed)
    folder = folder or cache_folder() / f"samples-{split}-{seed}"
    return SampleEvaluation(corpora, folder, plan, distractors)


def _measure_samples(
    benchmark: SampleBenchmark,
    method: str,
    models: dict[str, Any],
    library: Path,
    calibrate: Path | None,
    out: Path | None,
    threads: int,
) -> dict[str, Any]:
    from dataclasses import asdict

    from spolia.cli.output import Bar
    from spolia.evaluation import sample_report, sample_running
    from spolia.evaluation.identify import write_outcomes
    from spolia.library import Library

    plan = benchmark.plan
    held = sample_running.held_for(method)
    with Bar("tracks") as bar:
        tracks = benchmark.make(bar.show)
    with Library(library, methods=held, threads=threads, **models) as opened:
        classifier = opened.sample_judge and opened.sample_judge.model_id
        find = benchmark.finder(opened, _filled(benchmark, opened), method)
        name = sample_running.journal_name(plan, method, repr(opened), classifier)
        journal = cache_folder() / name
        with Bar("queries") as bar:
            outcomes = benchmark.run(tracks, find, journal, bar.show)
        facts: dict[str, Any] = {
            "plan": {"benchmark": benchmark.name, **asdict(plan)},
            "library": repr(opened).split(": ", 1)[1].rstrip(">"),
            "method": method,
            "classifier": classifier,
            "tables": sample_report.tables(outcomes, plan.lengths, opened, benchmark.references),
        }
    if calibrate is not None:
        fitted = sample_running.fit(outcomes).to_dict()
        calibrate.write_text(json.dumps(fitted, indent=1) + "\n")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_outcomes(out / f"{benchmark.name}-{method}-{plan.seed}.json", outcomes, **facts)
    journal.unlink(missing_ok=True)
    return facts


def _filled(benchmark: SampleBenchmark, library: Library) -> dict[str, str]:
    """Fill a library, say which files are missing or cannot be added, and return files by id."""
    from spolia.cli.output import AddBar

    if benchmark.warning:
        typer.echo(f"spolia: {benchmark.warning}", err=True)
    failed: list[AddProgress] = []
    with AddBar() as adding:

        def show(progress: AddProgress) -> None:
            adding.update(progress)
            failed.extend([progress] if progress.reason else [])

        file_of = benchmark.fill(library, show)
    for progress in failed:
        typer.echo(f"spolia: {progress.path}: {progress.reason}", err=True)
    return file_of


@evaluate_app.command("amg")
def evaluate_amg(
    corpus: CorpusOption,
    table: Annotated[
        str,
        typer.Option(
            help="1: methods; 2: lengths of runs; 3: backbones; 4: losses; index: kinds of index."
        ),
    ] = "2",
    compressor: Annotated[
        list[Path] | None,
        typer.Option(
            help="Model of runs, with +half behind it of runs that overlap; may be repeated.",
            show_default=False,
        ),
    ] = None,
    model: ModelOption = None,
    rival: Annotated[
        list[Path] | None,
        typer.Option(
            help="Further segment model for table 1; may be repeated.", show_default=False
        ),
    ] = None,
    known: Annotated[int, typer.Option(min=1, help="Queries of each length.")] = 114,
    modelled: Annotated[
        int, typer.Option(min=0, help="Vectors up to which modelled recordings are added.")
    ] = 0,
    modelled_runs: Annotated[
        int, typer.Option(min=0, help="Runs up to which modelled runs are added.")
    ] = 0,
    dejavu: Annotated[
        bool, typer.Option(help="Also ask Dejavu's package in table 1, where it is installed.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of places and degradations.")] = 0,
    library: EvaluationLibraryOption = None,
    distractors: DistractorsOption = None,
    threads: ThreadsOption = N_CORES,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure AMG-Embedding: the tables of its paper, the paper's figures beside ours."""
    from dataclasses import asdict

    from spolia.cli.output import AddBar, Bar
    from spolia.evaluation import amg_tables
    from spolia.evaluation.amg_plots import plot

    layout = amg_tables.layout(table)
    folder = library or cache_folder() / "evaluate-amg"
    with AddBar() as adding, Bar("queries") as bar:
        rows = amg_tables.measure(
            layout,
            amg_tables.Setting(
                corpus,
                folder,
                model,
                tuple(rival or ()),
                tuple(compressor or ()),
                tuple(distractors or ()),
                known,
                modelled,
                seed,
                threads,
                n_runs=modelled_runs,
                dejavu=dejavu and layout.landmarks,
            ),
            filling=adding.update,
            report=bar.show,
        )
    found = [asdict(row) for row in rows]
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"amg-{table}.json").write_text(json.dumps(found, indent=1) + "\n")
        plot(out / f"amg-{table}.png", rows)
    typer.echo(json.dumps(found) if as_json else amg_tables.markdown(rows, layout.lengths))
