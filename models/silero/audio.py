"""Sound for the voice detector: real speech in noise, with stretches of noise alone, and what is known of each frame.

The speech is `beckett.wav`, ten seconds of a man reading at 16 kHz, from the wheel of useful-moonshine-onnx (MIT). Its
first half is for calibration and its second for evaluation; pitch, loudness and noise are varied.
"""

import wave
from dataclasses import dataclass
from functools import cache

import numpy as np

from models.entry import Array
from models.fetch import Wheel

_MEMBER = "moonshine_onnx/assets/beckett.wav"
MOONSHINE = Wheel(
    project="useful-moonshine-onnx",
    version="20251121",
    sha256="b4189b0d7dc8064d567fd0b5d5ce78634be290b0a3a3274ab80ad11c46d531a2",
    members=(_MEMBER,),
)
RATE = 16_000
CALIBRATION, EVALUATION = 0, 1
STREAMS = 4
_HALF = 4.8
_PAUSE = 1.6


@dataclass(frozen=True, kw_only=True, slots=True)
class Sound:
    """STREAMS recordings of one length, cut into frames of 32 ms.

    ``frames`` float32 [streams, frames, samples]; ``speech`` bool [streams, frames]; ``clear`` bool, the same shape:
    where ``speech`` is beyond doubt. Onsets, trailing sounds and short gaps are not.
    """

    rate: int
    frames: Array
    speech: Array
    clear: Array


@cache
def sound(half: int, rate: int) -> Sound:
    """The recordings for CALIBRATION or EVALUATION at 16000 or 8000 samples a second."""
    random = np.random.default_rng(31 + half)
    clean = [_perform(_clip(half), speed) for speed in ((9, 10), (11, 10), (1, 1), (19, 20))]
    length = min(len(one) for one in clean)
    voices = np.stack([one[:length] * gain for one, gain in zip(clean, (1.0, 3.0, 0.4, 2.0), strict=True)])
    noises = np.stack([_noise(kind, length, random) for kind in range(STREAMS)])
    speech, clear = _judge(_cut(voices, RATE))
    mixed = voices + noises * 10 ** (random.uniform(-32, -24, size=(STREAMS, 1)) / 20)
    if rate != RATE:
        from scipy import signal

        mixed = signal.resample_poly(mixed, rate, RATE, axis=1)
    return Sound(rate=rate, frames=_cut(mixed, rate).astype(np.float32), speech=speech, clear=clear)


def _clip(half: int) -> Array:
    """One half of the reading, float64 in -1..1, with silence before and after."""
    with wave.open(str(MOONSHINE.file(_MEMBER))) as source:
        samples = np.frombuffer(source.readframes(source.getnframes()), dtype="<i2") / 32768
    count = int(_HALF * RATE)
    return np.pad(samples[half * count : (half + 1) * count], int(_PAUSE * RATE))


def _perform(clip: Array, speed: tuple[int, int]) -> Array:
    """The clip played at ``speed``: pitch and tempo change together."""
    from scipy import signal  # slow to import, and `models.names()` does not need it

    played: Array = signal.resample_poly(clip, speed[1], speed[0])
    return played


def _noise(kind: int, length: int, random: np.random.Generator) -> Array:
    """Noise of unit power: white, pink, a mains hum with hiss, or soft chords."""
    white = random.normal(size=length)
    time = np.arange(length) / RATE
    if kind == 1:
        spectrum = np.fft.rfft(white)
        white = np.fft.irfft(spectrum / np.sqrt(np.arange(1, len(spectrum) + 1)), length)
    elif kind == 2:
        white = 0.3 * white + sum(np.sin(2 * np.pi * 50 * k * time) / k for k in (1, 2, 3, 5))
    elif kind == 3:
        white = 0.1 * white + sum(np.sin(2 * np.pi * tone * time) for tone in (220, 277, 330))
    scaled: Array = white / white.std()
    return scaled


def _cut(streams: Array, rate: int) -> Array:
    """[streams, samples] -> [streams, frames, samples of a frame]; the incomplete last frame is dropped."""
    size = rate * 32 // 1000
    count = streams.shape[1] // size
    return streams[:, : count * size].reshape(len(streams), count, size)


def _judge(frames: Array) -> tuple[Array, Array]:
    """Speech and clear, from the loudness of the voice before noise is added."""
    loudness = np.sqrt(np.mean(frames**2, axis=2))
    loudness /= np.percentile(loudness, 95, axis=1, keepdims=True)
    nearby = np.stack([np.convolve(row > 10 ** (-34 / 20), np.ones(21), mode="same") > 0 for row in loudness])
    speech = loudness > 10 ** (-10 / 20)
    return speech, speech | ~nearby
