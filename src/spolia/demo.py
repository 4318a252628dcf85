"""``python -m spolia.demo``: the main job on synthesised music, or on the user's own files."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from spolia import degradation
from spolia.audio import Audio, Tags
from spolia.encoding import encode, write_wav
from spolia.errors import SpoliaError
from spolia.identify import Identification
from spolia.library import Library
from spolia.synthesis import crate, piece
from spolia.timing import format_seconds

N_PIECES = 24
CLIP_SECONDS = 10.0
SEED = 7


def main(arguments: list[str] | None = None) -> int:
    """Run the demo; return the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("music", nargs="?", type=Path, help="your own folder of music")
    parser.add_argument("clip", nargs="?", type=Path, help="a clip to identify")
    parser.add_argument("--library", type=Path, help="keep the library in this folder")
    parser.add_argument("--seed", type=int, default=SEED, help="of the synthesised crate")
    given = parser.parse_args(arguments)
    if (given.music is None) != (given.clip is None):
        parser.error("give both a folder of music and a clip, or neither")
    try:
        with tempfile.TemporaryDirectory(prefix="spolia-demo-") as scratch:
            folder = given.library or Path(scratch) / "library"
            if given.music is not None:
                return _own_files(folder, given.music, given.clip)
            return _synthesised(folder, Path(scratch), given.seed)
    except SpoliaError as error:
        print(f"spolia: {error}", file=sys.stderr)  # noqa: T201 - a door
        return 1


def _say(text: str = "") -> None:
    print(text, flush=True)  # noqa: T201 - a door


def _own_files(folder: Path, music: Path, clip: Path) -> int:
    with Library(folder) as library:
        _add(library, music)
        _show(library.identify(clip, top=1))
    return 0


def _add(library: Library, music: Path) -> None:
    report = library.add([music])
    rate = report.seconds_of_audio / max(report.elapsed, 1e-9)
    _say(
        f"added {report.added} recordings ({format_seconds(report.seconds_of_audio)}) in "
        f"{report.elapsed:.1f} s, {rate:.0f} x real time"
    )
    for path, reason in report.failed:
        _say(f"  failed: {path}: {reason}")


def _show(answer: Identification) -> None:
    _say(f"answered in {answer.seconds:.2f} s")
    if not answer.decided:
        _say("found:   unknown")
    else:
        match = answer.matches[0]
        _say(
            f"found:   {match.recording.name}, {format_seconds(match.reference_start)}–"
            f"{format_seconds(match.reference_end)}, probability {match.probability:.3f}"
        )


def _synthesised(folder: Path, scratch: Path, seed: int) -> int:
    music = scratch / "crate"
    music.mkdir()
    started = time.perf_counter()
    pieces = []
    for number, (title, artist, audio) in enumerate(crate(N_PIECES, seed=seed), start=1):
        pieces.append((title, artist, audio))
        data = encode(audio, codec="flac", container="flac", tags=Tags(title, artist, "Demo"))
        (music / f"{number:02d}.flac").write_bytes(data)
    _say(f"synthesised {len(pieces)} pieces in {time.perf_counter() - started:.1f} s")
    rng = np.random.default_rng(seed)
    with Library(folder) as library:
        _add(library, music)
        title, artist, audio = pieces[int(rng.integers(len(pieces)))]
        start = float(rng.uniform(1.0, audio.duration - CLIP_SECONDS - 1.0))
        _say()
        _say("a clip recorded in a room, with noise at 5 dB, through a 12 kbit/s codec")
        _say(
            f"truth:   {artist} – {title}, {format_seconds(start)}–"
            f"{format_seconds(start + CLIP_SECONDS)}"
        )
        clip = scratch / "clip.wav"
        write_wav(clip, recorded(audio, start, rng))
        answer = library.identify(clip)
        _show(answer)
        _say()
        _say("a clip of a piece that is not in the library")
        _say("truth:   unknown")
        stranger = piece(np.random.default_rng([seed, 999]), seconds=20.0)
        write_wav(clip, recorded(stranger, 5.0, rng))
        absent = library.identify(clip)
        _show(absent)
    right = answer.decided and answer.matches[0].recording.title == title and not absent.decided
    return 0 if right else 1


def recorded(audio: Audio, start: float, rng: np.random.Generator) -> Audio:
    """Return a clip as recorded in a room: reverberation, noise at 5 dB, Opus at 12 kbit/s."""
    excerpt = audio.slice(start - 1.0, start + CLIP_SECONDS)
    wet = degradation.room(excerpt, rng, rt60=0.5)
    noisy = degradation.add_noise(wet, rng, snr_db=5.0)
    coded = degradation.codec(noisy, codec="libopus", bit_rate=12000)
    return coded.slice(1.0, 1.0 + CLIP_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
