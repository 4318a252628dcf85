"""Sound fonts: parts of a score as sound.

Played by FluidSynth, through the package pyfluidsynth and the system's library: a tool of the
training data only.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from spolia.errors import MissingDependency, TrainingError
from spolia.training.scores import BEND, CONTROL, DRUM_CHANNEL, NOTE_ON, Floats, Part

Samples = npt.NDArray[np.float32]

FONT_FOLDERS = (Path("/usr/share/sounds/sf2"), Path("/usr/share/sounds/sf3"))
DRUM_BANK = 128
QUIETER = 0.35  # FluidSynth's gain: a few loud parts together stay below full scale
BLOCK = 64  # samples that FluidSynth computes at once; events are played on this grid


def find_fonts(folders: tuple[Path, ...] = FONT_FOLDERS) -> list[Path]:
    """Return the sound fonts of the system, links left out, by name."""
    files = [p for folder in folders if folder.is_dir() for p in folder.iterdir()]
    return sorted(
        (p for p in files if p.suffix in (".sf2", ".sf3") and not p.is_symlink()),
        key=lambda p: p.name,
    )


class SoundFont:
    """A sound font, opened for playing one part at a time. Not for several threads at once."""

    def __init__(self, path: Path, *, sample_rate: int = 16000) -> None:
        if not path.is_file():
            raise TrainingError(f"{path} does not exist; give a .sf2 or .sf3 sound font")
        self.path, self.sample_rate = path, sample_rate
        library = _fluidsynth()
        self._synth = library.Synth(gain=QUIETER, samplerate=float(sample_rate))
        self._synth.setting("synth.reverb.active", 0)
        self._synth.setting("synth.chorus.active", 0)
        self._id = self._synth.sfload(str(path))
        if self._id < 0:
            raise TrainingError(f"{path} is not a readable sound font; give another")

    def play(self, part: Part, seconds: Floats, program: int, *, duration: float) -> Samples:
        """Return the sound of a part, float32 mono [shape=(round(duration · sample_rate),)].

        seconds: when each of the part's events happens; program: the instrument, 0–127, or the
        drum kit.
        """
        synth, channel = self._synth, DRUM_CHANNEL if part.is_drum else 0
        synth.system_reset()
        bank = DRUM_BANK if part.is_drum else 0
        if synth.program_select(channel, self._id, bank, program) != 0:
            synth.program_select(channel, self._id, bank, 0)
        n_samples = round(duration * self.sample_rate)
        # whole blocks, or what is left of the last one would begin the next part
        out = np.zeros((2, -(-n_samples // BLOCK) * BLOCK), np.float32)
        places = np.round(seconds * self.sample_rate / BLOCK).astype(np.int64) * BLOCK
        now = 0
        for place, event in zip(places.tolist(), part.events.tolist(), strict=True):
            now = self._render(out, now, place)
            _send(synth, channel, *event)
        self._render(out, now, out.shape[1])
        return np.asarray(out[:, :n_samples].mean(0), np.float32)

    def _render(self, out: Samples, start: int, end: int) -> int:
        """Let the synthesiser write ``out`` from ``start`` to ``end``; return where it stopped.

        In floats: as 16-bit samples they would carry dither that differs from call to call.
        """
        end = min(end, out.shape[1])
        if end > start:
            address = out.ctypes.data_as(ctypes.c_void_p)
            second = ctypes.c_void_p(out[1].ctypes.data)
            write = _fluidsynth()._fl.fluid_synth_write_float
            write(self._synth.synth, end - start, address, start, 1, second, start, 1)
        return max(start, end)


def _send(synth: Any, channel: int, status: int, first: int, second: int) -> None:
    if status == NOTE_ON and second:
        synth.noteon(channel, first, second)
    elif status == CONTROL:
        synth.cc(channel, first, second)
    elif status == BEND:
        synth.pitch_bend(channel, (second << 7 | first) - 8192)
    else:
        synth.noteoff(channel, first)


@lru_cache(maxsize=1)
def _fluidsynth() -> Any:
    """Return the module, its library silenced: it complains of every kit that a font lacks."""
    try:
        import fluidsynth
    except ImportError as error:  # the package, or the system's library behind it
        raise MissingDependency(
            "pyfluidsynth (with the system's libfluidsynth)", "train"
        ) from error
    ignore = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
    silent = ignore(lambda level, message, data: None)
    for level in range(5):
        fluidsynth._fl.fluid_set_log_function(level, silent, None)
    fluidsynth._spolia_silence = silent  # the library keeps the pointer
    address = ctypes.c_void_p
    row = (address, ctypes.c_int, ctypes.c_int)
    fluidsynth._fl.fluid_synth_write_float.argtypes = (address, ctypes.c_int, *row, *row)
    return fluidsynth
