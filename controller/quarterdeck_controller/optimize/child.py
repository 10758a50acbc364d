"""The child's side of a step: take the limits on, do it, write the answer.

Run as ``python -m quarterdeck_controller.optimize.child STEP FOLDER MIB SECONDS``.
"""

import importlib
import logging
import resource
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from quarterdeck_controller.optimize import steps
from quarterdeck_controller.optimize.sandbox import Refused
from quarterdeck_shared.errors import RejectedError

STEPS: Mapping[str, tuple[str, type[steps.Record]]] = MappingProxyType(
    {
        "load": ("data.load", steps.LoadRequest),
        "inspect": ("intake.source", steps.InspectRequest),
        "export": ("train.export", steps.ExportRequest),
        "prepare": ("intake.prepare", steps.PrepareRequest),
        "repair": ("repair.repair", steps.RepairRequest),
        "calibrate": ("quantize.calibrate", steps.CalibrateRequest),
        "build": ("quantize.build", steps.BuildRequest),
        "finish": ("quantize.finish", steps.FinishRequest),
        "run": ("measure.run", steps.RunRequest),
        "score": ("measure.score", steps.ScoreRequest),
        "emulate": ("measure.emulate", steps.EmulateRequest),
        "measure": ("measure.measure", steps.MeasureRequest),
        "sense": ("repair.sense", steps.SenseRequest),
        "train": ("train.train", steps.TrainRequest),
        "replay": ("measure.replay", steps.ReplayRequest),
    }
)
"""Each step's module, which has a function of the step's name, and its request.
Modules load late, so that what is measured does not carry what builds."""


def main(step: str, folder: Path, memory_mb: int, seconds: int) -> None:
    """Carry out one step; a refusal is an answer too."""
    _take_limits(memory_mb, seconds)
    logging.getLogger().setLevel(logging.ERROR)  # libraries warn of what we handle
    name, request = STEPS[step]
    module = importlib.import_module(f"quarterdeck_controller.optimize.{name}")
    carry_out: Callable[[Any], steps.Record] = getattr(module, step)
    asked = request.model_validate_json((folder / "request.json").read_bytes())
    try:
        answer, file = carry_out(asked), "answer.json"
    except RejectedError as error:
        answer, file = Refused(code=error.code, detail=error.detail), "refused.json"
    (folder / file).write_text(answer.model_dump_json(), "utf-8")


def _take_limits(memory_mb: int, seconds: int) -> None:
    size = memory_mb << 20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.alarm(seconds)  # ends this process even when nobody watches it any more


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
