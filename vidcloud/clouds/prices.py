"""What instances of EC2 cost: a small table, for estimates and caps."""

PRICED = "us-east-1"
"""The region whose prices these are; in others they differ."""
_US_EAST_1 = {
    "c5": 0.085 / 2,
    "c5a": 0.077 / 2,
    "c6a": 0.0765 / 2,
    "c6g": 0.068 / 2,
    "c6i": 0.085 / 2,
    "c7a": 0.10264 / 2,
    "c7g": 0.0725 / 2,
    "c7i": 0.08925 / 2,
    "m5": 0.096 / 2,
    "m6a": 0.0864 / 2,
    "m6g": 0.077 / 2,
    "m6i": 0.096 / 2,
    "m7g": 0.0816 / 2,
    "m7i": 0.1008 / 2,
}
"""US dollars an hour a vCPU, Linux on demand, us-east-1, as published in 2025; a family's price goes with its size."""
_VCPUS = {"large": 2, "xlarge": 4}


def dollars_an_hour(kind: str) -> float | None:
    """About what an instance costs.

    Args:
        kind: instance type, ``c6i.2xlarge``.

    Returns:
        US dollars an hour on demand in us-east-1, without disk and traffic; None for a type that is not in the table.
    """
    price, cores = _US_EAST_1.get(kind.partition(".")[0]), vcpus(kind)
    return price * cores if price and cores else None


def vcpus(kind: str) -> int | None:
    """How many vCPUs an instance type of a family in the table has; None for others."""
    family, _, size = kind.partition(".")
    if family not in _US_EAST_1:
        return None
    return _VCPUS.get(size) or (4 * int(size[:-6]) if size.endswith("xlarge") and size[:-6].isdecimal() else None)
