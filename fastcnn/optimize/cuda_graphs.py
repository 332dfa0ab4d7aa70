"""CUDA graphs of the programs of an optimised network: one launch a call instead of one a kernel.

Not yet run on hardware.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

Program = Callable[[Sequence[Any]], Any]
# Takes a program and inputs like those to come; returns what a call does from then on.
Capture = Callable[[Program, Sequence[Any]], Program]


def capture(program: Program, inputs: Sequence[Any]) -> Program:
    """Captures the program on the inputs' device; what it returns copies inputs in, replays and copies outputs out.

    Work is issued on the caller's current stream. Calls on different streams wait for each other, because they
    share the graph's memory.
    """
    device = next(x.device for x in inputs if isinstance(x, Tensor))
    graph, done = torch.cuda.CUDAGraph(), torch.cuda.Event()
    with torch.cuda.device(device):
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            # In the graph's own memory, which outlives every replay.
            static = [torch.empty_like(x) if isinstance(x, Tensor) else x for x in inputs]
            outputs = program(static)
        done.record()

    def replay(inputs: Sequence[Any]) -> Any:
        with torch.cuda.device(device):
            done.wait()
            for mine, given in zip(static, inputs, strict=True):
                if isinstance(mine, Tensor):
                    mine.copy_(given)
            graph.replay()
            copies = tree_map_only(Tensor, Tensor.clone, outputs)
            done.record()
        return copies

    return replay


class _Entry:
    """What is known of one program: how often it ran, and its graph."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.warm = False
        self.run: Program | None = None


class CudaGraphs:
    """The graphs of the programs that ran last, at most BOUND: each holds its activations as long as it lives.

    A program's first call runs it, which chooses kernels and fills caches; the second captures it; later calls replay
    the graph. A program that cannot be captured is run.
    """

    BOUND = 8

    def __init__(self, capture: Capture = capture) -> None:
        self._capture = capture
        self._entries: OrderedDict[Program, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, program: Program, inputs: Sequence[Any]) -> Any:
        """program(inputs)."""
        with self._lock:
            entry = self._entries.setdefault(program, _Entry())
            self._entries.move_to_end(program)
            if len(self._entries) > self.BOUND:
                self._entries.popitem(last=False)
        with entry.lock:  # a replay's copies in and out belong together
            if entry.run is None and entry.warm:
                try:
                    entry.run = self._capture(program, inputs)
                except RuntimeError:
                    entry.run = program
            entry.warm = True
            return (entry.run or program)(inputs)


def takes(inputs: Sequence[Any]) -> bool:
    """Whether a graph may serve: tensors of one CUDA device, and nobody is capturing the caller."""
    devices = {x.device for x in inputs if isinstance(x, Tensor)}
    return len(devices) == 1 and devices.pop().type == "cuda" and not torch.cuda.is_current_stream_capturing()
