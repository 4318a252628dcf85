"""Opens what samples are searched with: nodes, a judge, and the calibration that goes with it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import cast

from spolia.audio import Audio
from spolia.encoders import open_classifier
from spolia.errors import ModelError, UnknownRecording
from spolia.fingerprints.base import Fingerprint, Fingerprinter
from spolia.fingerprints.samples import Columns, SampleFingerprinter, makes_nodes
from spolia.rivals import Candidate
from spolia.sample_agreement import NodeSearch
from spolia.sample_hints import hinted, hints_of
from spolia.sample_judging import Judge
from spolia.sample_nodes import NodeJudge
from spolia.sample_search import Judged, Report, SampleFinder
from spolia.sample_sound import Sounds
from spolia.samples import SampleCalibration, calibration_of
from spolia.store.catalog import Catalog
from spolia.store.vectors import VectorIndex

MOST_KEPT = 128 * 2**20  # bytes of nodes that stay in memory while a track is asked about

SampleJudge = NodeJudge | Judge


class KeptNodes:
    """Reads recordings' nodes, by number, and keeps the first MOST_KEPT bytes of them."""

    def __init__(self, catalog: Catalog, recording_ids: Sequence[str]) -> None:
        self.catalog, self.recording_ids = catalog, recording_ids
        self.kept: dict[int, Columns | None] = {}
        self.size = 0

    def __call__(self, number: int) -> Columns | None:
        """Return a recording's columns in 8 bits, None where it has none."""
        if number in self.kept:
            return self.kept[number]
        columns: Columns | None = None
        with suppress(UnknownRecording):
            columns = self.catalog.sequence(self.recording_ids[number], "nodes").values
        self.size += 0 if columns is None else columns.nbytes
        if self.size <= MOST_KEPT:
            self.kept[number] = columns
        return columns


def sample_finder(
    query: Audio,
    fingerprinter: Fingerprinter,
    index: VectorIndex,
    catalog: Catalog,
    sounds: Sounds,
    *,
    judge: SampleJudge | None = None,
    threads: int = 2,
    without: Collection[str] = (),
    others: Sequence[list[Candidate]] = (),
    report: Report | None = None,
) -> SampleFinder:
    """Return what answers a query by what a catalog and its files hold; see SampleFinder.

    others: what other methods found in the query, the most probable first.
    """
    seconds = fingerprinter.segment_seconds
    fingerprint, search, by_nodes = _by_nodes(query, fingerprinter, index, catalog, judge, threads)
    numbers = {r: n for n, r in enumerate(index.recording_ids) if r not in without}
    hints = [hint for found in others for hint in hints_of(found, numbers)]

    def stored(number: int) -> Fingerprint:
        return catalog.fingerprint(index.recording_ids[number], "samples")

    return SampleFinder(
        query,
        fingerprint,
        index,
        sounds,
        sketch=lambda recording_id: catalog.rows(recording_id, "sketches"),
        seconds=seconds,
        threads=threads,
        without=without,
        search=search,
        judged=by_nodes,
        judge=None if isinstance(judge, NodeJudge) else judge,
        hinted=hinted(hints, fingerprint, stored, seconds=seconds),
        calibration=calibration_with(fingerprinter, judge),
        report=report,
    )


def _by_nodes(
    query: Audio,
    fingerprinter: Fingerprinter,
    index: VectorIndex,
    catalog: Catalog,
    judge: SampleJudge | None,
    threads: int,
) -> tuple[Fingerprint, NodeSearch | None, Judged | None]:
    """Return a query's fingerprint, and what nominates and judges by nodes, if anything does."""
    if not makes_nodes(fingerprinter):
        return fingerprinter.fingerprint_query(query), None, None
    encoder = fingerprinter.encoder
    if "nodes" not in catalog.methods() and len(index):
        raise ModelError(
            f"the library holds no nodes, which {encoder.path.stem} searches samples by; "
            "run add again for its recordings"
        )
    nodes = KeptNodes(catalog, index.recording_ids)
    fingerprint, columns = fingerprinter.query_with_nodes(query)
    search = NodeSearch(columns[0], encoder.card, nodes, len(index.recording_ids), threads)
    if not isinstance(judge, NodeJudge):
        return fingerprint, search, None
    return fingerprint, search, partial(judge.judged, columns, nodes=nodes, threads=threads)


def open_sample_judge(
    name: str | None, samples: Fingerprinter, *, threads: int = 2
) -> SampleJudge | None:
    """Open a classifier, by name or path, beside the encoder that samples are searched with.

    None without a name. Raises ModelError where the encoder gives no nodes or is not the one the
    classifier knows.
    """
    if name is None or not isinstance(samples, SampleFingerprinter):
        return None
    encoder = samples.encoder
    if not encoder.has_nodes:
        raise ModelError(
            f"{encoder.path} gives vectors alone, so {name} cannot judge what it finds; "
            "give a sample model with nodes, or no classifier"
        )
    classifier = open_classifier(name, encoder)
    if encoder.has_short_nodes:
        return NodeJudge(classifier, encoder)
    return Judge(encoder, classifier, threads=threads)


def calibration_with(samples: Fingerprinter, judge: SampleJudge | None) -> SampleCalibration:
    """Return the calibration that was fitted with a judge, or that of the encoder alone."""
    fitted = judge.classifier.card.calibration if judge else {}
    return calibration_of(fitted or cast(SampleFingerprinter, samples).card.calibration)
