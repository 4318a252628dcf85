"""Any file or buffer → mono float32 samples at a stated rate.

PyAV decodes whatever FFmpeg can. Damaged packets are skipped one by one; the time they would have
taken is filled with silence and reported as ``lost``, so that all later times stay right.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import av
import numpy as np
import numpy.typing as npt
import soxr

from spolia.errors import AudioError, ParameterError
from spolia.recording import path_text

Source = str | os.PathLike[str] | bytes | BinaryIO
Samples = npt.NDArray[np.float32]
T = TypeVar("T")

SUFFIXES = """
    .wav .wave .flac .mp3 .mp2 .ogg .oga .opus .m4a .m4b .aac .mp4 .m4v .mov .mkv .mka .webm .avi
    .mpg .mpeg .wma .wmv .aif .aiff .aifc .au .caf .ac3 .eac3 .dts .ape .wv .tta .amr .3gp .spx .mpc
    .w64 .ogv .flv .m2ts
"""
AUDIO_SUFFIXES = frozenset(SUFFIXES.split())  # of files that are taken from folders
SILENCE_PEAK = 1e-4  # −80 dBFS
GAP = 0.1  # seconds: smaller jumps of timestamps are rounding or encoder delay
TAIL = 0.25  # seconds that may be missing at the end without being called lost
LONGEST = 7 * 24 * 3600.0  # seconds that a container may claim to last and be believed
MOST_LOST = 1000.0  # times the decoded seconds that may be missing at the end and be believed
FILL = 60.0  # seconds of silence per piece in place of a lost stretch
EXACT_SEEK = ("wav", "flac", "mp3", "ogg")  # containers whose timestamps are exact after a seek
TOGETHER = 16384  # samples that are resampled at once: a frame of 20 ms alone doubles the time
SEEK_EARLY = 0.5  # seconds before the wanted start at which decoding begins


@dataclass(frozen=True)
class Audio:
    """Mono sound."""

    samples: Samples  # float32 [shape=(n_samples,)], finite, about [-1, 1]
    sample_rate: int  # Hz
    lost: float = 0.0  # seconds that could not be decoded and are silent here

    def __post_init__(self) -> None:
        """Check shape, type and rate."""
        samples = self.samples
        if not isinstance(samples, np.ndarray) or samples.ndim != 1:
            raise ParameterError("samples must be a one-dimensional array; mix channels down first")
        if self.sample_rate <= 0:
            raise ParameterError(f"sample_rate is {self.sample_rate}; give a positive rate in Hz")
        if samples.dtype != np.float32:
            object.__setattr__(self, "samples", samples.astype(np.float32))
        if not np.isfinite(self.samples).all():
            raise ParameterError("samples contain NaN or infinity; replace them first")

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    @property
    def duration(self) -> float:
        """Seconds of sound."""
        return len(self.samples) / self.sample_rate

    def slice(self, start: float, end: float | None = None) -> Audio:
        """Return the sound from ``start`` to ``end`` seconds, clipped to what there is."""
        first = max(0, round(start * self.sample_rate))
        last = len(self) if end is None else max(first, round(end * self.sample_rate))
        return Audio(self.samples[first:last], self.sample_rate)

    def resample(self, sample_rate: int) -> Audio:
        """Return the sound at another rate (soxr, high quality)."""
        if sample_rate == self.sample_rate:
            return self
        samples = soxr.resample(self.samples, self.sample_rate, sample_rate, quality="HQ")
        return Audio(np.asarray(samples, np.float32), sample_rate, self.lost)

    @classmethod
    def load(
        cls,
        source: Source,
        *,
        sample_rate: int = 8000,
        start: float = 0.0,
        end: float | None = None,
    ) -> Audio:
        """Decode a file, buffer or stream from ``start`` to ``end`` seconds.

        Raises AudioError with one sentence where that is not possible.
        """
        blocks = list(stream(source, sample_rate=sample_rate, start=start, end=end))
        samples = np.concatenate([block.samples for block in blocks])
        return cls(samples, sample_rate, sum(block.lost for block in blocks))


@dataclass(frozen=True)
class Tags:
    """What a file says of itself."""

    title: str | None = None
    artist: str | None = None
    album: str | None = None


def is_silent(audio: Audio) -> bool:
    """Tell whether nothing exceeds −80 dBFS."""
    return len(audio) == 0 or float(np.abs(audio.samples).max()) < SILENCE_PEAK


def load_query(
    source: Source | Audio, name: str | None, *, sample_rate: int, minimum: float
) -> tuple[Audio, str]:
    """Return a query's sound at a sample rate, and the query's name.

    Raises AudioError where it is unreadable, shorter than ``minimum`` seconds or silent.
    """
    if isinstance(source, Audio):
        audio, name = source.resample(sample_rate), name or "<audio>"
    else:
        audio, name = Audio.load(source, sample_rate=sample_rate), name or name_of(source)
    if audio.duration < minimum:
        raise AudioError(
            name, f"is {audio.duration:.1f} s long; at least {minimum:.1f} s is needed"
        )
    if is_silent(audio):
        raise AudioError(name, "is silent (nothing above -80 dBFS); give a clip with sound")
    return audio, name


def name_of(source: Source) -> str:
    """Return what to call a source in messages."""
    if isinstance(source, (str, os.PathLike)):
        return path_text(source)
    return "<bytes>" if isinstance(source, bytes) else str(getattr(source, "name", "<stream>"))


def read_tags(source: Source) -> Tags:
    """Return title, artist and album of a file's metadata, None where absent."""
    with _open(source) as container:
        found: dict[str, str] = {}
        for metadata in (*(s.metadata for s in container.streams.audio), container.metadata):
            found |= {k.lower(): v.strip() for k, v in metadata.items() if v and v.strip()}
    artist = found.get("artist") or found.get("album_artist")
    return Tags(found.get("title"), artist, found.get("album"))


def stream(
    source: Source,
    *,
    sample_rate: int = 8000,
    block_seconds: float = 60.0,
    start: float = 0.0,
    end: float | None = None,
) -> Iterator[Audio]:
    """Yield consecutive blocks of a source in bounded memory; each has its own ``lost``."""
    if end is not None and end <= start:
        raise ParameterError(f"the end ({end} s) must be after the start ({start} s)")
    with _open(source) as container:
        decoder = _Decoder(container, name_of(source), sample_rate)
        size = max(1, round(block_seconds * sample_rate))
        buffer: list[Samples] = []
        n_buffered, n_total, reported = 0, 0, 0.0
        for samples in decoder.decode(start, end):
            buffer.append(samples)
            n_buffered += len(samples)
            while n_buffered >= size:
                joined = np.concatenate(buffer)
                yield Audio(joined[:size], sample_rate, decoder.lost - reported)
                reported, n_total = decoder.lost, n_total + size
                buffer, n_buffered = [joined[size:]], n_buffered - size
        if n_buffered or decoder.lost > reported:
            rest = np.concatenate([*buffer, np.zeros(0, np.float32)])
            yield Audio(rest, sample_rate, decoder.lost - reported)
        if n_total + n_buffered == 0:
            raise AudioError(decoder.name, _nothing(start, decoder))


def _nothing(start: float, decoder: _Decoder) -> str:
    if start > 0:
        return f"has no sound after {start:.1f} s; choose an earlier start"
    return f"no sound could be decoded ({decoder.n_bad} damaged packets); the file is damaged"


def _open(source: Source) -> Any:
    """Open a container or raise AudioError."""
    name = name_of(source)
    if isinstance(source, (str, os.PathLike)):
        size = _size(Path(source), name)
        file: Any = os.fspath(source)
    else:
        file = io.BytesIO(source) if isinstance(source, bytes) else source
        size = len(source) if isinstance(source, bytes) else 1
    if size == 0:
        raise AudioError(name, "is empty (0 bytes); give an audio file")
    try:
        container = av.open(file, metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise AudioError(name, f"is not audio that FFmpeg can read ({_reason(error)})") from error
    if not container.streams.audio:
        container.close()
        raise AudioError(name, "has no audio stream; give a file with sound")
    return container


def _size(path: Path, name: str) -> int:
    """Return the bytes of a readable file; raises AudioError for everything else."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise AudioError(name, "is a directory; give an audio file")
        if not stat.S_ISREG(status.st_mode):  # it would block, or end at once
            raise AudioError(name, "is a pipe or a device; give an audio file")
        with path.open("rb"):
            return status.st_size
    except (FileNotFoundError, NotADirectoryError) as error:
        raise AudioError(name, "does not exist; check the path") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise AudioError(name, f"cannot be read ({reason}); check its permissions") from error
    except ValueError as error:  # a name with a zero byte
        raise AudioError(name, f"is no path ({error}); check it") from error


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error).strip() or type(error).__name__


class _Decoder:
    """Decodes one audio stream to mono samples at one rate, keeping time by timestamps."""

    def __init__(self, container: Any, name: str, sample_rate: int) -> None:
        self.container, self.name, self.sample_rate = container, name, sample_rate
        self.stream = container.streams.audio[0]
        self.stream.thread_type = "NONE"
        base = self.stream.time_base
        self.tick = None if base is None else float(base)  # seconds; fractions take 20 us a frame
        self.lost = 0.0
        self.n_bad = 0
        self.origin = self._time(self.stream.start_time) or 0.0
        if self.origin < 0:
            self.origin = 0.0
        length = self._time(self.stream.duration)
        if length is None and container.duration:
            length = container.duration / av.time_base
        if length is not None and length > LONGEST:
            length = None
        self.length = length  # seconds, by the container's word; None if it has none to believe

    def _time(self, pts: int | None) -> float | None:
        return None if pts is None or self.tick is None else pts * self.tick

    def decode(self, start: float, end: float | None) -> Iterator[Samples]:
        """Yield samples from ``start`` to ``end`` seconds, then account for what is missing."""
        rate = self.sample_rate
        first = round(start * rate)
        last = None if end is None else round(end * rate)
        place = None  # sample number of the next resampled sample; None before the first
        for at, samples in self._convertible(self._resampled(start)):
            if place is None:
                place = at if at > 0 and start > 0 else 0
            begin, stop = place, place + len(samples)
            place = stop
            low = max(first - begin, 0)
            high = len(samples) if last is None else min(len(samples), last - begin)
            if high > low:
                yield samples[low:high]
            if last is not None and stop >= last:
                return
        self._missing_tail((place or 0) / rate, end)

    def _convertible(self, found: Iterator[T]) -> Iterator[T]:
        """Yield what is found; raise AudioError where FFmpeg cannot bring it to the rate."""
        try:
            yield from found
        except av.FFmpegError as error:
            reason = f"cannot be brought to {self.sample_rate} Hz ({_reason(error)})"
            raise AudioError(self.name, f"{reason}; the file is damaged or rare") from error

    def _missing_tail(self, reached: float, end: float | None) -> None:
        if self.length is not None:
            wanted = self.length if end is None else min(end, self.length)
            missing = wanted - reached
            if TAIL < missing <= MOST_LOST * max(reached, 1.0):  # more is a damaged header
                self.lost += missing

    def _resampled(self, start: float) -> Iterator[tuple[int, Samples]]:
        """Yield (sample number, samples) with silence in place of lost stretches."""
        resampler = _Resampler(self.sample_rate)
        clock: float | None = None  # seconds at which the next frame should begin
        number = 0
        for frame in self._frames(start):
            at = self._frame_time(frame)
            if clock is None:
                clock = at if at is not None else 0.0
                number = round(clock * self.sample_rate)
            elif at is not None and at - clock > GAP and self._plausible(at):
                for samples in resampler.flush():
                    yield number, samples
                for piece in self._silence(at - clock):
                    yield 0, piece
                self.lost += at - clock
                clock = at
            clock += frame.samples / frame.sample_rate
            for samples in resampler.feed(frame):
                yield number, samples
        for samples in resampler.flush():
            yield number, samples

    def _silence(self, seconds: float) -> Iterator[Samples]:
        n_samples, size = round(seconds * self.sample_rate), round(FILL * self.sample_rate)
        for start in range(0, n_samples, size):
            yield np.zeros(min(size, n_samples - start), np.float32)

    def _plausible(self, at: float) -> bool:
        return self.length is not None and at <= self.length + 1.0

    def _frame_time(self, frame: Any) -> float | None:
        at = self._time(frame.pts)
        return None if at is None else at - self.origin

    def _frames(self, start: float) -> Iterator[Any]:
        if start > SEEK_EARLY and self.container.format.name in EXACT_SEEK:
            target = start - SEEK_EARLY + self.origin
            try:
                self.container.seek(int(target / self.stream.time_base), stream=self.stream)
            except (av.FFmpegError, OSError):
                self.container.seek(0)
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, OSError):
                self.n_bad += 1
                return
            try:
                frames = packet.decode()
            except (av.FFmpegError, OSError, ValueError):
                self.n_bad += 1
                continue
            yield from frames


class _Resampler:
    """Brings decoded frames to mono samples at one rate."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._begin()

    def _begin(self) -> None:
        # Channels are averaged afterwards: FFmpeg's own mix to mono amplifies floats by 3 dB.
        # Packed, since PyAV reads past the end of planar frames of more than eight channels, which
        # damaged AAC claims to have.
        self.resampler = av.AudioResampler(
            "flt", None, self.sample_rate, frame_size=self.sample_rate
        )
        self.waiting = av.AudioFifo()

    def feed(self, frame: Any) -> Iterator[Samples]:
        """Take a frame; yield what is ready. Its format may differ from that of earlier ones."""
        frame.pts = None
        try:
            self.waiting.write(frame)
        except (av.FFmpegError, ValueError):  # the format changed in mid-stream
            yield from self.flush()
            self.waiting.write(frame)
        if self.waiting.samples >= TOGETHER:
            yield from self._mono(self.resampler.resample(self.waiting.read()))

    def flush(self) -> Iterator[Samples]:
        """Yield all that is left and be ready for another stretch."""
        if self.waiting.samples:
            yield from self._mono(self.resampler.resample(self.waiting.read()))
        yield from self._mono(self.resampler.resample(None))
        self._begin()

    def _mono(self, frames: Any) -> Iterator[Samples]:
        for frame in frames:
            packed = frame.to_ndarray().reshape(-1, frame.layout.nb_channels)
            samples = np.asarray(packed.mean(axis=1), np.float32)
            yield np.nan_to_num(samples, posinf=0.0, neginf=0.0)
