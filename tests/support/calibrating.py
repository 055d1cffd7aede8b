"""Calibrating a small model: samples, statistics as plain values, and a progress that remembers."""

import dataclasses

import numpy as np

# Elementwise, so that every sample's values are the same bits in any batch.
TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
small (float[N,L] x) => (float[N,L] y)
<float two = {2}, float third = {0.3333}>
{ a = Mul (x, third)  b = Relu (a)  c = Mul (b, two)  y = Sub (x, c) }
"""
TENSORS = ("x", "a", "b", "c", "y")
SAMPLES = np.random.default_rng(7).standard_normal((24, 50)).astype(np.float32)


class RecordingProgress:
    """A Progress that remembers."""

    def __init__(self, fail_at=None):
        self.calls, self.notes, self.done, self.fail_at = [], [], 0, fail_at

    def start(self, total, description):
        self.calls.append((description, total))
        self.done = 0

    def advance(self, n):
        self.done += n
        if self.fail_at is not None and self.done >= self.fail_at:
            raise KeyboardInterrupt

    def note(self, text):
        self.notes.append(text)

    def finish(self):
        self.calls.append(("finish", self.done))


def batched(size, samples=SAMPLES):
    return [{"x": samples[start : start + size]} for start in range(0, len(samples), size)]


def plain(value):
    """Data types as nested plain values, arrays as bytes: equal means bit-identical."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.tobytes())
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    return value
