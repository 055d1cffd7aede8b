"""Names that nothing in a graph has yet."""

from __future__ import annotations


def take_name(wanted: str, taken: set[str], *, second: int = 2) -> str:
    """Return `wanted`, or its first numbered variant that is free, and add it to `taken`.

    Args:
        wanted: the name. taken: names in use. second: number of the first variant: `wanted_2`.
    """
    name, number = wanted, second
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    taken.add(name)
    return name
