"""Where a match lies exactly, by the sound of its recording, where the file is still there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from spolia.alignment import Line
from spolia.audio import Audio
from spolia.calibration import Calibration
from spolia.confirmation import Confirmation
from spolia.errors import AudioError
from spolia.recording import Recording
from spolia.rivals import Candidate, Place, overlapping
from spolia.spectral_alignment import MOST_LAG, N_FFT, SAMPLE_RATE, Alignment, align

SPAN = 10.0  # seconds of a query that are aligned at once
BEYOND = 0.2  # seconds of the recording that are decoded on both sides of where they may lie
LEAST = 0.8  # seconds: less cannot be aligned
BENT = 0.03  # by which the speed between two alignments may differ from theirs
CONVINCING = 0.08  # correlation; below it, a third of alignments were worse than the vectors' line
SEEKING = frozenset([".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus"])  # decoded from any place
MOST_CONTENDERS = 4  # candidates on one stretch that are aligned,
MOST_PLACES = 2  # and of one recording, at first;
MOST_ROUNDS = 8  # in which what would count without having been aligned is, too;
FAR_BEHIND = 0.01  # share of the first one's probability below which others are not
PATIENCE = 120.0  # seconds that are decoded for nothing in other files


def place(
    query: Audio,
    line: Line,
    recording: Recording,
    *,
    semitones: float = 0.0,
    lag: float = MOST_LAG,
) -> Place:
    """Return a match's line as exactly as the recording's file allows, and the query's pitch.

    semitones: how much higher the query is, roughly; lag: seconds by which the line may be off. The
    line comes back as it is where the file is gone, was changed since it was added, or is not
    clearly heard in the query.
    """
    if not is_unchanged(recording):
        return Place(line)
    query = query.resample(SAMPLE_RATE)
    start, end = line.query_start, min(line.query_end, query.duration)
    if end - start <= 2 * SPAN:
        spare = max(0.0, (end - start - SPAN) / 2)
        found = _aligned(query, line, recording, semitones, start + spare, end - spare, lag)
        if found is None:
            return Place(line)
        moved = replace(line, offset=found.offset, speed=found.speed)
        return _heard(line, moved, found.semitones, [found])
    first = _aligned(query, line, recording, semitones, start, start + SPAN, lag)
    last = _aligned(query, line, recording, semitones, end - SPAN, end, lag)
    if first is None or last is None:
        return Place(line)
    joined = _through(line, first, start + SPAN / 2, last, end - SPAN / 2)
    if any(abs(joined.speed / found.speed - 1) > BENT for found in (first, last)):
        joined = line  # of two places, or of none
    return _heard(line, joined, (first.semitones + last.semitones) / 2, [first, last])


def _heard(line: Line, moved: Line, semitones: float, found: Sequence[Alignment]) -> Place:
    """Return the moved line where the recording is clearly heard, else the line as it was."""
    correlation = min(a.correlation for a in found)
    prominence = min(a.prominence for a in found)
    if correlation < CONVINCING:
        return Place(line, None, correlation, prominence)
    return Place(moved, semitones, correlation, prominence)


def confirmed(
    candidates: Sequence[Candidate],
    align: Callable[[Candidate], Place],
    confirmation: Confirmation,
    decided: Callable[[list[Candidate]], list[Candidate]],
) -> list[Candidate]:
    """Return candidates, the likeliest judged by the recordings' sound too, most probable first.

    align: the place of a candidate; decided: those that count as matches. Where a recording's file
    is gone, the vectors' opinion stands.
    """
    found, chosen = list(candidates), contenders(candidates)
    for _ in range(1 + MOST_ROUNDS):
        if not chosen:
            break
        heard = {id(c): _by_sound(c, align(c), confirmation) for c in chosen}
        found = sorted((heard.get(id(c), c) for c in found), key=lambda c: -c.probability)
        chosen = [c for c in decided(found) if c.place is None]
    return found


def _by_sound(candidate: Candidate, placed: Place, confirmation: Confirmation) -> Candidate:
    """Return a candidate at a place, with its probability by vectors and sound."""
    before, line = candidate.probability, candidate.line
    candidate = replace(candidate, place=placed, by_vectors=before)
    if placed.correlation is None or placed.prominence is None:
        return candidate
    after = confirmation.probability(
        vectors=before,
        correlation=placed.correlation,
        prominence=placed.prominence,
        seconds=line.query_end - line.query_start,
    )
    return replace(candidate, probability=after)


def limit_of(
    candidate: Candidate,
    calibration: Calibration,
    confirmation: Confirmation | None,
    n_entries: int,
) -> float:
    """Return the probability from which a candidate counts, by whether its sound was heard."""
    heard = candidate.place is not None and candidate.place.correlation is not None
    if heard and confirmation and confirmation.threshold is not None:
        return confirmation.threshold
    seconds = candidate.line.query_end - candidate.line.query_start
    return calibration.threshold_at(seconds, n_entries)


def contenders(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates that may be right: a few on every stretch, none far behind the first.

    candidates: most probable first.
    """
    kept: list[Candidate] = []
    for candidate in candidates:
        rivals = [c for c in kept if overlapping(c.line, candidate.line)]
        own = sum(c.recording_id == candidate.recording_id for c in rivals)
        if len(rivals) >= MOST_CONTENDERS or own >= MOST_PLACES:
            continue
        if not rivals or candidate.probability >= FAR_BEHIND * rivals[0].probability:
            kept.append(candidate)
    return kept


def is_unchanged(recording: Recording) -> bool:
    """Tell whether a recording's file is there as it was added."""
    try:
        status = Path(recording.path).stat()
    except OSError:
        return False
    return recording.is_made_from(status)


def _aligned(
    query: Audio,
    line: Line,
    recording: Recording,
    semitones: float,
    start: float,
    end: float,
    lag: float,
) -> Alignment | None:
    """Align the query from ``start`` to ``end`` seconds; times are those of the whole query."""
    if end - start < LEAST:
        return None
    first = max(0.0, line.speed * start + line.offset - lag - BEYOND)
    last = line.speed * end + line.offset + lag + BEYOND
    if last <= first:  # the recording begins later
        return None
    try:
        sound = _decoded(recording, first, last)
    except AudioError:
        return None
    if sound is None or len(sound) < N_FFT:
        return None
    found = align(
        query.slice(start, end).samples,
        sound.samples,
        start=first,
        offset=line.speed * start + line.offset,
        speed=line.speed,
        semitones=semitones,
        lag=lag,
    )
    if found is None:
        return None
    return replace(found, offset=found.offset - found.speed * start)


def _decoded(recording: Recording, start: float, end: float) -> Audio | None:
    if start > PATIENCE and Path(recording.path).suffix.lower() not in SEEKING:
        return None
    return Audio.load(recording.path, sample_rate=SAMPLE_RATE, start=start, end=end)


def _through(line: Line, first: Alignment, early: float, last: Alignment, late: float) -> Line:
    """Return the line through two alignments at two times of the query."""
    at = first.speed * early + first.offset
    speed = (last.speed * late + last.offset - at) / (late - early)
    return replace(line, speed=speed, offset=at - speed * early)
