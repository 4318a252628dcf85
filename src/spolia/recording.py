"""What is known of one reference recording."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass


def path_text(path: str | os.PathLike[str]) -> str:
    """Return a path as text, which names of files need not be."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def one_line(text: str) -> str:
    """Return text with a space in place of what is not printed: what terminals and XML choke on."""
    return "".join(c if c.isprintable() else " " for c in text)


@dataclass(frozen=True)
class Recording:
    """A reference recording of a library."""

    id: str  # 16 hex digits; stable while the file's path in the library stays the same
    path: str  # absolute path of the file when it was added
    duration: float  # seconds of audio decoded
    title: str | None = None  # from the file's tags, or None
    artist: str | None = None  # from the file's tags, or None
    album: str | None = None  # from the file's tags, or None
    size: int = 0  # bytes of the file when it was added
    modified: int = 0  # modification time of the file when it was added, ns since the epoch
    lost: float = 0.0  # seconds of audio that could not be decoded

    @property
    def name(self) -> str:
        """``artist – title`` as far as known, else the file's name."""
        if self.title:
            return f"{self.artist} – {self.title}" if self.artist else self.title
        return self.path.replace("\\", "/").rsplit("/", 1)[-1]

    def is_made_from(self, status: os.stat_result) -> bool:
        """Tell whether a file is, by size and time of modification, the one that was added."""
        return (status.st_size, status.st_mtime_ns) == (self.size, self.modified)

    def to_dict(self) -> dict[str, str | float | None]:
        """Return the public description: id, path, title, artist, album, duration."""
        fields = asdict(self)
        return {k: fields[k] for k in ("id", "path", "title", "artist", "album", "duration")}
