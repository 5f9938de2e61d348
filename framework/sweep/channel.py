"""The worker's end of the pipes between a worker and its supervisor."""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Any

from framework.sweep.job import Job


class Channel:
    """The worker's end of the two pipes."""

    def __init__(self, output: int) -> None:
        self._output = output
        os.set_inheritable(output, False)
        # a trial, or a process that it starts, must not read the supervisor's messages
        self._input = os.dup(0)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        self._jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._verdicts: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.on_end: Callable[[], None] | None = None
        threading.Thread(target=self._read, name="sweep-input", daemon=True).start()

    def _read(self) -> None:
        buffer = b""
        # not a file object: this thread would hold its lock when the interpreter ends
        while data := os.read(self._input, 1 << 16):
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                (self._verdicts if message.pop("kind") == "verdict" else self._jobs).put(message)
        if self.on_end is not None:
            self.on_end()
        if os.getpgrp() == os.getpid():  # also ends processes that trials have started
            os.killpg(0, signal.SIGKILL)
        os._exit(0)

    def receive(self) -> Job:
        """Waits for the next job."""
        message = self._jobs.get()
        # answers for a trial that did not wait for them; all messages before the job have been read by now
        self._verdicts = queue.SimpleQueue()
        return Job(**message)

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends a line."""
        data = (json.dumps(message) + "\n").encode()
        while data:  # a signal may interrupt a write
            data = data[os.write(self._output, data) :]

    def ask(self, message: Mapping[str, Any]) -> bool:
        """Sends a line and waits for the answer."""
        self.send(message)
        return bool(self._verdicts.get()["stop"])
