"""Training: LeNet-5 on handwritten digits (digits.py), and any of the networks on a folder of pictures (run.py)."""

from fastcnn.workbench.train.digits import (
    BACKGROUND,
    DIGIT_SIDE,
    INK,
    SIDE,
    Digits,
    Epoch,
    Recipe,
    accuracy,
    confusion,
    distort,
    fit,
    load_digits,
    one_thread,
    place,
    train,
)

__all__ = [
    "BACKGROUND",
    "DIGIT_SIDE",
    "INK",
    "SIDE",
    "Digits",
    "Epoch",
    "Recipe",
    "accuracy",
    "confusion",
    "distort",
    "fit",
    "load_digits",
    "one_thread",
    "place",
    "train",
]
