"""What `fastcnn.explain` prints for an optimized network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Row(NamedTuple):
    """One operator of the optimized network."""

    name: str
    operator: str
    output: str  # its shape
    runs: str  # the native kernels, "no kernel: in place", or who else runs it
    computes: tuple[str, ...]  # the layers of the given model that it stands for
    reason: str  # why no plan holds it
    flops: int = 0  # of a convolution or linear layer


@dataclass
class Report:
    """Printing it shows the table; `.rows` holds it as data."""

    rows: list[Row]
    note: str = ""

    @property
    def share(self) -> float:
        """The share of operators that run in native plans, those that need no kernel included."""
        return sum(not row.reason for row in self.rows) / len(self.rows) if self.rows else 0.0

    @property
    def flops(self) -> int:
        """Of the convolutions and linear layers that fastcnn runs."""
        return sum(row.flops for row in self.rows)

    def __str__(self) -> str:
        from rich.console import Console
        from rich.table import Table

        table = Table()
        for column in ("operator", "output", "runs as", "computes", "left to PyTorch because"):
            table.add_column(column, overflow="fold")
        for row in self.rows:
            computes = " + ".join(row.computes) or row.name
            table.add_row(row.operator, row.output, row.runs, computes, row.reason)
        console = Console(width=150)
        with console.capture() as capture:
            console.print(table)
            left = sum(bool(row.reason) for row in self.rows)
            console.print(f"{len(self.rows) - left} of {len(self.rows)} operators run on fastcnn's kernels")
        return f"{self.note}\n{capture.get().rstrip()}".lstrip()

    __repr__ = __str__
