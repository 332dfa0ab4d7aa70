"""The checks that every model builder shares."""

from collections.abc import Sequence


def check_variant(model: str, variant: str, allowed: Sequence[str]) -> str:
    """Returns `variant`, or raises a ValueError that lists the allowed ones."""
    if variant not in allowed:
        names = ", ".join(repr(name) for name in allowed)
        raise ValueError(f"{model}: unknown variant {variant!r}, expected one of {names}")
    return variant


def check_num_classes(model: str, num_classes: int) -> int:
    """Returns `num_classes`, or raises if it is not an integer of at least 1."""
    if isinstance(num_classes, bool) or not isinstance(num_classes, int):
        raise TypeError(f"{model}: num_classes is a {type(num_classes).__name__}, expected an int")
    if num_classes < 1:
        raise ValueError(f"{model}: num_classes is {num_classes}, expected at least 1")
    return num_classes
