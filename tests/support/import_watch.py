"""A process that writes what each step of ordinary use imports: ``python import_watch.py REPORT``.

The report has one entry a step, in the order of the steps: the top-level names that were ``loaded`` since the start; those
that were ``asked`` for when they were not loaded yet, found or not, each with the module that was the first to ask and all
packages that were being imported on its behalf.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from pathlib import Path
from types import FrameType

OURS = ("framework", "modules", "datamodules", "callbacks")
FIT = [
    "fit",
    "--config=vision/image_classifier_digits",
    "--trainer.fast_dev_run=true",
    "--trainer.accelerator=cpu",
    "--trainer.enable_model_summary=false",
]


MACHINERY = ("importlib", "importlib._bootstrap", "importlib._bootstrap_external")


class Recorder:
    """A finder that finds nothing, and records which module was the first to import each name."""

    def __init__(self) -> None:
        self.asked: dict[str, tuple[str, list[str]]] = {}

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Notes a top-level name. ``importlib.util.find_spec`` only asks where it would be, which is no import."""
        if "." in name or name in self.asked:
            return
        importers = []
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            importers.append(str(frame.f_globals.get("__name__")))
            frame = frame.f_back
        importers = [importer for importer in importers if importer not in MACHINERY]
        if importers[0] != "importlib.util":
            self.asked[name] = importers[0], sorted({importer.partition(".")[0] for importer in importers})


def import_framework() -> None:
    import framework  # noqa: F401


def command(*arguments: str) -> None:
    from framework.__main__ import main

    if code := main(arguments):
        sys.exit(code)


def import_every_module() -> None:
    for name in OURS:
        for found in pkgutil.walk_packages(importlib.import_module(name).__path__, f"{name}."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)


STEPS = {
    "import framework": import_framework,
    "list": lambda: (command("list"), command("list", "--json"), command("list", "--markdown")),
    "fit": lambda: command(*FIT),
    "every module": import_every_module,
}


def main(report: Path) -> None:
    recorder = Recorder()
    start = set(sys.modules)
    sys.meta_path.insert(0, recorder)  # type: ignore[arg-type]
    steps = {}
    for step, take in STEPS.items():
        take()
        loaded = sorted({name.partition(".")[0] for name in set(sys.modules) - start})
        steps[step] = {"loaded": loaded, "asked": dict(recorder.asked)}
    report.write_text(json.dumps(steps), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
