"""What statistics show that the user should know."""

from __future__ import annotations

from onnxq.types.statistics import Statistics, TensorStatistics

_SHOWN = 3


def findings(statistics: Statistics) -> tuple[str, ...]:
    """Return warnings about the tensors' values, worst first; () if all is well."""
    nan = {name: seen.nan for name, seen in statistics.tensors.items() if seen.nan}
    infinite = {name: seen.pos_inf + seen.neg_inf for name, seen in statistics.tensors.items()}
    found = []
    for what, hit in (("NaN", nan), ("infinite values", {name: count for name, count in infinite.items() if count})):
        if hit:
            worst = sorted(hit, key=lambda name: (-hit[name], name))
            shown = ", ".join(
                f"'{name}' ({hit[name]} of {_total(statistics.tensors[name])})" for name in worst[:_SHOWN]
            )
            more = f" and {len(worst) - _SHOWN} more" if len(worst) > _SHOWN else ""
            found.append(f"the float model computes {what} in {shown}{more}; they are left out of the ranges")
    return tuple(found)


def _total(seen: TensorStatistics) -> int:
    masked = sum(sentinel.count for sentinel in seen.sentinels)
    return seen.count + masked + seen.nan + seen.pos_inf + seen.neg_inf
