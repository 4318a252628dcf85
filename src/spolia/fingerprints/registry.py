"""The fingerprint methods by name; each is imported when it is first used."""

from __future__ import annotations

from collections.abc import Iterable

from spolia.errors import ParameterError
from spolia.fingerprints.base import Fingerprinter

METHODS = ("segments", "landmarks")


def make_fingerprinter(method: str, *, model: str | None = None) -> Fingerprinter:
    """Return the fingerprinter of a method; ``model`` names the weights, or is their path."""
    if method == "segments":
        from spolia.encoders import DEFAULT_SEGMENT_MODEL
        from spolia.fingerprints.segments import SegmentFingerprinter

        return SegmentFingerprinter(model=model or DEFAULT_SEGMENT_MODEL)
    if method == "landmarks":
        from spolia.fingerprints.landmarks import LandmarkFingerprinter

        return LandmarkFingerprinter()
    raise ParameterError(f"unknown method {method!r}; choose from: {', '.join(METHODS)}")


def make_fingerprinters(methods: Iterable[str], *, model: str | None = None) -> list[Fingerprinter]:
    """Return the fingerprinters of several methods."""
    return [make_fingerprinter(method, model=model) for method in methods]
