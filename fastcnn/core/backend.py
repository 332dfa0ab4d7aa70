"""Which backend is in force: one demanded for the process, or for a block, or the best that applies."""

from __future__ import annotations

import os
from contextvars import ContextVar, Token

BACKENDS = ("auto", "cuda", "triton", "cpu", "reference")


def known_backend(name: object, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source}: unknown backend {name!r}; allowed: {', '.join(BACKENDS)}")
    return str(name)


global_backend = [known_backend(os.environ.get("FASTCNN_BACKEND", "auto"), "FASTCNN_BACKEND")]
local_backend: ContextVar[str | None] = ContextVar("fastcnn_backend", default=None)


def current_backend() -> str:
    """The backend in force here: that of the innermost `with use_backend(...)`, else the global one."""
    return local_backend.get() or global_backend[0]


class use_backend:
    """Demands one backend: `use_backend("cpu")` for the whole process, `with use_backend("cpu"):` for a block.

    name: "auto" (the best kernel that applies), "cuda", "triton", "cpu" or "reference" (PyTorch's own
    operators). A demanded backend that cannot take a problem raises `Unsupported` with the reason. The
    environment variable FASTCNN_BACKEND sets the initial value. The block form is local to the thread (or
    asyncio task) and wins over the global setting.
    """

    def __init__(self, name: str) -> None:
        self._name = known_backend(name, "use_backend")
        self._previous, global_backend[0] = global_backend[0], self._name
        self._tokens: list[Token[str | None]] = []

    def __enter__(self) -> use_backend:
        global_backend[0] = self._previous
        self._tokens.append(local_backend.set(self._name))
        return self

    def __exit__(self, *exception: object) -> None:
        local_backend.reset(self._tokens.pop())
