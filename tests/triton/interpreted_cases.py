"""Triton kernels on their operators' own problems, judged as on hardware. Run by test_interpreter.py."""

from __future__ import annotations

import pytest
import torch

from fastcnn.workbench.verify import worker


class Interpreted(worker.Setting):
    clock = "cpu"

    def synchronise(self) -> None:
        pass


KERNELS = [
    pytest.param(worker.kernel_name(operator, candidate), dtype, id=f"{operator.name}-{dtype}")
    for operator, candidate, dtype in worker.kernels(("triton",))
    if operator.name not in worker.PRODUCTS  # the interpreter takes minutes for these; interpreted_conv2d.py has them
]


@pytest.mark.parametrize(("kernel", "dtype"), KERNELS)
def test_right_on_every_case(kernel, dtype):
    answers = list(worker.correctness(Interpreted(torch.device("cpu")), kernel, dtype, []))
    outcomes = [answer for answer in answers if "plan" in answer]
    assert [outcome["failed"] for outcome in outcomes] == [""], answers
