"""Result files: JSON in pytest-benchmark's format, one a device, so that `pytest-benchmark compare` reads them."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import warnings
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fastcnn.core import native
from fastcnn.core.files import rows_as_json, write_whole
from fastcnn.workbench.report.timing import Samples

# Rows that this version writes and reads; a file of another version is refused by name.
FORMAT = 1
PACKAGES = ("torch", "onnxruntime", "openvino", "ncnn", "pnnx", "MNN", "numpy")


@dataclass(frozen=True)
class Row:
    """One timed contender of one case."""

    data: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.data["extra_info"][name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def seconds(self) -> float:
        return self.data["stats"]["median"]

    @property
    def case(self) -> tuple[Any, ...]:
        """What identifies the case: rows with the same one are contenders of each other."""
        return self.kind, self.label, self.batch, self.dtype, self.device, self.image


@dataclass(frozen=True)
class Results:
    """A result file."""

    data: dict[str, Any]
    path: Path | None = None

    @classmethod
    def load(cls, path: Path | str) -> Results:
        path = Path(path)
        try:
            data = json.loads(path.read_text())
        except FileNotFoundError:
            raise ValueError(f"{path}: no such result file") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: not a result file: {error}") from None
        found = data.get("fastcnn", {}).get("format") if isinstance(data, dict) else None
        if found != FORMAT:
            raise ValueError(f"{path}: a result file of fastcnn has format {FORMAT}, this one {found}")
        return cls(data, path)

    def save(self, path: Path | str) -> None:
        write_whole(path, rows_as_json(self.data))

    @cached_property
    def rows(self) -> list[Row]:
        return [Row(row) for row in self.data["benchmarks"]]

    @cached_property
    def cases(self) -> dict[tuple[Any, ...], dict[str, Row]]:
        """The contenders of every case, by name."""
        grouped: dict[tuple[Any, ...], dict[str, Row]] = {}
        for row in self.rows:
            grouped.setdefault(row.case, {})[row.contender] = row
        return grouped

    @property
    def about(self) -> dict[str, Any]:
        """What holds for the whole run: device, versions, commit, ceilings, settings, missing contenders."""
        return self.data["fastcnn"]

    def find(self, kind: str, label: str, batch: int, dtype: str = "float32", image: int = 0) -> dict[str, Row]:
        """The contenders of one case; empty if it was not run."""
        for case, contenders in self.cases.items():
            if (case[0], case[1], case[2], case[3], case[5]) == (kind, label, batch, dtype, image):
                return contenders
        return {}


def assemble(rows: list[dict[str, Any]], about: dict[str, Any]) -> Results:
    """A result file from rows that `row` made."""
    return Results(
        {
            "machine_info": machine(),
            "commit_info": about["commit"],
            "benchmarks": rows,
            "datetime": datetime.now(timezone.utc).isoformat(),
            "version": "5.0.0",  # of pytest-benchmark's format
            "fastcnn": about,
        }
    )


def row(name: str, group: str, samples: Samples, extra_info: dict[str, Any]) -> dict[str, Any]:
    """A row as pytest-benchmark writes it."""
    return {
        "group": group,
        "name": name,
        "fullname": f"benchmarks/{name}",
        "params": None,
        "param": None,
        "extra_info": extra_info,
        "options": {"disable_gc": False, "timer": "perf_counter", "min_rounds": 1, "max_time": 1.0, "min_time": 0.0,
                    "warmup": True},
        "stats": _statistics(samples),
    }  # fmt: skip


def _statistics(samples: Samples) -> dict[str, Any]:
    data = sorted(samples.seconds)
    q1, q3, mean = samples.quantile(0.25), samples.quantile(0.75), statistics.fmean(data)
    deviation = statistics.stdev(data) if len(data) > 1 else 0.0
    low, high = q1 - 1.5 * (q3 - q1), q3 + 1.5 * (q3 - q1)
    far = sum(not mean - deviation <= x <= mean + deviation for x in data)
    outside = sum(not low <= x <= high for x in data)
    inside = [x for x in data if low <= x <= high]
    return {
        "min": data[0],
        "max": data[-1],
        "mean": mean,
        "stddev": deviation,
        "rounds": len(data),
        "median": samples.median,
        "iqr": q3 - q1,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": outside,
        "stddev_outliers": far,
        "outliers": f"{far};{outside}",
        "ld15iqr": inside[0],
        "hd15iqr": inside[-1],
        "ops": 1 / mean,
        "total": sum(data),
        "iterations": samples.iterations,
    }


# ---- the machine -------------------------------------------------------------------------------------------


def device_name(device: str = "cpu") -> str:
    """The processor's or GPU's name."""
    if device == "cuda":
        return torch.cuda.get_device_name(0)
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def file_name(device: str = "cpu") -> str:
    """The name of this device's result file: amd-epyc-avx512-2-threads.json."""
    parts = [device_name(device)]
    if device == "cpu":
        if native.unavailable is None:
            parts.append(native.extension.cpu.isa())
        threads = torch.get_num_threads()
        parts.append(f"{threads} thread{'s' if threads != 1 else ''}")
    return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-") + ".json"


def clock_megahertz(device: str = "cpu") -> float | None:
    """The clock as the system reports it now: the fastest core's, or the GPU's SM clock."""
    try:
        if device == "cuda":
            return float(torch.cuda.clock_rate())
        return max(map(float, re.findall(r"cpu MHz\s*:\s*([\d.]+)", Path("/proc/cpuinfo").read_text())), default=None)
    except (OSError, RuntimeError, ModuleNotFoundError):
        return None


def machine() -> dict[str, Any]:
    """What pytest-benchmark keeps about a machine, less the host's name."""
    return {
        "node": "",
        "processor": platform.processor(),
        "machine": platform.machine(),
        "python_compiler": platform.python_compiler(),
        "python_implementation": platform.python_implementation(),
        "python_implementation_version": platform.python_version(),
        "python_version": platform.python_version(),
        "python_build": list(platform.python_build()),
        "release": platform.release(),
        "system": platform.system(),
        "cpu": {"brand_raw": device_name(), "count": torch.get_num_threads()},
    }


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> dict[str, Any]:
    """The commit of the checkout that this package lies in, and whether it was changed since."""

    def git(*command: str) -> str:
        root = Path(__file__).resolve().parents[3]
        done = subprocess.run(["git", "-C", str(root), *command], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        return {
            "id": git("rev-parse", "HEAD"),
            "time": git("log", "-1", "--format=%cI"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
            "project": "fastcnn",
            "branch": git("rev-parse", "--abbrev-ref", "HEAD"),
        }
    except OSError as error:
        warnings.warn(f"the commit is not recorded: {error}", stacklevel=2)
        return {"id": "", "time": "", "dirty": False, "project": "fastcnn", "branch": ""}


def about(device: str, ceilings: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """What `Results.about` holds, at the start of a run."""
    return {
        "format": FORMAT,
        "device": device_name(device),
        "kind": device,
        "threads": torch.get_num_threads(),
        "isa": native.extension.cpu.isa() if native.unavailable is None else None,
        "versions": versions(),
        "commit": commit(),
        "load": os.getloadavg()[0],  # before the run: other work on the machine spoils every figure
        "ceilings": ceilings,
        "settings": settings,
        "missing": [],
    }
