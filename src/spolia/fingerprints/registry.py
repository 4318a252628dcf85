"""The fingerprint methods by name; each is imported when it is first used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, cast

from spolia.errors import ParameterError
from spolia.fingerprints.base import Fingerprinter

if TYPE_CHECKING:
    from spolia.fingerprints.compressed import CompressedFingerprinter

logger = logging.getLogger(__name__)

METHODS = ("segments", "compressed", "landmarks", "samples")
AUXILIARY = {"samples": ("sketches", "nodes")}  # what comes with a method, and is not searched
UNSEARCHED = frozenset(name for names in AUXILIARY.values() for name in names)
TWO_STAGE = "compressed+segments"  # runs name candidates, segments say where
HINTING = ("segments", "landmarks")  # methods whose matches samples are looked for at, too


def with_auxiliary(methods: Iterable[str]) -> list[str]:
    """Return methods, each once, and what comes with them behind."""
    chosen = list(dict.fromkeys(methods))
    return list(dict.fromkeys([*chosen, *(a for m in chosen for a in AUXILIARY.get(m, ()))]))


def rank(method: str) -> tuple[int, str]:
    """Return a key that orders methods: the first that a library holds is its default."""
    return METHODS.index(method) if method in METHODS else len(METHODS), method


def searched(counts: Mapping[str, int]) -> list[str]:
    """Return how a library can be searched, its default first.

    counts: of how many recordings it holds each method. What only some of them have would not find
    the others, so that what most have comes first; samples do not identify and come last.
    """
    held = {m: counts[m] for m in sorted({*counts} - UNSEARCHED, key=rank)}
    if {"segments", "compressed"} <= {*held}:
        held = {TWO_STAGE: min(held["segments"], held["compressed"]), **held}
    order = sorted(held, key=lambda m: (m == "samples", -held[m]))
    usual = next(iter(held), None)
    if order and order[0] != usual:
        logger.warning(
            "some recordings hold no %s fingerprints, so %s is the default; run add for all files "
            "again to complete them",
            usual,
            order[0],
        )
    return order


def default_methods(model: str | None, compressor: str | None) -> tuple[str, ...]:
    """Return what a new library holds: runs too, where a model of them belongs to the segments'."""
    from spolia.encoders import DEFAULT_SEGMENT_MODEL

    belong = compressor is not None or model in (None, DEFAULT_SEGMENT_MODEL)
    return ("segments", "compressed") if belong else ("segments",)


def check_methods(methods: Iterable[str]) -> None:
    """Raise ParameterError for a name that stands for no method."""
    for method in methods:
        if method not in METHODS:
            raise ParameterError(f"unknown method {method!r}; choose from: {', '.join(METHODS)}")


def check_models(
    model: str | None,
    compressor: str | None,
    sample_model: str | None,
    classifier: str | None = None,
) -> None:
    """Raise ModelNotFound for a name that stands for no model, before anything is made."""
    from spolia.encoders import check_exists
    from spolia.fingerprints.compressed import HALF

    runs = compressor.removesuffix(HALF) if compressor else None
    check_exists(model, runs or None, sample_model, classifier)


class Fingerprinters:
    """The fingerprinters of a library, each made when it is first asked for."""

    def __init__(
        self,
        given: Iterable[Fingerprinter],
        held: Callable[[], Mapping[str, str | None]],
        *,
        model: str | None,
        compressor: str | None,
        sample_model: str | None,
        threads: int,
    ) -> None:
        """Take those made already, what tells the ids of a library's models, and models' names."""
        self._made = {f.method: f for f in given}
        self._held, self.threads = held, threads
        self.model, self.compressor, self.sample_model = model, compressor, sample_model

    def __getitem__(self, method: str) -> Fingerprinter:
        """Return the fingerprinter of a method; raises ParameterError, ModelError."""
        if method not in self._made:
            self._made[method] = self._make(method)
        return self._made[method]

    def makes(self, method: str) -> bool:
        """Tell whether the models make what a method stores."""
        from spolia.fingerprints.samples import makes_nodes

        return method != "nodes" or makes_nodes(self["samples"])

    def _make(self, method: str) -> Fingerprinter:
        if method == "compressed":
            held = self._held().get(method)
            return make_compressed(
                self["segments"], self.compressor, held=held, threads=self.threads
            )
        if method == "nodes":
            from spolia.fingerprints.nodes import NodeFingerprinter
            from spolia.fingerprints.samples import SampleFingerprinter

            return NodeFingerprinter(cast(SampleFingerprinter, self["samples"]))
        model = self.sample_model if method == "samples" else self.model
        return make_fingerprinter(method, model=model)


def make_fingerprinter(method: str, *, model: str | None = None) -> Fingerprinter:
    """Return the fingerprinter of a method; ``model``: the name of its weights, or their path."""
    if method == "segments":
        from spolia.encoders import DEFAULT_SEGMENT_MODEL
        from spolia.fingerprints.segments import SegmentFingerprinter

        return SegmentFingerprinter(model=model or DEFAULT_SEGMENT_MODEL)
    if method == "samples":
        from spolia.encoders import DEFAULT_SAMPLE_MODEL
        from spolia.fingerprints.samples import SampleFingerprinter

        return SampleFingerprinter(model=model or DEFAULT_SAMPLE_MODEL)
    if method == "landmarks":
        from spolia.fingerprints.landmarks import LandmarkFingerprinter

        return LandmarkFingerprinter()
    check_methods([method])
    raise ParameterError(f"{method!r} is not made of sound; see make_compressed")


def make_compressed(
    segments: Fingerprinter,
    model: str | None = None,
    *,
    held: str | None = None,
    threads: int = 1,
) -> CompressedFingerprinter:
    """Return the fingerprinter that compresses another's vectors.

    model: a name or a path; with "+half" behind it, a reference's runs overlap by half. held: the
    id of what a library holds, whose runs overlap or do not, unless a model is given.
    """
    from spolia.encoders import DEFAULT_COMPRESSOR, open_compressor
    from spolia.fingerprints.compressed import HALF, CompressedFingerprinter

    half = (model or held or "").endswith(HALF)
    name = (model or DEFAULT_COMPRESSOR).removesuffix(HALF) or DEFAULT_COMPRESSOR
    compressor = open_compressor(name, threads=threads)
    return CompressedFingerprinter(segments, compressor, half_overlap=half)
