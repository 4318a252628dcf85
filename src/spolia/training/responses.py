"""Impulse responses for training: measured ones of the corpus and simulated shoebox rooms."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import soxr
import torch

from spolia.audio import Audio
from spolia.corpus import CorpusFile
from spolia.errors import MissingDependency
from spolia.training.degrade import Responses

logger = logging.getLogger(__name__)

Response = npt.NDArray[np.float32]


LEAD = 0.1  # seconds before the strongest arrival that are kept: sound that leaks through a door


def trim(response: Response, length: int, *, lead: int = 8) -> Response:
    """Return a response faded out, of unit energy, with its strongest arrival at sample ``lead``.

    float32 [shape=(length,)].
    """
    strongest = int(np.argmax(np.abs(response)))
    cut = response[max(strongest - lead, 0) : strongest + length - lead].astype(np.float64)
    cut = np.pad(cut, (max(lead - strongest, 0), 0))
    cut = np.pad(cut, (0, length - len(cut)))
    cut[-length // 8 :] *= np.linspace(1.0, 0.0, len(cut[-length // 8 :]))
    return (cut / max(float(np.sqrt((cut**2).sum())), 1e-9)).astype(np.float32)


def vary(response: Response, rng: np.random.Generator, *, sample_rate: int) -> Response:
    """Return a room like the given one: larger or smaller, drier or wetter, nearer or farther.

    Time scaled by 0.75–1.33, the decay bent by up to half its rate, the first 5 ms after the
    strongest arrival up to 8 dB louder or softer against the rest.
    """
    scale = float(np.exp(rng.uniform(np.log(0.75), np.log(1.33))))
    scaled = soxr.resample(response.astype(np.float64), sample_rate, sample_rate * scale)
    strongest = int(np.argmax(np.abs(scaled)))
    time = (np.arange(len(scaled)) - strongest) / sample_rate
    later = np.maximum(time, 0.0)
    energy = scaled**2
    mean_time = float((later * energy).sum() / max(energy.sum(), 1e-12))
    # bounded, or a slower decay would lift the noise at a measured response's end
    decays = np.minimum(later / max(mean_time, 0.02), 6.0)
    bent = scaled * np.exp(-rng.uniform(-0.25, 0.5) * decays)
    near = np.abs(time) < 0.005
    bent[near] *= 10 ** (rng.uniform(-8.0, 8.0) / 20)
    return bent.astype(np.float32)


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


def load_responses(files: Iterable[CorpusFile], *, sample_rate: int) -> list[Response]:
    """Return the samples of measured responses."""
    return [Audio.load(f.path, sample_rate=sample_rate).samples for f in files]


def response_bank(
    rooms: Sequence[Response],
    devices: Sequence[Response],
    *,
    n_fft: int,
    longest: int,
    lead: int,
    device: torch.device,
) -> Responses:
    """Return the spectra of trimmed responses; an identity stands in for an empty list.

    Their strongest arrival is at time zero: the ``lead`` samples before it wrap around to the end.
    """

    def spectra(responses: Sequence[Response]) -> torch.Tensor:
        identity = np.zeros(lead + 1, np.float32)
        identity[lead] = 1.0
        trimmed = np.stack([trim(r, longest, lead=lead) for r in responses or [identity]])
        placed = np.zeros((len(trimmed), n_fft), np.float32)
        placed[:, : longest - lead], placed[:, n_fft - lead :] = (
            trimmed[:, lead:],
            trimmed[:, :lead],
        )
        return torch.fft.rfft(torch.from_numpy(placed)).to(device)

    return Responses(spectra(rooms), spectra(devices))
