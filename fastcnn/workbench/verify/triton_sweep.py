"""Every Triton kernel compiled for GPUs that are not there: a table of registers, spills and occupancy."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import os
from collections.abc import Iterable, Iterator

from fastcnn.backends.triton.common import Launch
from fastcnn.backends.triton.compile import Facts, facts
from fastcnn.workbench.verify.triton_cases import cases


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the compile table: a named case, an architecture, and what came of it."""

    case: str
    arch: int
    facts: Facts | None
    error: str = ""


def _compile_case(name: str, launch: Launch, arch: int) -> Row:
    try:
        return Row(name, arch, facts(launch, arch))
    except Exception as error:  # a kernel that does not compile is a row of the table, not the end of it
        return Row(name, arch, None, f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:200]}")


# What forked workers compile; launches hold functions and cannot be sent to them.
_cases: list[tuple[str, Launch, int]] = []


def _compile_index(index: int) -> Row:
    return _compile_case(*_cases[index])


def compile_table(
    archs: Iterable[int] = (80, 90, 100), *, every: bool = False, only: str = "", workers: int | None = None
) -> list[Row]:
    """Compile the default choices of all kernels, or `every` configuration that can be chosen, without a GPU.

    only: a substring that a case's name must have. workers: processes, as many as CPUs unless given.
    """
    global _cases
    _cases = [(name, launch, arch) for arch in archs for name, launch in cases(arch, every=every) if only in name]
    workers = min(workers or os.cpu_count() or 1, max(1, len(_cases)))
    if workers == 1:
        return [_compile_case(*case) for case in _cases]
    # Children are forked: they compile and disassemble, and never touch a GPU.
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        return list(pool.map(_compile_index, range(len(_cases))))


COLUMNS = ("kernel", "sm", "registers", "spilled", "shared KiB", "instructions", "tensor cores", "load/store bits",
           "TMA", "blocks/SM", "occupancy")  # fmt: skip


def table_rows(rows: Iterable[Row]) -> Iterator[tuple[str, ...]]:
    """The rows as text, under COLUMNS."""
    for row in rows:
        found = row.facts
        if found is None:
            yield row.case, str(row.arch), row.error, *[""] * (len(COLUMNS) - 3)
            continue
        yield (
            row.case,
            str(row.arch),
            str(found.registers),
            f"{found.stack_bytes} B" if found.stack_bytes else "no",
            f"{found.shared_bytes / 1024:.1f}",
            str(found.instructions),
            ", ".join(f"{count} {unit}" for unit, count in found.tensor_core.items()) or "none",
            f"{found.load_bits}/{found.store_bits}",
            str(found.tma),
            str(found.blocks_per_sm),
            f"{found.occupancy:.0%}",
        )
