"""How far a model's outputs, as served, fall short of what its graph says: on a few samples, in dB."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxq.data.source import Source
from onnxq.evaluate.comparison import Reference, compare_outputs
from onnxq.evaluate.served.as_written import as_written, rounds_inputs
from onnxq.evaluate.served.departures import Departure, departures
from onnxq.runtime.session import open_session

if TYPE_CHECKING:
    import onnx_ir as ir

NOTABLE_DB = 1.0
"""A difference between what the graph says and what is served that is worth a word."""
ROUNDING_DB = 60.0
"""Above this it is only the rounding of float32 sums in another order."""
_PLANNED_DB = 6.0
"""What rounding inputs to 8 bits may cost in MatMulNBits of accuracy level 4, which a plan chooses for its speed: one
bit. Next to 8-bit weights 1 to 3 dB are usual, next to 4-bit ones less than 0.5."""
SAMPLES = 16


def notable(plain: float, served: float) -> bool:
    """Return whether two figures of an output, optimizer off and as served, differ by more than rounding does."""
    return min(plain, served) < ROUNDING_DB and abs(plain - served) > NOTABLE_DB and plain != served


def falls_short(plain: float, served: float, allowed: float = NOTABLE_DB) -> bool:
    """Return whether an output is worse as served than the graph says, by more than is allowed."""
    return served < ROUNDING_DB and plain - served > allowed


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """The output that falls short most.

    Attributes:
        output: its name, "" for a model without outputs of numbers.
        plain, served: dB against the float model: as the graph says, and as served.
        allowed: by how much they may differ.
        others: what serving adds to the noise of all other outputs, see `excess`.
        rounding: whether what MatMulNBits rounds of its inputs counts as added.
    """

    output: str
    plain: float
    served: float
    allowed: float
    others: float = 0.0
    rounding: bool = False

    @property
    def open(self) -> bool:
        """Whether it is worse as served than the graph says."""
        return falls_short(self.plain, self.served, self.allowed)

    @property
    def excess(self) -> float:
        """What serving adds to the noise that the graph says, over all outputs, in shares of the signal's power."""
        return self.others + _added(self.plain, self.served)

    def __str__(self) -> str:
        """Return both figures in words."""
        if self.plain == self.served == math.inf:
            return "no error"
        return f"{self.served:.1f} dB as served, {self.plain:.1f} dB with the optimizer off"


def _added(plain: float, served: float) -> float:
    broken = _power(served) == math.inf
    return (
        math.inf if broken and _power(plain) < math.inf else 0.0 if broken else max(0.0, _power(served) - _power(plain))
    )


def _ratio(plain: float, served: float) -> float:
    return _added(plain, served) / max(_power(plain), 1e-30)


def _power(db: float) -> float:
    return math.inf if math.isnan(db) else 10 ** (-db / 10)


class Served:
    """Measures models against the float model that they were made from, on a few samples."""

    def __init__(self, original: ir.Model, source: Source, *, threads: int, samples: int = SAMPLES) -> None:
        """Take what models are compared on.

        Args:
            original: the float model.
            source: evaluation data.
            threads: intra-op threads models are served with.
            samples: how many of the source to run at most.
        """
        self.threads = threads
        self._source = source.head(samples)
        self._reference = Reference(as_written(original), self._source, threads=threads)

    def gap(self, model: ir.Model, *, rounding: bool = True) -> Gap:
        """Return the output of a model that falls short most.

        Args:
            model: to measure.
            rounding: whether inputs that MatMulNBits rounds count, beyond what that usually costs.

        Raises:
            ModelError: the runtime cannot load or run one of the models.
        """
        gap = self._gap(as_written(model), model, NOTABLE_DB, rounding=False)
        if gap.open or not rounding or not rounds_inputs(model):
            return gap
        return self._gap(as_written(model, exact_inputs=True), model, _PLANNED_DB, rounding=True)

    def _gap(self, written: ir.Model, model: ir.Model, allowed: float, *, rounding: bool) -> Gap:
        plain = open_session(written, optimize=False, threads=self.threads)
        served = open_session(model, threads=self.threads)
        sums, _ = compare_outputs(self._reference, (plain.run, served.run))
        figures = {
            name: (entry.errors[0].sqnr_db, entry.errors[1].sqnr_db) for name, entry in sums.items() if entry.is_float
        }
        if not figures:
            return Gap(output="", plain=math.inf, served=math.inf, allowed=allowed)
        worst = max(figures, key=lambda name: (falls_short(*figures[name], allowed), _ratio(*figures[name])))
        others = sum(_added(*pair) for name, pair in figures.items() if name != worst)
        return Gap(
            output=worst,
            plain=figures[worst][0],
            served=figures[worst][1],
            allowed=allowed,
            others=others,
            rounding=rounding,
        )

    def departures(self, model: ir.Model, *, rounding: bool = True) -> tuple[Departure, ...]:
        """Return where a model departs from its graph, worst first; arguments and errors as for `gap`."""
        return departures(model, self._source, threads=self.threads, exact_inputs=rounding)
