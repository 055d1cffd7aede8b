"""Latency of models beside each other: interleaved, so that a busy machine slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from onnxq.runtime.session import Session


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Timing:
    """Measured times.

    Attributes:
        seconds: float64 (rounds, sessions); in each round every session ran once.
    """

    seconds: npt.NDArray[np.float64]

    @property
    def rounds(self) -> int:
        """How many times each session was timed."""
        return int(self.seconds.shape[0])

    def median_ms(self, session: int) -> float:
        """Median time of one session's run, in milliseconds."""
        import numpy as np

        return float(np.median(self.seconds[:, session])) * 1e3

    def ratio(self, numerator: int, denominator: int) -> float:
        """Median over the rounds of one session's time divided by another's in the same round."""
        import numpy as np

        return float(np.median(self.seconds[:, numerator] / self.seconds[:, denominator]))


def time_interleaved(
    sessions: Sequence[Session],
    feeds: Mapping[str, np.ndarray],
    *,
    budget: float = 2.0,
    min_rounds: int = 5,
    max_rounds: int = 500,
) -> Timing:
    """Time sessions on the same input, one after the other in each round, in reversed order every second round.

    Args:
        sessions: at least one.
        feeds: an array for each input, the same for all sessions.
        budget: seconds to spend, warm-up included. Slow models get `min_rounds` whatever they cost.
        min_rounds, max_rounds: bounds of the number of rounds.

    Raises:
        ModelError: the runtime cannot run one of the models on this input.
    """
    import numpy as np

    order = list(range(len(sessions)))
    started = time.perf_counter()
    # The first run allocates memory and packs weights; the second tells how long a round takes.
    for session in sessions:
        session.run(feeds)
    warm = time.perf_counter()
    for session in sessions:
        session.run(feeds)
    now = time.perf_counter()
    left, one_round = budget - (now - started), max(now - warm, 1e-9)
    rounds = max(min_rounds, min(max_rounds, int(left / one_round)))

    seconds = np.empty((rounds, len(sessions)))
    for index in range(rounds):
        for position in order if index % 2 == 0 else reversed(order):
            began = time.perf_counter()
            sessions[position].run(feeds)
            seconds[index, position] = time.perf_counter() - began
    return Timing(seconds=seconds)
