"""Other inference engines on the CPU, run as their makers advise: float32, as many threads as PyTorch has.

`pip install fastcnn[peers]` installs them. One that is not installed, or cannot convert a model, raises Missing:
the report says so and why.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastcnn.workbench.report.cases import Workload


class Missing(Exception):
    """A contender that does not take part, and why."""


def _peer(*modules: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Turns a failed import, conversion or load into Missing, which names it."""

    def decorate(prepare: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(prepare)
        def guarded(workload: Workload) -> Any:
            for module in modules:
                if importlib.util.find_spec(module) is None:
                    raise Missing(f"{module} is not installed: pip install fastcnn[peers]")
            if workload.case.dtype != "float32":
                raise Missing("peers are run in float32")
            if len(workload.inputs) != 1 or not isinstance(next(iter(workload.inputs.values())), torch.Tensor):
                raise Missing("peers are given models of one input")
            try:
                with tempfile.TemporaryDirectory() as folder, _quiet():
                    return prepare(workload, Path(folder))
            except Exception as error:
                reason = " ".join(str(error).split())
                raise Missing(f"could not be prepared: {type(error).__name__}: {reason[:300]}") from error

        return guarded

    return decorate


def _input(workload: Workload) -> np.ndarray:
    (input,) = workload.inputs.values()
    return np.ascontiguousarray(input.numpy())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the chatter of engines and exporters: some write from C++, past sys.stdout."""
    sys.stdout.flush()
    kept = os.dup(1)
    with open(os.devnull, "w") as nowhere, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        os.dup2(nowhere.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(kept, 1)
            os.close(kept)


def _onnx(workload: Workload, folder: Path) -> Path:
    """The model as ONNX; exported once for all peers that read it."""
    data = getattr(workload, "_onnx", None)
    path = folder / "model.onnx"
    if data is None:
        torch.onnx.export(
            workload.plain, tuple(workload.inputs.values()), str(path), dynamo=True, external_data=False,
            verbose=False, input_names=["input"], output_names=["output"],
        )  # fmt: skip
        workload._onnx = path.read_bytes()  # type: ignore[attr-defined]
    else:
        path.write_bytes(data)
    return path


@_peer("onnxruntime", "onnx", "onnxscript")
def onnxruntime(workload: Workload, folder: Path) -> Callable[[], Any]:
    import onnxruntime as engine

    options = engine.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    session = engine.InferenceSession(str(_onnx(workload, folder)), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: _input(workload)}
    return lambda: session.run(None, feed)[0]


@_peer("openvino", "onnx", "onnxscript")
def openvino(workload: Workload, folder: Path) -> Callable[[], Any]:
    import openvino as engine

    core = engine.Core()
    # Without the hint OpenVINO computes in bfloat16 where the CPU has it.
    hints = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(core.read_model(str(_onnx(workload, folder))), "CPU", hints).create_infer_request()
    input = _input(workload)
    return lambda: request.infer({0: input}, share_inputs=True, share_outputs=True)[0]


@_peer("ncnn", "pnnx")
def ncnn(workload: Workload, folder: Path) -> Callable[[], Any]:
    """ncnn has no batch: the images run one after another."""
    import ncnn as engine
    import pnnx

    input = _input(workload)
    traced = folder / "model.pt"
    torch.jit.trace(workload.plain, torch.from_numpy(input[:1])).save(str(traced))
    shape = ",".join(map(str, (1, *input.shape[1:])))
    _convert([pnnx.EXEC_PATH, str(traced), f"inputshape=[{shape}]", "fp16=0"], folder)
    net = engine.Net()
    net.opt.num_threads = torch.get_num_threads()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    for load, name in ((net.load_param, "model.ncnn.param"), (net.load_model, "model.ncnn.bin")):
        if load(str(folder / name)) != 0:
            raise Missing(f"cannot load {name}")
    mats = [engine.Mat(image).clone() for image in input]

    def run() -> np.ndarray:
        outputs = []
        for mat in mats:
            extractor = net.create_extractor()
            extractor.input("in0", mat)
            _, output = extractor.extract("out0")
            outputs.append(np.array(output))
        return np.stack(outputs)

    return run


@_peer("MNN", "_tools", "onnx", "onnxscript")
def mnn(workload: Workload, folder: Path) -> Callable[[], Any]:
    # MNN's converter is a command; its module is called as the command does it, so that no PATH is needed.
    converter = [sys.executable, "-c", "import sys, _tools; _tools.mnnconvert(sys.argv)"]
    model = folder / "model.mnn"
    source = str(_onnx(workload, folder))
    _convert([*converter, "-f", "ONNX", "--modelFile", source, "--MNNModel", str(model), "--bizCode", "x"], folder)
    import MNN as engine

    interpreter = engine.Interpreter(str(model))
    session = interpreter.createSession({"numThread": torch.get_num_threads(), "backend": "CPU", "precision": "high"})
    target, output = interpreter.getSessionInput(session), interpreter.getSessionOutput(session)
    array = _input(workload)
    caffe, real = engine.Tensor_DimensionType_Caffe, engine.Halide_Type_Float
    source_tensor = engine.Tensor(array.shape, real, array, caffe)
    result = np.zeros(output.getShape(), np.float32)
    host = engine.Tensor(output.getShape(), real, result, caffe)

    def run() -> np.ndarray:
        target.copyFrom(source_tensor)
        interpreter.runSession(session)
        output.copyToHostTensor(host)
        return np.array(host.getNumpyData())

    return run


def _convert(command: list[str], folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise Missing(f"its converter failed: {(done.stderr or done.stdout)[-200:]}")
