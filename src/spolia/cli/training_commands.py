"""train: the wing of networks, imported only here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spolia.cli.options import N_CORES, CorporaOption, CorpusOption, ThreadsOption, cache_folder

if TYPE_CHECKING:
    from spolia.cli.output import Bar
    from spolia.encoders import ModelCard
    from spolia.training.running import RunOptions

train_app = typer.Typer(help="Train networks (needs spolia[train]).", no_args_is_help=True)

RecipeArgument = Annotated[Path, typer.Argument(help="Recipe, a TOML file.", show_default=False)]
RunOption = Annotated[Path, typer.Option(help="Folder for checkpoints and the log.")]
DeviceOption = Annotated[str, typer.Option(help="cpu or cuda.")]
ExportOption = Annotated[
    Path | None, typer.Option(help="Write the model file here at the end.", show_default=False)
]
CacheOption = Annotated[
    Path | None, typer.Option(help="Folder for decoded audio.", show_default=False)
]
StopOption = Annotated[
    float | None, typer.Option(help="Stop after this many minutes.", show_default=False)
]


@train_app.command("fingerprint")
def train_fingerprint(
    recipe: RecipeArgument,
    corpus: CorporaOption,
    run: RunOption = Path("runs"),
    device: DeviceOption = "cpu",
    cache: CacheOption = None,
    export: ExportOption = None,
    stop_after: StopOption = None,
    threads: ThreadsOption = N_CORES,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compile", help="Let torch.compile fuse the network (needs a C++ compiler)."
        ),
    ] = False,
) -> None:
    """Train a fingerprint encoder; run it again to continue where it stopped."""
    from spolia.cli.output import Bar

    with _needs_train():
        from spolia.training.fingerprint import train
        from spolia.training.recipe import load_recipe
    loaded = load_recipe(recipe)
    options = _run_options(
        corpus, run / loaded.name, cache, device, threads, stop_after, compiled=compiled
    )
    with Bar("training") as bar:
        report = _showing(bar, loaded.optimiser.steps, "segments")
        checkpoint = train(loaded, options, report)
    typer.echo(f"checkpoint: {checkpoint}")
    if export is not None:
        _export(checkpoint, export, corpus)


@train_app.command("embedding")
def train_embedding(
    recipe: RecipeArgument,
    corpus: CorporaOption,
    run: RunOption = Path("runs"),
    device: DeviceOption = "cpu",
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder for decoded audio and clips' vectors.", show_default=False),
    ] = None,
    export: ExportOption = None,
    stop_after: StopOption = None,
    threads: ThreadsOption = N_CORES,
) -> None:
    """Train an AMG-Embedding encoder; run it again to continue where it stopped."""
    with _needs_train():
        from spolia.training import embedding
        from spolia.training.recipe import read_recipe
    loaded = read_recipe(recipe, embedding.EmbeddingRecipe)
    options = _run_options(corpus, run / loaded.name, cache, device, threads, stop_after)
    checkpoint = _trained(embedding.train_embedding, loaded, options, "runs", "clips fingerprinted")
    if export is not None:
        from spolia.training.export import export_embedding

        _echo_model(export, export_embedding(checkpoint, export, corpora=corpus))


@train_app.command("classifier")
def train_classifier(
    recipe: RecipeArgument,
    corpus: CorporaOption,
    run: RunOption = Path("runs"),
    device: DeviceOption = "cpu",
    cache: CacheOption = None,
    export: ExportOption = None,
    stop_after: StopOption = None,
    threads: ThreadsOption = N_CORES,
) -> None:
    """Train a classifier of samples on a frozen encoder; run it again to continue."""
    with _needs_train():
        from spolia.training import classifying
        from spolia.training.recipe import read_recipe
    loaded = read_recipe(recipe, classifying.ClassifierRecipe)
    options = _run_options(corpus, run / loaded.name, cache, device, threads, stop_after)
    checkpoint = _trained(classifying.train_classifier, loaded, options, "pairs", "windows encoded")
    if export is not None:
        from spolia.training.export import export_classifier

        _echo_model(export, export_classifier(checkpoint, export, corpora=corpus))


@train_app.command("nodes")
def train_nodes(
    checkpoint: Annotated[
        Path, typer.Argument(help="Checkpoint of an encoder of samples.", show_default=False)
    ],
    target: Annotated[
        Path, typer.Argument(help="Checkpoint to write, its nodes short.", show_default=False)
    ],
    corpus: CorporaOption,
    dim: Annotated[int, typer.Option(help="Numbers of a node.", min=1)] = 64,
    seed: Annotated[int, typer.Option(help="Of the windows that are drawn.")] = 1,
    cache: CacheOption = None,
    threads: ThreadsOption = N_CORES,
) -> None:
    """Make an encoder's nodes short enough to be stored, for a classifier to be trained on."""
    with _needs_train():
        from spolia.training.shortening import shorten_nodes
    options = _run_options(corpus, target.parent, cache, "cpu", threads, None)
    kept = shorten_nodes(checkpoint, target, options, dim=dim, seed=seed)
    typer.echo(f"checkpoint: {target}, {100 * kept:.1f} % of the variance in {dim} numbers a node")


def _trained(
    train: Callable[..., Path], recipe: Any, options: RunOptions, unit: str, prepared: str
) -> Path:
    """Train on what is prepared first, showing both; return the checkpoint, once it is named.

    unit: what is counted per second of training; prepared: what is counted before.
    """
    from spolia.cli.output import Bar

    with Bar("training") as bar:
        report = _showing(bar, recipe.optimiser.steps, unit)
        checkpoint = train(
            recipe, options, report, lambda done, total: bar.show(done, total, prepared)
        )
    typer.echo(f"checkpoint: {checkpoint}")
    return checkpoint


def _showing(bar: Bar, n_steps: int, unit: str) -> Callable[[dict[str, float]], None]:
    """Return what shows a step's loss and speed; unit: what is counted per second."""

    def report(entry: dict[str, float]) -> None:
        note = f"loss {entry['loss']:.3f}, {entry[f'{unit}_per_second']:.0f} {unit}/s"
        bar.show(int(entry["step"]), n_steps, note)

    return report


@contextmanager
def _needs_train() -> Iterator[None]:
    """Name the extra where an import within fails."""
    from spolia.errors import MissingDependency

    try:
        yield
    except ImportError as error:
        raise MissingDependency(error.name or "torch", "train") from error


def _run_options(
    corpora: list[Path],
    folder: Path,
    cache: Path | None,
    device: str,
    threads: int,
    minutes: float | None,
    *,
    compiled: bool = False,
) -> RunOptions:
    from spolia.training.running import RunOptions

    return RunOptions(
        tuple(corpora),
        folder,
        cache or cache_folder(),
        device,
        threads,
        stop_after=float("inf") if minutes is None else 60 * minutes,
        compile=compiled,
    )


@train_app.command("render")
def train_render(
    folder: Annotated[
        Path, typer.Argument(help="Folder of the pack, made or continued.", show_default=False)
    ],
    corpus: CorpusOption,
    n: Annotated[int, typer.Option("--number", min=1, help="Recordings.")] = 300,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 1,
    split: Annotated[
        str, typer.Option(help="train or val: which scores and sound fonts.")
    ] = "train",
    seconds: Annotated[float, typer.Option(min=5.0, help="Longest duration.")] = 75.0,
    voices: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share with a voice (needs espeak-ng).")
    ] = 0.3,
    stems: Annotated[bool, typer.Option("--stems", help="Also write the stems.")] = False,
    talks: Annotated[
        int, typer.Option(min=0, help="Noises beside them: speakers and crowds in turn.")
    ] = 0,
    font: Annotated[
        list[Path] | None,
        typer.Option(
            help="Sound font; may be repeated. Default: the system's.", show_default=False
        ),
    ] = None,
    threads: ThreadsOption = N_CORES,
) -> None:
    """Render recordings from the corpus' MIDI files into a pack: a corpus to train or test on."""
    from spolia.cli.output import Bar
    from spolia.training.pack import Packer, PackPlan

    plan = PackPlan(n, seed, split, seconds, voices, stems, talks)
    with Bar("rendering") as bar:
        Packer(corpus, folder, plan, font).render(threads=threads, report=bar.show)
    typer.echo(f"{folder}: {n} recordings")


@train_app.command("bundle")
def train_bundle(
    folder: Annotated[
        Path, typer.Argument(help="Folder of the bundle, made or continued.", show_default=False)
    ],
    corpus: CorporaOption,
    seconds: Annotated[
        float, typer.Option(min=5.0, help="Of each recording and noise, from its middle.")
    ] = 40.0,
    bit_rate: Annotated[
        int, typer.Option(min=6, max=128, help="Kilobits a second; responses stay lossless.")
    ] = 24,
    part: Annotated[float, typer.Option(min=1.0, help="Megabytes of a part, at most.")] = 60.0,
    threads: ThreadsOption = N_CORES,
) -> None:
    """Make of corpora what can be carried to another machine: small parts, each a corpus."""
    from spolia.cli.output import Bar
    from spolia.training.bundle import BundlePlan, Bundler

    bundler = Bundler(corpus, folder, BundlePlan(seconds, 1000 * bit_rate, part))
    with Bar("bundling") as bar:
        parts = bundler.bundle(threads=threads, report=bar.show)
    for made in parts:
        size = sum(f.stat().st_size for f in made.rglob("*") if f.is_file())
        typer.echo(f"{made}: {size / 1e6:.1f} MB")


@train_app.command("export")
def train_export(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of a run.", show_default=False)],
    target: Annotated[Path, typer.Argument(help="Model file to write.", show_default=False)],
    corpus: CorporaOption,
) -> None:
    """Write a checkpoint's averaged weights as a self-describing model file."""
    _export(checkpoint, target, corpus)


@train_app.command("delay")
def train_delay(
    model: Annotated[Path, typer.Argument(help="Model file; changed.", show_default=False)],
    corpus: CorpusOption,
    n: Annotated[
        int, typer.Option("--number", min=3, help="Recordings drawn, 4 clips each.")
    ] = 500,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
    threads: ThreadsOption = N_CORES,
) -> None:
    """Fit how a room's delay shows in a model's matches, into the model file."""
    from spolia.cli.output import Bar
    from spolia.training.delay import fit_delay
    from spolia.training.export import update_card

    with Bar("clips") as bar:
        delay = fit_delay(
            model, corpus, n_recordings=n, seed=seed, threads=threads, report=bar.show
        )
    update_card(model, delay=delay.to_dict())
    before, after = delay.within or (0.0, 0.0)
    typer.echo(f"in other rooms, within 0.1 s: {before:.1%} without, {after:.1%} with correction")


@train_app.command("calibrate")
def train_calibrate(
    model: Annotated[Path, typer.Argument(help="Model file; changed.", show_default=False)],
    calibration: Annotated[
        Path,
        typer.Argument(help="File of evaluate --calibrate, of the same model.", show_default=False),
    ],
) -> None:
    """Write a fitted calibration into a model file."""
    import json

    from spolia.encoders import read_card
    from spolia.errors import ParameterError

    with _needs_train():
        from spolia.training.export import update_card
    try:
        values = json.loads(calibration.read_text())
    except (OSError, ValueError) as error:
        raise ParameterError(
            f"{calibration} is not a calibration ({error}); give a file of evaluate --calibrate"
        ) from error
    _check_calibration(values, read_card(model).kind)
    _echo_model(model, update_card(model, calibration=values))


def _check_calibration(values: dict[str, Any], kind: str) -> None:
    """Raise ParameterError for what is no calibration of a model of this kind."""
    from spolia.calibration import Calibration
    from spolia.samples import SampleCalibration

    if kind in ("sample", "classifier"):
        SampleCalibration.from_dict(values)
    else:
        Calibration.from_dict(values)


@train_app.command("record")
def train_record(
    model: Annotated[Path, typer.Argument(help="Model file; changed.", show_default=False)],
    results: Annotated[
        list[Path],
        typer.Argument(help="Files of evaluate --out, of the same model.", show_default=False),
    ],
) -> None:
    """Write measured figures into a model file, for its card."""
    from spolia.encoders import read_card
    from spolia.evaluation.record import recorded, replaced

    with _needs_train():
        from spolia.training.export import update_card
    card = read_card(model)
    found = card.results
    for path in results:
        found = replaced(found, recorded(path, card))
    _echo_model(model, update_card(model, results=found))


def _export(checkpoint: Path, target: Path, corpora: list[Path]) -> None:
    from spolia.training.export import export_checkpoint

    _echo_model(target, export_checkpoint(checkpoint, target, corpora=corpora))


def _echo_model(target: Path, card: ModelCard) -> None:
    typer.echo(f"{target}: {card.id}, {target.stat().st_size / 1e6:.1f} MB")
