"""spolia says where a piece of audio comes from.

>>> import spolia
>>> library = spolia.Library("my-library")      # doctest: +SKIP
>>> library.add(["crate/"])                     # doctest: +SKIP
>>> library.identify("clip.wav").matches        # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Audio": "spolia.audio",
    "Identification": "spolia.identify",
    "Library": "spolia.library",
    "Match": "spolia.identify",
    "Recording": "spolia.recording",
    "SpoliaError": "spolia.errors",
}

__all__ = ["Audio", "Identification", "Library", "Match", "Recording", "SpoliaError"]

if TYPE_CHECKING:
    from spolia.audio import Audio
    from spolia.errors import SpoliaError
    from spolia.identify import Identification, Match
    from spolia.library import Library
    from spolia.recording import Recording


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that ``import spolia`` stays cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module 'spolia' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted([*__all__, "__version__"])
