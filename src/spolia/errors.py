"""The errors of spolia, as a tree.

SpoliaError
├── AudioError            a file cannot be read as audio · too short · silent
├── ParameterError        (also ValueError) an argument is out of its range
├── ModelError
│   ├── ModelNotFound         no model of that name or path
│   └── IncompatibleModel     a fingerprint or library was made by another model
├── LibraryError
│   ├── LibraryNotFound
│   ├── UnknownRecording
│   └── CorruptLibrary
├── TrainingError         a recipe, corpus or checkpoint cannot be used
└── MissingDependency     (also ImportError) names the extra to install

Every message says what happened, the value, and what to do.
"""

from __future__ import annotations


class SpoliaError(Exception):
    """Base of every error that spolia raises on purpose."""


class AudioError(SpoliaError):
    """A file or buffer cannot be used as audio; ``path`` and ``reason`` say which and why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class ParameterError(SpoliaError, ValueError):
    """An argument is outside its allowed values."""


class ModelError(SpoliaError):
    """A model file is missing, damaged or does not fit."""


class ModelNotFound(ModelError):
    """No model with that name or path exists."""


class IncompatibleModel(ModelError):
    """A library or fingerprint was made with another model."""


class LibraryError(SpoliaError):
    """A library cannot do what was asked."""


class LibraryNotFound(LibraryError):
    """The folder is not a library."""


class UnknownRecording(LibraryError):
    """No recording with that id is in the library."""


class CorruptLibrary(LibraryError):
    """The library's database is damaged."""


class TrainingError(SpoliaError):
    """A recipe, corpus or checkpoint cannot be used."""


class MissingDependency(SpoliaError, ImportError):
    """An optional package is needed; ``extra`` names the extra that brings it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'spolia[{extra}]'")
        self.package = package
        self.extra = extra
