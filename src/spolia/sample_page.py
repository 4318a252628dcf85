"""A page that shows what a track samples, and lets one hear it: one HTML file, nothing around it.

For each match: facts, two lanes of time joined by the occurrences, the matrix of similarity between
the windows of both with the occurrences drawn into it, and a pair of sounds: the recording's
excerpt, played as the track plays it, beside the track.
"""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spolia.audio import Audio
from spolia.degradation import change_speed, shift_pitch, stretch
from spolia.encoding import encode, write_whole
from spolia.errors import AudioError, MissingDependency
from spolia.fingerprints.base import Fingerprint
from spolia.sample_tracing import Occurrence
from spolia.samples import SampleMatch, Samples, in_words
from spolia.timing import format_seconds

MOST_SECONDS = 8.0  # of an excerpt that can be heard
BIT_RATE = 64000
RATE = 16000  # Hz
WIDTH = 900  # of pictures, CSS pixels
LEAST_PIXELS = 1000  # of the longer side of a picture of its own
MOST_PIXELS = 1000  # of either side of the matrix
MOST_ROWS = 40  # occurrences in a table
INK, SOFT, MARK = "#1d2733", "#8795a5", "#d1495b"

STYLE = f"""
body {{ font: 16px/1.5 system-ui, sans-serif; color: {INK}; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; background: #fbfaf7; }}
h1 {{ font-size: 1.5rem; margin: 0; }} h2 {{ font-size: 1.15rem; margin: 2.2rem 0 .2rem; }}
p {{ margin: .3rem 0 .8rem; }} .soft {{ color: #5c6b7a; }}
svg, img {{ display: block; max-width: 100%; }}
table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }}
td, th {{ padding: .15rem .9rem .15rem 0; text-align: left; font-weight: normal; }}
th {{ color: #5c6b7a; border-bottom: 1px solid #d7d2c8; }}
figure {{ margin: 1rem 0; }} figcaption {{ font-size: .85rem; color: #5c6b7a; }}
.pair {{ display: flex; gap: 2rem; flex-wrap: wrap; }} .matrix {{ position: relative; }}
.matrix svg {{ position: absolute; inset: 0; width: 100%; height: 100%; }}
.matrix img {{ width: 100%; image-rendering: pixelated; }}
"""


@dataclass(frozen=True)
class Windows:
    """Vectors of the query and of a match's recording, for the matrix; None: not at hand."""

    query: Fingerprint
    recording: Fingerprint
    seconds: float  # that one vector sees


def write_page(
    path: Path, answer: Samples, query: Audio, windows: Sequence[Windows | None]
) -> None:
    """Write the page of one answer; query: its sound; windows: of each match, in order."""
    parts = [_head(answer)]
    parts += [
        _section(match, answer.duration, query, of)
        for match, of in zip(answer.matches, windows, strict=True)
    ]
    title = html.escape(Path(answer.query).name)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}: samples</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style>'
        f"<body>{''.join(parts)}</body></html>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page.encode())


def matrix_png(windows: Windows) -> bytes:
    """Return the matrix of similarity as a picture, time of the query to the right."""
    return _png(_shades(windows))


def plot_png(windows: Windows, occurrences: Sequence[Occurrence]) -> bytes:
    """Return the matrix as a picture of its own: enlarged, the occurrences in red."""
    shades = _shades(windows)
    scale = max(1, -(-LEAST_PIXELS // max(shades.shape)))
    picture = np.repeat(shades.repeat(scale, 0).repeat(scale, 1)[:, :, None], 3, axis=2)
    height, width, _ = picture.shape
    ink = [int(MARK[i : i + 2], 16) for i in (1, 3, 5)]
    for o in occurrences:
        x = [_share(t, windows.query, windows) for t in (o.query_start, o.query_end)]
        y = [_share(t, windows.recording, windows) for t in (o.reference_start, o.reference_end)]
        way = np.linspace(0.0, 1.0, 2 * max(height, width))
        columns = np.round((width - 1) * (x[0] + way * (x[1] - x[0]))).astype(np.int64)
        rows = np.round((height - 1) * (1 - y[0] - way * (y[1] - y[0]))).astype(np.int64)
        for thicker in (-1, 0, 1):
            picture[np.clip(rows + thicker, 0, height - 1), columns] = ink
    return _png(picture)


def _shades(windows: Windows) -> npt.NDArray[np.uint8]:
    """Return the matrix in grey, the recording's time upwards."""
    similarity = _thinned(windows.recording.values) @ _thinned(windows.query.values).T
    low, high = np.quantile(similarity, [0.5, 0.999]) if similarity.size else (0.0, 1.0)
    shown = np.clip((similarity - low) / max(float(high - low), 1e-6), 0.0, 1.0)
    return np.asarray(255 - 215 * shown[::-1], np.uint8)


def _thinned(vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return every n-th vector, no more than are seen on a page."""
    return vectors[:: max(1, -(-len(vectors) // MOST_PIXELS))]


def _share(seconds: float, of: Fingerprint, windows: Windows) -> float:
    """Return where on an axis of the matrix a window has its middle at a time, in [0, 1].

    Silence has no windows, and no place on the axis.
    """
    places = np.linspace(0.0, 1.0, len(of.times))
    return float(np.interp(seconds - windows.seconds / 2, of.times, places))


def _png(picture: npt.NDArray[np.uint8]) -> bytes:
    """Return an 8-bit picture, grey or in red, green and blue along a third axis, as PNG."""
    height, width = picture.shape[:2]
    colour = 0 if picture.ndim == 2 else 2

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + row.tobytes() for row in picture)
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )


def _head(answer: Samples) -> str:
    name = html.escape(Path(answer.query).name)
    n = len(answer.found)
    verdict = (
        "no sample found"
        if not answer.decided
        else "samples " + ("1 recording" if n == 1 else f"{n} recordings")
    )
    return (
        f"<h1>{name}</h1><p class=soft>{format_seconds(answer.duration)}, {verdict}, answered in "
        f"{answer.seconds:.1f} s</p>"
    )


def _section(match: SampleMatch, duration: float, query: Audio, windows: Windows | None) -> str:
    name = html.escape(match.recording.name)
    played = in_words(match.transformation)
    if played != "untouched":
        played_as = f"{match.tempo_ratio:.3f} × the tempo, {match.semitones:+.2f} semitones"
    else:
        played_as = "tempo and pitch as recorded"
    n = len(match.occurrences)
    facts = [
        f"probability {match.probability:.3f}{'' if match.decided else ', below the threshold'}",
        f"{played}: {played_as}",
        *([match.part] if match.part else []),
        "once" if n == 1 else f"{n} times",
        f"{match.coverage:.1f} s of the track ({100 * match.coverage / duration:.0f} %)",
    ]
    parts = [f"<h2>{name}</h2><p>{html.escape(' · '.join(facts))}</p>"]
    parts.append(_lanes(match, duration))
    if windows is not None and len(windows.query) and len(windows.recording):
        parts.append(_matrix(match, windows))
    parts.append(_listen(match, query))
    parts.append(_table(match.occurrences))
    return "".join(parts)


def _lanes(match: SampleMatch, duration: float) -> str:
    """Return two lanes of time, the track above and the recording below, and what joins them."""
    length = max(match.recording.duration, 1e-6)

    def at(seconds: float, whole: float) -> float:
        return WIDTH * min(max(seconds / whole, 0.0), 1.0)

    shapes = []
    for o in match.occurrences:
        a, b = at(o.query_start, duration), at(o.query_end, duration)
        c, d = at(o.reference_start, length), at(o.reference_end, length)
        shapes.append(
            f'<path d="M{a:.1f} 34 L{b:.1f} 34 L{d:.1f} 86 L{c:.1f} 86 Z" fill="{MARK}" '
            f'opacity=".18"/><rect x="{a:.1f}" y="16" width="{max(b - a, 1):.1f}" height="18" '
            f'fill="{MARK}"/><rect x="{c:.1f}" y="86" width="{max(d - c, 1):.1f}" height="18" '
            f'fill="{MARK}" opacity=".6"/>'
        )
    lanes = "".join(
        f'<rect x="0" y="{y}" width="{WIDTH}" height="18" fill="none" stroke="{SOFT}"/>'
        f'<text x="0" y="{text}" font-size="12" fill="{SOFT}">{label}</text>'
        for y, text, label in (
            (16, 11, f"the track, {format_seconds(duration)}"),
            (86, 119, f"the recording, {format_seconds(length)}"),
        )
    )
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} 124" role="img" aria-label="Occurrences">'
        f"{lanes}{''.join(shapes)}</svg></figure>"
    )


def _matrix(match: SampleMatch, windows: Windows) -> str:
    picture = base64.b64encode(matrix_png(windows)).decode()

    def across(seconds: float, of: Fingerprint) -> float:
        return 100 * _share(seconds, of, windows)

    lines = "".join(
        f'<line x1="{across(o.query_start, windows.query):.2f}%" '
        f'x2="{across(o.query_end, windows.query):.2f}%" '
        f'y1="{100 - across(o.reference_start, windows.recording):.2f}%" '
        f'y2="{100 - across(o.reference_end, windows.recording):.2f}%" '
        f'stroke="{MARK}" stroke-width="2"/>'
        for o in match.occurrences
    )
    return (
        f'<figure><div class=matrix><img alt="Similarity" src="data:image/png;base64,{picture}">'
        f"<svg>{lines}</svg></div><figcaption>Windows of {windows.seconds:.0f} s compared: the "
        "track to the right, the recording upwards, dark where alike; occurrences in red."
        "</figcaption></figure>"
    )


def _listen(match: SampleMatch, query: Audio) -> str:
    """Return two players of the best occurrence: the track, and the recording played alike."""
    best = max(match.occurrences, key=lambda o: o.score * min(o.query_end - o.query_start, 4.0))
    length = min(best.query_end - best.query_start, MOST_SECONDS)
    mine = query.slice(best.query_start, best.query_start + length)
    end = best.reference_start + length * match.tempo_ratio
    try:
        source = Audio.load(
            match.recording.path, sample_rate=RATE, start=best.reference_start, end=end
        )
    except AudioError:
        return "<p class=soft>The recording's file is gone: nothing to hear.</p>"
    shown, caption = _played(source, match)
    return f"<div class=pair>{_player(mine, 'the track')}{_player(shown, caption)}</div>"


def _played(source: Audio, match: SampleMatch) -> tuple[Audio, str]:
    """Return an excerpt as the track plays it, and what that is."""
    if match.transformation == "untouched":
        return source, "the recording"
    if match.transformation == "varispeed":
        return change_speed(source, match.tempo_ratio), "the recording at the track's speed"
    try:
        played = stretch(shift_pitch(source, match.semitones), match.tempo_ratio)
    except MissingDependency:
        return source, "the recording as it is (python-stretch would play it as the track does)"
    return played, "the recording at the track's pitch and tempo"


def _player(audio: Audio, caption: str) -> str:
    loudest = float(np.abs(audio.samples).max(initial=1e-6))
    levelled = Audio(audio.samples * np.float32(0.8 / max(loudest, 1e-3)), audio.sample_rate)
    data = base64.b64encode(
        encode(levelled, codec="libopus", container="ogg", bit_rate=BIT_RATE)
    ).decode()
    return (
        f'<figure><audio controls src="data:audio/ogg;base64,{data}"></audio>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _table(occurrences: Sequence[Occurrence]) -> str:
    rows = "".join(
        f"<tr><td>{format_seconds(o.query_start)}–{format_seconds(o.query_end)}"
        f"<td>{format_seconds(o.reference_start)}–{format_seconds(o.reference_end)}"
        f"<td>{o.score:.2f}"
        for o in occurrences[:MOST_ROWS]
    )
    left = len(occurrences) - MOST_ROWS
    more = f"<p class=soft>and {left} more</p>" if left > 0 else ""
    return f"<table><tr><th>in the track<th>in the recording<th>correlation{rows}</table>{more}"
