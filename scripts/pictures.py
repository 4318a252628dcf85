"""Draws docs/explanation/degradation.png: each part of the training degradation on one excerpt.

python scripts/pictures.py    (needs spolia[train,plot]; the music is synthesised, seed 3)
"""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image

from spolia.networks.front_end import FrontEndConfig, LogBands
from spolia.synthesis import piece
from spolia.training.coding import CODECS, codec
from spolia.training.degrade import DegradeConfig, Degrader
from spolia.training.responses import response_bank, simulate_rooms
from spolia.training.warp import MaskConfig, mask, warp

RATE, SECONDS, CONTEXT = 8000, 3.0, 8000
N_FFT = 65536
TARGET = Path(__file__).parent.parent / "docs" / "explanation" / "degradation.png"


def small_speaker():
    """Return the response of a made-up phone speaker: a band from 500 Hz with two resonances."""
    time = np.arange(400) / RATE
    rings = [
        np.exp(-time * d) * np.sin(2 * np.pi * f * time) for f, d in ((900, 900), (2600, 1500))
    ]
    response = np.sum(rings, axis=0) * 0.5
    response[0] += 0.4
    return (response - response.mean()).astype(np.float32)


def degraded_by(part, sound, noise, responses, **changes):
    """Return the excerpt after one part of the chain alone."""
    off = {f.name: 0.0 for f in dataclasses.fields(DegradeConfig) if f.type == "float"}
    config = DegradeConfig(**{**off, "equaliser_db": 8.0, part: 1.0, **changes})
    degrader = Degrader(config, responses, sample_rate=RATE, n_fft=N_FFT)
    return degrader(sound, noise, CONTEXT, torch.Generator().manual_seed(5))


def panels():
    """Yield (title, log-power spectrogram) of each part."""
    bands = LogBands(FrontEndConfig())
    audio = piece(np.random.default_rng(3), seconds=SECONDS + 2, sample_rate=RATE)
    sound = torch.from_numpy(audio.samples)[None, : int((SECONDS + 1) * RATE)]
    noise = 0.1 * torch.randn(sound.shape, generator=torch.Generator().manual_seed(1))
    rooms = simulate_rooms(1, sample_rate=RATE, seed=4)
    bank = response_bank(
        rooms, [small_speaker()], n_fft=N_FFT, longest=16000, lead=800, device=torch.device("cpu")
    )
    clean = bands(sound[:, CONTEXT:])
    yield "the excerpt", clean
    for title, part, changes in (
        ("noise at 0 dB", "noise", {"snr_db": (0.0, 0.0)}),
        ("room", "room", {}),
        ("microphone, small speaker", "microphone", {}),
        ("equaliser", "equaliser", {}),
        ("high-pass", "high_pass", {}),
        ("low-pass", "low_pass", {}),
        ("telephone band", "telephone", {}),
        ("gain control", "gain_control", {}),
        ("overload", "overload", {}),
        ("level-following noise", "quantise", {}),
        ("dropouts", "dropout", {}),
    ):
        yield title, bands(degraded_by(part, sound, noise, bank, **changes))
    n_frames = clean.shape[2] - 12
    for title, semitones, tempo in (
        ("pitch +2 semitones", 2.0, 1.0),
        ("varispeed +8 %", 12 * np.log2(1.08), 1.08),
        ("tempo +12 %", 0.0, 1.12),
    ):
        factors = torch.tensor([semitones], dtype=torch.float32), torch.tensor([tempo])
        changed = warp(clean, *factors, n_frames=int(n_frames / 1.12), bands_per_octave=18)
        yield title, changed
    always = MaskConfig(bands=1.0, time=1.0, holes=1.0)
    yield "masks and raised floor", mask(clean, always, torch.Generator().manual_seed(2))
    for name, bit_rate in (CODECS[0], CODECS[3], CODECS[5]):
        coded = codec(audio, codec=name, bit_rate=bit_rate).samples
        yield (
            f"{name}, {bit_rate // 1000} kbit/s",
            bands(torch.from_numpy(coded)[None, CONTEXT:-RATE]),
        )


def main():
    mpl.use("Agg")
    from matplotlib import pyplot

    with torch.no_grad():
        drawn = list(panels())
    figure, grid = pyplot.subplots(5, 4, figsize=(13, 12), layout="constrained")
    for axes, (title, log_power) in zip(grid.flat, drawn, strict=False):
        values = log_power[0].numpy()
        axes.imshow(
            values,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=values.max() - 14,
            extent=(0, values.shape[1] / 32, 0, 80),
        )
        axes.set_title(title, fontsize=10)
        axes.set_yticks([0, 18, 36, 54, 72], ["170", "340", "680", "1360", "2720"], fontsize=7)
        axes.tick_params(axis="x", labelsize=7)
    for axes in list(grid.flat)[len(drawn) :]:
        axes.axis("off")
    figure.supxlabel("seconds")
    figure.supylabel("Hz")
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=72)
    Image.open(buffer).convert("RGB").quantize(96).save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
