"""Claim 7: AlexNet's split over two devices, as two processes over gloo."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import nn

from fastcnn.models import alexnet
from fastcnn.models.two_devices import TwoDeviceAlexNet
from fastcnn.optimize import optimize
from fastcnn.workbench.claims.common import Claim, Found, Part, Progress, Row, Tables, milliseconds, parameters
from fastcnn.workbench.demo import randomise
from fastcnn.workbench.report.measure import TOLERANCE, WrongResult, relative_error
from fastcnn.workbench.report.plain import plain
from fastcnn.workbench.report.timing import Effort, interleave

INFERENCE, TRAINING = (1, 4, 16), (1, 8)  # batches
TIMES = "AlexNet (paper) in one process and in two"
EXCHANGE = "what a process holds and receives"


def _network() -> nn.Module:
    return randomise(alexnet("paper").eval(), seed=0)


def _pictures(batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def _step(model: nn.Module, batch: int, training: bool) -> torch.Tensor:
    """A forward pass; in training also a backward pass. Dropout is off, so that results can be compared."""
    if not training:
        with torch.inference_mode():
            return model(_PICTURES[batch])
    model.zero_grad()
    logits = model(_PICTURES[batch])
    logits.logsumexp(1).sum().backward()
    return logits.detach()


_PICTURES: dict[int, torch.Tensor] = {}


def _prepare_pictures() -> None:
    _PICTURES.update({batch: _pictures(batch) for batch in (*INFERENCE, *TRAINING)})


def _half(rank: int, threads: int, folder: str, connection: Connection) -> None:
    """One of the two processes: does a step whenever the connection asks for one, until it says None."""
    torch.set_num_threads(threads)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    _prepare_pictures()
    model = TwoDeviceAlexNet(_network())  # type: ignore[arg-type]
    received = 0
    gather = dist.all_gather

    def counted(outputs: list[torch.Tensor], mine: torch.Tensor, **arguments: Any) -> Any:
        nonlocal received
        received += mine.numel() * mine.element_size()  # the other half is as large
        return gather(outputs, mine, **arguments)

    with mock.patch.object(dist, "all_gather", counted):
        logits = _step(model, 1, False)
    connection.send((parameters(model), received, logits))
    while (asked := connection.recv()) is not None:
        _step(model, *asked)
        connection.send(True)
    dist.destroy_process_group()


@contextmanager
def _two_processes(threads: int) -> Iterator[list[Connection]]:
    context = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        connections = []
        for rank in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(target=_half, args=(rank, threads, folder, theirs), daemon=True)
            process.start()
            theirs.close()  # so that a process that dies ends our wait
            stack.callback(process.join, 10)
            connections.append(ours)
        try:
            yield connections
        except EOFError:
            raise ChildProcessError("claims: one of the two processes ended early") from None
        finally:
            for connection in connections:
                try:
                    connection.send(None)
                except OSError:
                    continue


def measure(effort: Effort, progress: Progress) -> Found:
    threads = torch.get_num_threads()
    each = max(1, threads // 2)
    _prepare_pictures()
    model = _network()
    optimized, eager = optimize(model), plain(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rows: list[Row] = []
    progress("starting two processes")
    with _two_processes(each) as connections:
        told = [connection.recv() for connection in connections]
        truth = _step(model, 1, False)
        for rank, (_, _, logits) in enumerate(told):
            if (error := relative_error(logits, truth.double())) > TOLERANCE["float32"]:
                raise WrongResult(f"process {rank}: relative error {error:.1e} against one process; it was not timed")

        def both(*asked: Any) -> None:
            for connection in connections:
                connection.send(asked)
            for connection in connections:
                connection.recv()

        for training, batches in ((False, INFERENCE), (True, TRAINING)):
            for batch in batches:
                progress(f"{'training' if training else 'inference'}, batch {batch}")
                runs = {
                    "two": lambda: both(batch, training),  # noqa: B023
                    "one": lambda: _step(model, batch, training),  # noqa: B023
                    "PyTorch": lambda: _step(eager, batch, training),  # noqa: B023
                }
                if not training:
                    runs["optimized"] = lambda: _step(optimized, batch, False)  # noqa: B023
                times = {name: milliseconds(samples) for name, samples in interleave(runs, effort).items()}
                rows.append(
                    {
                        "pass": "forward and backward" if training else "forward",
                        "batch": batch,
                        f"two processes of {each} thread{'s' if each > 1 else ''}, ms": times["two"],
                        f"one process of {threads}, ms": times["one"],
                        "optimized, ms": times.get("optimized"),
                        "PyTorch, ms": times["PyTorch"],
                        "two / one": times["two"]["ms"] / times["one"]["ms"],
                        "two / best one": times["two"]["ms"] / min(t["ms"] for n, t in times.items() if n != "two"),
                    }
                )
    whole = parameters(model)
    exchange: list[Row] = [
        {"process": "one of one", "parameters, M": whole / 1e6, "share of the parameters": 1.0,
         "received a picture, KiB": 0.0}
    ]  # fmt: skip
    for rank, (held, received, _) in enumerate(told):
        exchange.append(
            {"process": f"{rank} of two", "parameters, M": held / 1e6, "share of the parameters": held / whole,
             "received a picture, KiB": received / 1024}
        )  # fmt: skip
    return Found({TIMES: rows, EXCHANGE: exchange})


def judge(tables: Tables) -> list[Part]:
    halves = tables[EXCHANGE][1:]
    share = max(row["share of the parameters"] for row in halves)
    parts = [
        Part(
            share < 0.55,
            f"a device holds {share:.0%} of the parameters and receives {halves[0]['received a picture, KiB']:.0f} KiB "
            "of activations a picture in a forward pass (asked: at most 55 % of the parameters)",
        )
    ]
    for row in tables[TIMES]:
        parts.append(
            Part(
                row["two / best one"] < 1,
                f"{row['pass']}, batch {row['batch']}: two processes take {row['two / one']:.2f} times as long as the "
                f"same layers in one, {row['two / best one']:.2f} times the best way in one (asked: less than 1)",
            )
        )
    return parts


CLAIM = Claim(
    number=7,
    title="AlexNet's split over two devices pays",
    sentence="Half of the kernels on each of two devices, which talk only in certain layers, lets a network be twice "
    "as large, and takes slightly less time to train than on one.",
    source="Krizhevsky, Sutskever, Hinton 2012, section 3.2",
    measured="The grouped network in two processes that exchange activations over gloo, against the same layers in one "
    "process with all threads, and against the other ways of one process: after fastcnn.optimize (forward only) and in "
    "PyTorch. All have the same cores, so this is what splitting a network gains or costs over splitting each layer. "
    "Real second devices would bring their own memory and arithmetic; none was tried. The "
    "normalisation is exact, so that both give the same logits.",
    measure=measure,
    judge=judge,
)
