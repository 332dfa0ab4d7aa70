"""Every operator's folder is found, and says what the lists over operators ask of it."""

import importlib
from pathlib import Path

import torch

from fastcnn import ops
from fastcnn.core.selector import SELECTORS, Selector

FOLDERS = sorted(path.parent.name for path in Path(ops.__file__).parent.glob("*/__init__.py"))


def test_every_folder_is_registered():
    found = {
        name: value
        for folder in FOLDERS
        for name, value in vars(importlib.import_module(f"fastcnn.ops.{folder}")).items()
        if isinstance(value, Selector)
    }
    assert found == SELECTORS
    assert sorted(found) == sorted(ops.__all__)


def test_every_operator_has_cases_races_and_a_reference():
    for name, selector in SELECTORS.items():
        assert selector.cases, name
        assert selector.races, name
        backends = [candidate.backend for candidate in selector.candidates]
        assert backends == sorted(backends, key=["cuda", "triton", "cpu", "reference"].index), name


def test_every_case_is_a_problem_of_its_operator():
    for name, selector in SELECTORS.items():
        for case in (*selector.cases, *selector.races):
            tensors = [None if shape is None else torch.empty(shape, device="meta") for shape in case.shapes]
            problem = selector.infer((*tensors, None), selector.normalise(tensors, case.params))
            assert problem.empty_output(tensors[0]).shape == problem.output_shape, (name, case)
            assert "meta" in problem.summary(), name
