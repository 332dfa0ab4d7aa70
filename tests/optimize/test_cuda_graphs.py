"""Graphs kept by program within a bound; on a GPU, that a replay computes what the program does."""

import copy
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import zoo
from torch import nn

import fastcnn
from fastcnn.optimize.cuda_graphs import CudaGraphs, takes


class Recorder:
    """A capture that needs no GPU: it counts, and its replays say so."""

    def __init__(self, fails=False):
        self.captured, self.replayed, self.fails = [], 0, fails

    def __call__(self, program, inputs):
        self.captured.append(program)
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")

        def replay(inputs):
            self.replayed += 1
            return program(inputs)

        return replay


def program(inputs):
    return 2 * inputs[0]


def test_first_call_runs_second_captures_later_ones_replay():
    recorder = Recorder()
    graphs = CudaGraphs(recorder)
    assert graphs(program, [1]) == 2
    assert not recorder.captured
    assert [graphs(program, [i]) for i in (2, 3, 4)] == [4, 6, 8]
    assert recorder.captured == [program]
    assert recorder.replayed == 3


def test_graphs_are_bounded_and_the_least_recently_used_goes():
    recorder = Recorder()
    graphs = CudaGraphs(recorder)
    programs = [lambda inputs, i=i: i for i in range(graphs.BOUND + 1)]
    for p in programs[:-1]:
        graphs(p, [])
        graphs(p, [])
    graphs(programs[0], [])  # used: the next to go is programs[1]
    graphs(programs[-1], [])
    assert len(graphs._entries) == graphs.BOUND
    assert programs[0] in graphs._entries
    assert programs[1] not in graphs._entries


def test_what_cannot_be_captured_is_run_and_tried_once():
    recorder = Recorder(fails=True)
    graphs = CudaGraphs(recorder)
    assert [graphs(program, [i]) for i in range(4)] == [0, 2, 4, 6]
    assert len(recorder.captured) == 1


def test_replays_of_one_graph_do_not_overlap():
    inside, overlaps = threading.Semaphore(1), []

    def capture(program, inputs):
        def replay(inputs):
            overlaps.append(not inside.acquire(blocking=False))
            time.sleep(1e-3)  # as long as another thread needs to get here
            result = program(inputs)
            inside.release()
            return result

        return replay

    graphs = CudaGraphs(capture)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: graphs(program, [i]), range(200))) == [2 * i for i in range(200)]
    assert not any(overlaps)


def test_cpu_inputs_take_no_graph():
    assert not takes([torch.ones(1), 3])
    model = fastcnn.optimize(nn.Conv2d(3, 4, 3))
    for _ in range(3):
        model(torch.randn(1, 3, 8, 8))
    assert not model._fastcnn._graphs._entries


def test_opting_out_survives_copies():
    model = fastcnn.optimize(nn.Conv2d(3, 4, 3), cuda_graphs=False)
    for other in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other._fastcnn.options.cuda_graphs is False
    assert fastcnn.optimize(nn.Conv2d(3, 4, 3))._fastcnn.options.cuda_graphs is True


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_replays_on_streams_shapes_and_devices():
    model = zoo.perturbed(nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3)))
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        optimized, plain = fastcnn.optimize(model).to(device), copy.deepcopy(model).to(device)
        kept = []
        for i in range(24):
            x = torch.randn(1 + i % 2, 3, 20 + i % 3, 24, device=device)
            with torch.cuda.stream(torch.cuda.Stream(device)):
                torch.cuda.current_stream(device).wait_stream(torch.cuda.default_stream(device))
                y = optimized(x)
            torch.cuda.synchronize(device)
            kept.append((y, plain(x)))
        assert sum(entry.run is not None for entry in optimized._fastcnn._graphs._entries.values()) == 6
        for y, expected in kept:  # no replay wrote over an earlier result
            torch.testing.assert_close(y, expected, rtol=1e-2, atol=1e-3)
