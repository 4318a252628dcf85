"""The fingerprint methods by name; each is imported when it is first used."""

from __future__ import annotations

from spolia.errors import ParameterError
from spolia.fingerprints.base import Fingerprinter

METHODS = ("segments", "compressed", "landmarks", "samples")
TWO_STAGE = "compressed+segments"  # runs name candidates, segments say where


def default_methods(model: str | None, compressor: str | None) -> tuple[str, ...]:
    """Return what a new library holds: runs too, where a model of them belongs to the segments'."""
    from spolia.encoders import DEFAULT_SEGMENT_MODEL

    belong = compressor is not None or model in (None, DEFAULT_SEGMENT_MODEL)
    return ("segments", "compressed") if belong else ("segments",)


def make_fingerprinter(method: str, *, model: str | None = None) -> Fingerprinter:
    """Return the fingerprinter of a method; ``model``: the name of its weights, or their path."""
    if method == "segments":
        from spolia.encoders import DEFAULT_SEGMENT_MODEL
        from spolia.fingerprints.segments import SegmentFingerprinter

        return SegmentFingerprinter(model=model or DEFAULT_SEGMENT_MODEL)
    if method == "compressed":
        return make_compressed(make_fingerprinter("segments", model=model))
    if method == "samples":
        from spolia.encoders import DEFAULT_SAMPLE_MODEL
        from spolia.fingerprints.samples import SampleFingerprinter

        return SampleFingerprinter(model=model or DEFAULT_SAMPLE_MODEL)
    if method == "landmarks":
        from spolia.fingerprints.landmarks import LandmarkFingerprinter

        return LandmarkFingerprinter()
    raise ParameterError(f"unknown method {method!r}; choose from: {', '.join(METHODS)}")


def make_compressed(segments: Fingerprinter, model: str | None = None) -> Fingerprinter:
    """Return the fingerprinter that compresses another's vectors; model: a name or a path."""
    from spolia.encoders import DEFAULT_COMPRESSOR, open_compressor
    from spolia.fingerprints.compressed import CompressedFingerprinter

    return CompressedFingerprinter(segments, open_compressor(model or DEFAULT_COMPRESSOR))
