"""Sound as samples: .wav files, cut into frames."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxq.data.arrays import files_digest
from onnxq.data.listing import list_files
from onnxq.data.reader import DataReader, RawItem
from onnxq.data.signature import InputSpec, Signature
from onnxq.errors import CalibrationError, RecipeError


@dataclass(frozen=True, kw_only=True, slots=True)
class WaveOptions:
    """How sound becomes a model's input.

    Attributes:
        frame: values of a sample; 0 for the model's fixed length, or else the whole file.
        hop: distance of frames; 0 for `frame`, so that they neither overlap nor leave out anything.
        rate: required sampling rate of the files, in Hz; 0 for any. Files are never resampled.
    """

    frame: int = 0
    hop: int = 0
    rate: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        for option, value in (("frame", self.frame), ("hop", self.hop), ("rate", self.rate)):
            if value < 0:
                raise RecipeError(f"wav: {option} must be at least 1, not {value}")


class WaveReader(DataReader):
    """Reads PCM .wav files of a folder: channels averaged, values -1..1, the last frame filled up with zeros.

    The model's only float input gets the frame; integer inputs without axes get the sampling rate.
    """

    asks_size = True

    def __init__(self, path: Path, options: WaveOptions) -> None:
        self.description = str(path)
        self._options = options
        self._paths = list_files(path, (".wav",), "wav")

    def items(self, signature: Signature, size: int | None) -> Iterator[RawItem]:
        """See `DataReader`."""
        sound, rates = _inputs(signature)
        dims = (None, None) if sound.dims is None else sound.dims
        fixed = dims[-1] if isinstance(dims[-1], int) else 0
        if fixed and self._options.frame not in (0, fixed):
            message = f"input '{sound.name}' is {sound}, frames of {self._options.frame} do not fit it"
            raise CalibrationError(f"{message}; leave out frame")
        frame = fixed or self._options.frame
        for path in self._paths:
            values, rate = _read(path)
            if self._options.rate not in (0, rate):
                message = f"'{path}' is sampled at {rate} Hz, not at {self._options.rate}"
                raise CalibrationError(f"{message}; resample it as it is done when the model is served")
            for number, part in enumerate(_frames(values, frame, self._options.hop), start=1):
                feeds: dict[str, Any] = {spec.name: np.array(rate, spec.dtype) for spec in rates}
                feeds[sound.name] = part.reshape((1,) * (len(dims) - 1) + (-1,)).astype(sound.dtype)
                yield RawItem(values=feeds, where=f"{path}, frame {number}")

    def digest(self) -> str | None:
        """See `DataReader`."""
        return files_digest(self._paths)


def _inputs(signature: Signature) -> tuple[InputSpec, list[InputSpec]]:
    sound = [spec for spec in signature.inputs if spec.dtype.kind == "f"]
    rates = [spec for spec in signature.inputs if spec.dtype.kind in "iu" and spec.dims == ()]
    if len(sound) != 1 or len(sound) + len(rates) < len(signature.inputs):
        names = ", ".join(f"'{spec.name}' {spec}" for spec in signature.inputs)
        message = f"sound can feed models with one float input (and a sampling rate), this one has {names}"
        raise CalibrationError(f"{message}; give batches instead")
    return sound[0], rates


def _read(path: Path) -> tuple[npt.NDArray[np.float32], int]:
    try:
        with wave.open(str(path)) as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            data = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise CalibrationError(f"cannot read '{path}': {error or 'it ends too early'}; save it as PCM .wav") from error
    whole = data[: len(data) // (width * channels) * width * channels]
    if not whole:
        raise CalibrationError(f"'{path}' holds no sound; remove it")
    return _decoded(whole, width).reshape(-1, channels).mean(axis=1, dtype=np.float32), rate


def _decoded(data: bytes, width: int) -> npt.NDArray[np.float32]:
    """Return PCM as -1..1: 8 bit is unsigned, all others are signed, little-endian."""
    if width == 1:
        return (np.frombuffer(data, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)
    if width == 3:
        padded = np.zeros((len(data) // 3, 4), np.uint8)
        padded[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        return padded.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)
    integers: npt.NDArray[Any] = np.frombuffer(data, f"<i{width}")
    return integers.astype(np.float32) / np.float32(2 ** (8 * width - 1))


def _frames(values: npt.NDArray[np.float32], frame: int, hop: int) -> Iterator[npt.NDArray[np.float32]]:
    if not frame:
        yield values
        return
    for start in range(0, len(values), hop or frame):
        part = values[start : start + frame]
        yield np.pad(part, (0, frame - len(part)))
