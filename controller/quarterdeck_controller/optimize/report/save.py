"""Write the report of a run beside its variants."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from quarterdeck_controller.optimize.evaluation import Evaluation
from quarterdeck_controller.optimize.report.page import page
from quarterdeck_controller.optimize.search.story import Story
from quarterdeck_shared.durable import disk_code, write_durable
from quarterdeck_shared.errors import RejectedError

REPORT = "report.html"


def write_report(results: Sequence[tuple[Evaluation, Story]], out: Path) -> Path:
    """Write ``out/report.html`` for all classes of a run and return its path.

    Pictures of a class go into its folder ``out/<class>/``.

    Raises:
        RejectedError: ``DISK_FAILED`` or ``DISK_FULL`` when it cannot be written.
    """
    name = results[0][0].name if results else "model"
    target = out / REPORT
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_durable(target, page(results, name=name).encode())
        for evaluation, story in results:
            _write_pictures(evaluation, story, out / evaluation.device_class)
    except OSError as error:
        raise RejectedError(
            disk_code(error), f"{target} could not be written: {error.strerror}"
        ) from error
    return target


def _write_pictures(evaluation: Evaluation, story: Story, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    # matplotlib takes most of a second to load, which only this command should pay
    module = import_module("quarterdeck_controller.optimize.report.pictures")
    drawn: Mapping[str, bytes] = module.pictures(evaluation, story)
    for name, data in drawn.items():
        write_durable(folder / name, data)
