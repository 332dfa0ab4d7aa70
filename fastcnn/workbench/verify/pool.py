"""A worker process: jobs out, answers in, each answer within its seconds or the process is killed."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import Any

WORKER = (sys.executable, "-m", "fastcnn.workbench.verify.worker")

STARTING = 120.0  # the import of PyTorch and the first call of CUDA, on a busy machine


class Lost(Exception):
    """The worker hung or died; the message says how."""


class Worker:
    """One process. Started at the first job, and again after it was lost."""

    def __init__(self, command: Sequence[str] = WORKER) -> None:
        self.command = command
        self.process: subprocess.Popen[str] | None = None
        self.about: dict[str, Any] = {}

    def start(self) -> None:
        """Starts the process, if it is not running, and waits for its description of the place.

        Raises:
            Lost: it does not start.
        """
        if self.process is not None and self.process.poll() is None:
            return
        self.errors = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115  lives as long as the process
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, bufsize=1
        )
        self.answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, args=(self.process, self.answers), daemon=True).start()
        self.about = self._answer(STARTING)

    @staticmethod
    def _listen(process: subprocess.Popen[str], answers: queue.Queue[str | None]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answers.put(line)
        answers.put(None)

    def _answer(self, seconds: float) -> dict[str, Any]:
        try:
            line = self.answers.get(timeout=seconds)
        except queue.Empty:
            self.stop()
            raise Lost(f"no answer within {seconds:g} s: it hangs, or waits for what never comes") from None
        if line is None:
            assert self.process is not None
            code = self.process.wait()
            self.errors.seek(0)
            last = (self.errors.read().strip().splitlines() or [""])[-1][:200]
            self.stop()
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise Lost(f"the process died with {how}{f': {last}' if last else ''}")
        return json.loads(line)

    def ask(self, job: dict[str, Any], seconds: float) -> Iterator[dict[str, Any]]:
        """The answers to a job, up to the one that says it is done or that the process ends.

        Raises:
            Lost: an answer took longer than `seconds`, or the process died.
        """
        self.start()
        assert self.process is not None
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then reading its answer says how it died
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
        while True:
            answer = self._answer(seconds)
            yield answer
            if answer.get("done"):
                return
            if answer.get("raised"):  # it ends itself
                self.stop()
                return

    def stop(self) -> None:
        """Kills the process. What it left running on the GPU ends with it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
            self.errors.close()
            self.process = None
