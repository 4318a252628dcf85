"""Impulse responses for training: measured ones of the corpus and simulated shoebox rooms."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from spolia.audio import Audio
from spolia.corpus import CorpusFile
from spolia.errors import MissingDependency
from spolia.training.degrade import Responses

logger = logging.getLogger(__name__)

Response = npt.NDArray[np.float32]


def trim(response: Response, length: int) -> Response:
    """Return a response that begins just before its direct sound, faded out, of unit energy."""
    start = max(int(np.argmax(np.abs(response))) - 8, 0)
    cut = response[start : start + length].astype(np.float64)
    cut = np.pad(cut, (0, length - len(cut)))
    cut[-length // 8 :] *= np.linspace(1.0, 0.0, len(cut[-length // 8 :]))
    return (cut / max(float(np.sqrt((cut**2).sum())), 1e-9)).astype(np.float32)


def simulate_rooms(n: int, *, sample_rate: int, seed: int) -> list[Response]:
    """Return responses of ``n`` random shoebox rooms by the image-source method.

    Rooms of 2–15 m, reverberation times of 0.15–1.2 s, source and microphone anywhere inside.
    Needs pyroomacoustics (extra ``train``).
    """
    try:
        import pyroomacoustics as pra
    except ImportError as error:
        raise MissingDependency("pyroomacoustics", "train") from error
    rng = np.random.default_rng(seed)
    responses: list[Response] = []
    while len(responses) < n:
        size = rng.uniform([2.5, 2.0, 2.2], [15.0, 10.0, 4.5])
        try:
            absorption, order = pra.inverse_sabine(float(rng.uniform(0.15, 1.2)), size)
        except ValueError:  # the room is too large for so short a reverberation
            continue
        room = pra.ShoeBox(
            size, fs=sample_rate, materials=pra.Material(absorption), max_order=min(order, 12)
        )
        room.add_source(rng.uniform(0.3, size - 0.3))
        room.add_microphone(rng.uniform(0.3, size - 0.3))
        room.compute_rir()
        responses.append(np.asarray(room.rir[0][0], np.float32))
    return responses


def load_responses(
    corpus: Path, files: Sequence[CorpusFile], *, sample_rate: int
) -> list[Response]:
    """Return the samples of measured responses."""
    return [Audio.load(corpus / f.file, sample_rate=sample_rate).samples for f in files]


def response_bank(
    rooms: Sequence[Response],
    devices: Sequence[Response],
    *,
    n_fft: int,
    longest: int,
    device: torch.device,
) -> Responses:
    """Return the spectra of trimmed responses; an identity stands in for an empty list."""

    def spectra(responses: Sequence[Response]) -> torch.Tensor:
        identity = np.zeros(longest, np.float32)
        identity[0] = 1.0
        trimmed = [trim(r, longest) for r in responses] or [identity]
        return torch.fft.rfft(torch.from_numpy(np.stack(trimmed)), n_fft).to(device)

    return Responses(spectra(rooms), spectra(devices))
