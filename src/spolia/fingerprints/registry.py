"""The fingerprint methods by name; each is imported when it is first used."""

from __future__ import annotations

from spolia.errors import ParameterError
from spolia.fingerprints.base import Fingerprinter

METHODS = ("segments", "compressed", "landmarks")
TWO_STAGE = "compressed+segments"  # runs name candidates, segments say where


def make_fingerprinter(
    method: str, *, model: str | None = None, compressor: str | None = None
) -> Fingerprinter:
    """Return the fingerprinter of a method.

    model, compressor: name or path of the segment model and of the model that compresses its
    vectors; by default the shipped ones.
    """
    if method == "segments":
        from spolia.encoders import DEFAULT_SEGMENT_MODEL
        from spolia.fingerprints.segments import SegmentFingerprinter

        return SegmentFingerprinter(model=model or DEFAULT_SEGMENT_MODEL)
    if method == "compressed":
        from spolia.encoders import DEFAULT_COMPRESSOR, DEFAULT_SEGMENT_MODEL, open_compressor
        from spolia.fingerprints.compressed import CompressedFingerprinter
        from spolia.fingerprints.segments import SegmentFingerprinter

        segments = SegmentFingerprinter(model=model or DEFAULT_SEGMENT_MODEL)
        return CompressedFingerprinter(segments, open_compressor(compressor or DEFAULT_COMPRESSOR))
    if method == "landmarks":
        from spolia.fingerprints.landmarks import LandmarkFingerprinter

        return LandmarkFingerprinter()
    raise ParameterError(f"unknown method {method!r}; choose from: {', '.join(METHODS)}")
