"""Silero VAD (MIT): does a frame of 32 ms hold speech? Every ONNX file in the wheel of silero-vad 6.2.3 (11 MB).

One small network (spectrum by convolution, four convolutions, an LSTM, a convolution) in six exports:

- silero-vad: opset 16, no initializers; all of it inside the two branches of an If on the sample rate (16 or 8 kHz),
  with more If inside, down to four deep; every weight a Constant node.
- silero-vad-16k-op15: opset 15, 16 kHz only; If around Squeeze and around the two ways to call LSTM.
- silero-vad-16k-sequence: a whole stretch of frames at once, LSTM over them; state as `h` and `c`.
- silero-vad-half: a 16 kHz export for phones, float32 like the others; no `sr` input.
- silero-vad-op18-ifless: opset 18, both rates, one If left; the LSTM is spelt out in Gemm, Sigmoid and Tanh; unused
  initializers.
- silero-vad-openvino-16k: opset 16, fixed shapes, no If; LSTM.

A stream is fed frame by frame, each with the end of the frame before it in front and with the state that the model gave
back; calibration and evaluation hand out the states that the float model runs through (this needs onnxruntime).

Frames told rightly by the float models: 99.1 % (both rates), 98.9 % (16 kHz), 92.5 % (half).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from models.entry import Array, Entry, Feeds, Metric, Run, ZooModel
from models.errors import ZooError
from models.fetch import Wheel, fetch
from models.silero.audio import CALIBRATION, EVALUATION, MOONSHINE, RATE, Sound, sound

BLOCK = 32
"""Frames in one run of the sequence model."""
EVERY = 4
"""One step in so many is handed out: neighbouring frames are much alike."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """How one file wants to be fed."""

    name: str
    file: str
    about: str
    rates: tuple[int, ...] = (RATE,)
    has_rate_input: bool = False
    batch: int = 4
    sequence: bool = False


EXPORTS = (
    Export(name="silero-vad", file="silero_vad.onnx", about="If on the rate", rates=(RATE, 8000), has_rate_input=True),
    Export(name="silero-vad-16k-op15", file="silero_vad_16k_op15.onnx", about="opset 15", has_rate_input=True),
    Export(
        name="silero-vad-16k-sequence", file="silero_vad_16k_sequence.onnx", about="LSTM over frames", sequence=True
    ),
    Export(name="silero-vad-half", file="silero_vad_half.onnx", about="for phones"),
    Export(
        name="silero-vad-op18-ifless",
        file="silero_vad_op18_ifless.onnx",
        about="LSTM spelt out",
        rates=(RATE, 8000),
        has_rate_input=True,
    ),
    Export(name="silero-vad-openvino-16k", file="silero_vad_openvino_16k.onnx", about="fixed shapes", batch=1),
)
SILERO = Wheel(
    project="silero-vad",
    version="6.2.3",
    sha256="7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
    members=tuple(f"silero_vad/data/{export.file}" for export in EXPORTS),
)


def load(export: Export) -> ZooModel:
    """One export of the detector, fed with streams of speech in noise."""
    fetch(SILERO)
    fetch(MOONSHINE)
    path = SILERO.file(export.file)
    return ZooModel(
        name=export.name,
        path=path,
        calibration=partial(batches, export, path, CALIBRATION),
        evaluation=partial(batches, export, path, EVALUATION),
        metric=Metric(name="frame accuracy", higher_is_better=True, compute=partial(frame_accuracy, export)),
    )


def batches(export: Export, path: Path, half: int) -> Iterator[Feeds]:
    """Every EVERY-th step of the float model through the recordings (each step, where a step is a whole block)."""
    run = float_model(path)
    for rate in export.rates:
        for number, step in enumerate(walk(export, sound(half, rate), run)):
            if export.sequence or number % EVERY == 0:
                yield step.feeds


def frame_accuracy(export: Export, run: Run) -> float:
    """Share of the clear frames whose probability is on the right side of one half; the model carries its own state."""
    right = total = 0
    for rate in export.rates:
        recording = sound(EVALUATION, rate)
        shares = np.zeros(recording.speech.shape)
        for step in walk(export, recording, run):
            shares[step.streams, step.times] = step.shares
        right += np.sum(((shares > 0.5) == recording.speech) & recording.clear)
        total += np.sum(recording.clear)
    return float(right / total)


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One run of a model, and the speech probabilities [streams, times] that it gave."""

    feeds: Feeds
    streams: slice
    times: slice
    shares: Array


def walk(export: Export, recording: Sound, run: Run) -> Iterator[Step]:
    """Feed the recordings in order, ``export.batch`` at a time side by side, handing the state from run to run."""
    windows = with_context(recording.frames)
    streams, times = recording.speech.shape
    length = BLOCK if export.sequence else 1
    width = 1 if export.sequence else export.batch
    for first in range(0, streams, width):
        state = _silence(export, width)
        for start in range(0, times, length):
            piece = windows[first : first + width, start : start + length]
            feeds = {"input": piece.reshape(-1, piece.shape[2]), **state}
            if export.has_rate_input:
                feeds["sr"] = np.array(recording.rate, dtype=np.int64)
            outputs = run(feeds)
            state, shares = _read(export, outputs)
            yield Step(
                feeds=feeds,
                streams=slice(first, first + width),
                times=slice(start, start + length),
                shares=shares.reshape(piece.shape[:2]),
            )


def with_context(frames: Array) -> Array:
    """[streams, frames, samples] -> each frame after the last eighth of the frame before it (0 at the start)."""
    tails = frames[:, :, -(frames.shape[2] // 8) :]
    before = np.concatenate([np.zeros_like(tails[:, :1]), tails[:, :-1]], axis=1)
    return np.concatenate([before, frames], axis=2)


def float_model(path: Path) -> Run:
    """The model at ``path`` on onnxruntime's CPU provider, one thread: it is too small for more."""
    try:
        import onnxruntime
    except ImportError:
        raise ZooError("the states of silero models are computed with onnxruntime: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(names, feeds), strict=True))


def _silence(export: Export, width: int) -> Feeds:
    """The state before the first frame."""
    if export.sequence:
        return {name: np.zeros((1, 1, 128), dtype=np.float32) for name in ("h", "c")}
    return {"state": np.zeros((2, width, 128), dtype=np.float32)}


def _read(export: Export, outputs: dict[str, Array]) -> tuple[Feeds, Array]:
    """The state to go on with, and the probabilities."""
    if export.sequence:
        return {"h": outputs["hn"], "c": outputs["cn"]}, outputs["speech_probs"]
    return {"state": outputs["stateN"]}, outputs["output"]


ENTRIES = tuple(
    Entry(name=export.name, summary=f"Silero voice detector, {export.about}", load=partial(load, export))
    for export in EXPORTS
)
