"""Answers the queries of an evaluation: on several cores, and on from where it was interrupted."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from importlib import resources
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from spolia.evaluation.identify import Evaluation, Outcome, Plan, Task
from spolia.evaluation.journal import LineJournal
from spolia.fingerprints.base import Fingerprinter
from spolia.fingerprints.compressed import CompressedFingerprinter
from spolia.fingerprints.registry import UNSEARCHED
from spolia.fingerprints.segments import SegmentFingerprinter
from spolia.library import Library

Report = Callable[[int, int], None]


class Journal(LineJournal[Task, list[Outcome]]):
    """Outcomes of answered queries; continued with the same :func:`header` only."""

    def to_json(self, key: Task, value: list[Outcome]) -> list[Any]:
        """Return a query and its outcomes as JSON values."""
        return [key, [asdict(outcome) for outcome in value]]

    def from_json(self, key: Any, value: Any) -> tuple[Task, list[Outcome]]:
        """Return what :meth:`to_json` described."""
        return Task(*key), [Outcome(**of) for of in value]


def header(
    evaluation: Evaluation, method: str | None, *, also: Iterable[Fingerprinter] = ()
) -> dict[str, Any]:
    """Return what outcomes depend on: plan, corpus, library, models, method and code.

    also: fingerprinters that answer beside the library's.
    """
    library = evaluation.library
    methods = [m for m in library.methods if m not in UNSEARCHED]
    code = hashlib.sha256()
    for path in sorted(Path(str(resources.files("spolia"))).rglob("*.py")):
        code.update(path.read_bytes())
    return {
        "plan": asdict(evaluation.plan),
        "corpus": [os.path.abspath(p) for p in (evaluation.corpus, evaluation.recordings)],
        "library": repr(library),
        "models": _digest([*map(library.fingerprinter, methods), *also]),
        "method": method,
        "code": code.hexdigest(),
    }


def _digest(fingerprinters: Iterable[Fingerprinter]) -> str:
    """Return the SHA-256 of models' cards, where calibrations change and the models' ids stay."""
    cards = hashlib.sha256()
    for fingerprinter in fingerprinters:
        if isinstance(fingerprinter, SegmentFingerprinter):
            cards.update(repr(fingerprinter.encoder.card).encode())
        elif isinstance(fingerprinter, CompressedFingerprinter):
            cards.update(repr(fingerprinter.compressor.card).encode())
    return cards.hexdigest()


def run(
    evaluation: Evaluation,
    *,
    method: str | None = None,
    processes: int = 1,
    journal: Journal | None = None,
    progress: Report | None = None,
) -> list[Outcome]:
    """Answer all known and absent queries at all lengths; outcomes in the order of the plan.

    processes: with more than one, each opens the library by its folder and model and answers with
    one thread. journal: holds what is done; an interrupted run continues with it.
    """
    tasks = list(evaluation.tasks())
    done = dict(journal.done) if journal else {}
    left = [task for task in tasks if task not in done]
    answers = _alone if processes == 1 else _shared
    for task, outcomes in answers(evaluation, left, method, processes):
        done[task] = outcomes
        if journal:
            journal.add(task, outcomes)
        if progress:
            progress(len(done), len(tasks))
    return [outcome for task in tasks for outcome in done[task]]


Answers = Iterator[tuple[Task, list[Outcome]]]


def _alone(evaluation: Evaluation, tasks: list[Task], method: str | None, _: int) -> Answers:
    for task in tasks:
        yield task, evaluation.answers(task, method)


def _shared(
    evaluation: Evaluation, tasks: list[Task], method: str | None, processes: int
) -> Answers:
    library = evaluation.library
    arguments = (
        evaluation.corpus,
        library.folder,
        (library.model, library.compressor),
        evaluation.plan,
        evaluation.distractors,
        evaluation.recordings,
        method,
    )
    pool = ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_open, initargs=arguments
    )
    try:
        waiting = iter(tasks)
        running: dict[Future[list[Outcome]], Task] = {}
        while True:
            for task in islice(waiting, 2 * processes - len(running)):
                running[pool.submit(_answer, task)] = task
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(cancel_futures=True)


_worker: tuple[Evaluation, str | None]


def _open(
    corpus: Path,
    folder: Path,
    models: tuple[str | None, str | None],
    plan: Plan,
    distractors: list[Path],
    recordings: Path,
    method: str | None,
) -> None:
    """Open the library in a worker; an interrupt is the parent's to handle."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    model, compressor = models
    library = Library(folder, create=False, model=model, compressor=compressor, threads=1)
    _worker = Evaluation(corpus, library, plan, distractors, recordings), method


def _answer(task: Task) -> list[Outcome]:
    evaluation, method = _worker
    return evaluation.answers(task, method)
