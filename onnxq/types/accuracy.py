"""Accuracy levels of onnxruntime's MatMulNBits: what it does with what it multiplies.

Numbers: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md, `accuracy_level` of MatMulNBits.
Level 0, which means no level, leaves the choice to the runtime.
"""

from __future__ import annotations

from typing import Final

EXACT: Final = 1
"""Inputs stay in float32."""
ROUNDS: Final = 4
"""Inputs are rounded to 8 bits inside the kernel, block by block: about 40 dB below them, less than 4-bit weights lose,
and with small blocks 2 dB for 8-bit ones. The other levels do not round, and take 10 times as long for one row of a
transformer encoder with 8 bits, 3 times as long as float: so it is the level of whatever names none."""
