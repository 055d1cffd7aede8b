"""Latency of models beside each other: interleaved, and judged by the runs that nothing disturbed.

On a shared machine a run can only be disturbed for the worse, and a long one is cut up by the scheduler more often than
a short one: medians, and medians of pairwise ratios, then favour the faster model (measured with three busy processes
on two cores: 7 to 13 where the truth was 2.3). The fastest of many runs is what the machine can do (the advice of
Python's `timeit` for the same reason), and it is taken only once it has been reached several times.
Pinned to as many cores as it has threads, a measurement is not moved around by the scheduler.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from onnxq.runtime.session import Session

# The fastest run counts as settled when this many runs came within this much of it.
_TIMES, _WITHIN = 3, 1.05
# What a busy machine may cost, in budgets.
_PATIENCE = 3


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RaceTimes:
    """Measured times.

    Attributes:
        seconds: float64 (rounds, sessions); in each round every session ran once.
    """

    seconds: npt.NDArray[np.float64]

    @property
    def rounds(self) -> int:
        """Return how many times each session was timed."""
        return int(self.seconds.shape[0])

    @property
    def settled(self) -> bool:
        """Return whether every session came close to its fastest run several times."""
        near = self.seconds <= _WITHIN * self.seconds.min(axis=0)
        return bool((near.sum(axis=0) >= _TIMES).all())

    @property
    def noise(self) -> float:
        """Relative difference between sessions that may be chance: from the fastest run to the third fastest."""
        import numpy as np

        ordered = np.sort(self.seconds, axis=0)
        third = ordered[min(_TIMES, len(ordered)) - 1]
        return float((third / ordered[0] - 1).max())

    def best_ms(self, session: int) -> float:
        """Time of one session's fastest run, in milliseconds."""
        return float(self.seconds[:, session].min()) * 1e3

    def median_ms(self, session: int) -> float:
        """Median of one session's times, in milliseconds."""
        import numpy as np

        return float(np.median(self.seconds[:, session])) * 1e3

    def ratio(self, numerator: int, denominator: int) -> float:
        """One session's fastest run divided by another's."""
        return self.best_ms(numerator) / self.best_ms(denominator)


def time_interleaved(
    sessions: Sequence[Session],
    feeds: Mapping[str, np.ndarray],
    *,
    budget: float = 2.0,
    min_rounds: int = 5,
    max_rounds: int = 500,
) -> RaceTimes:
    """Time sessions on the same input, one after the other in each round, in reversed order every second round.

    Args:
        sessions: at least one.
        feeds: an array for each input, the same for all sessions.
        budget: seconds to spend, warm-up included; up to three times as much where the times do not settle. Slow models
            get `min_rounds` whatever they cost.
        min_rounds: least number of rounds.
        max_rounds: largest number of rounds.

    Raises:
        ModelError: the runtime cannot run one of the models on this input.
    """
    import numpy as np

    order = list(range(len(sessions)))
    started = time.perf_counter()
    for session in sessions:  # the first run allocates memory and packs weights
        session.run(feeds)

    rounds: list[list[float]] = []
    while len(rounds) < max_rounds:
        row = [0.0] * len(sessions)
        for position in order if len(rounds) % 2 == 0 else reversed(order):
            began = time.perf_counter()
            sessions[position].run(feeds)
            row[position] = time.perf_counter() - began
        rounds.append(row)
        spent = time.perf_counter() - started
        if len(rounds) < min_rounds or spent < budget:
            continue
        if spent >= _PATIENCE * budget or RaceTimes(seconds=np.array(rounds)).settled:
            break
    return RaceTimes(seconds=np.array(rounds))


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[None]:
    """Keep this process, and threads that it starts meanwhile, to the first `threads` cores it may use; 0 for all.

    Does nothing where the system has no such call.
    """
    if threads == 0 or not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
