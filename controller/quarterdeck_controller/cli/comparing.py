"""What ``quarterdeck model compare`` reads and prints."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from quarterdeck_controller.cli.output import out, print_json
from quarterdeck_controller.optimize.evaluation import (
    MAX_EVALUATION_BYTES,
    Evaluation,
)
from quarterdeck_controller.optimize.report.compare import (
    Compared,
    Comparison,
)
from quarterdeck_controller.optimize.report.compare import compare as hold_against
from quarterdeck_controller.optimize.report.wording import number, printable
from quarterdeck_controller.optimize.search.story import Story
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

EVALUATION, SEARCH = "evaluation.json", "search.json"
MAX_STORY_BYTES = 64 << 20
MOST_CLASSES = 12


def compare(a: Path, b: Path, *, json: bool) -> None:
    """Print what B is in comparison with A.

    Args:
        a: A folder that ``model optimize`` wrote, for one class or for several.
        b: Another.
        json: Print one JSON object instead.

    Raises:
        RejectedError: ``NOT_FOUND`` when there is nothing to compare, ``MALFORMED`` or
            ``VERSION_UNKNOWN`` when it is not of this version.
    """
    before, after = _read(a), _read(b)
    pairs = _pairs(before, after)
    if not pairs:
        raise RejectedError(
            Code.NOT_FOUND,
            f"no class is in both: {a} holds {', '.join(before)}, {b} holds "
            f"{', '.join(after)}",
        )
    found = [hold_against(before[one], after[other]) for one, other in pairs]
    alone = {"only_a": sorted({*before} - {one for one, _ in pairs}),
             "only_b": sorted({*after} - {one for _, one in pairs})}  # fmt: skip
    if json:
        rows = [one.as_json() for one in found]
        print_json({"a": str(a), "b": str(b), "classes": rows, **alone})
        return
    for one, (first, second) in zip(found, pairs, strict=True):
        _print(one, (a, before[first][0]), (b, after[second][0]))
    for name, classes in alone.items():
        if classes:
            told = f"only in {name[-1].upper()}: {', '.join(classes)}"
            out.print(told, style="yellow", markup=False)


def _pairs(
    a: Mapping[str, Compared], b: Mapping[str, Compared]
) -> list[tuple[str, str]]:
    """Return the classes to hold against each other; two that are alone always are."""
    if len(a) == len(b) == 1:
        return list(zip(a, b, strict=True))
    return [(name, name) for name in a if name in b]


def _read(folder: Path) -> dict[str, Compared]:
    """Return what is in ``folder`` by class."""
    if folder.is_file():
        raise RejectedError(
            Code.NOT_FOUND,
            f"{folder} is a file; give folders that model optimize wrote, or score "
            "models themselves by: quarterdeck model evaluate",
        )
    if not folder.is_dir():
        raise RejectedError(Code.NOT_FOUND, f"{folder} is not there")
    if (folder / EVALUATION).is_file():
        found = [_one(folder)]
    else:
        within = sorted(it for it in folder.iterdir() if (it / EVALUATION).is_file())
        found = [_one(one) for one in within]
    if not found:
        raise RejectedError(
            Code.NOT_FOUND,
            f"{folder} holds no {EVALUATION}, nor does a folder in it; give what model "
            "optimize wrote",
        )
    return {evaluation.device_class: (evaluation, story) for evaluation, story in found}


def _one(folder: Path) -> Compared:
    try:
        evaluation = Evaluation.decode(
            _bytes(folder / EVALUATION, MAX_EVALUATION_BYTES),
            limit=MAX_EVALUATION_BYTES,
        )
        told = folder / SEARCH
        if not told.is_file():
            return evaluation, None
        data = _bytes(told, MAX_STORY_BYTES)
        return evaluation, Story.decode(data, limit=MAX_STORY_BYTES)
    except RejectedError as error:
        raise RejectedError(error.code, f"{folder}: {error.detail}") from error


def _bytes(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as error:
        raise RejectedError(
            Code.NOT_FOUND, f"{path.name} cannot be read: {error.strerror}"
        ) from error


def _print(
    found: Comparison, a: tuple[Path, Evaluation], b: tuple[Path, Evaluation]
) -> None:
    for letter, (path, evaluation) in (("A", a), ("B", b)):
        text = Text(f"{letter}  ", "bold cyan")
        text.append(f"{path}", "not bold default")
        text.append(f"  {evaluation.device_class}", "not bold dim default")
        text.append(f"  {printable(evaluation.recipe or 'no variant')}", "bold default")
        out.print(text)
    for told in found.warnings:
        out.print(Text(printable(told), "yellow"))
    out.print(_table(found))
    _print_classes(found, a[1].unit)
    _print_all("what went in", found.differences)
    text = Text("verdict", "bold")
    out.print(text.append(f"  {printable(found.verdict)}", "not bold"))
    out.print()


def _table(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", overflow="fold")
    for head in ("A", "B", "change"):
        table.add_column(head, justify="right", no_wrap=True)
    for line in found.lines:
        cells = (line.what, line.a or "-", line.b or "-", line.change)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _print_classes(found: Comparison, unit: str) -> None:
    told = [
        f"{one.name}: {number(one.a, unit)} became {number(one.b, unit)} "
        f"(n={one.samples})"
        for one in found.classes[:MOST_CLASSES]
    ]
    if len(found.classes) > MOST_CLASSES:
        told.append(f"and {len(found.classes) - MOST_CLASSES} more, in --json")
    _print_all("classes that changed", told)


def _print_all(head: str, lines: Sequence[str]) -> None:
    if lines:
        out.print(head, style="bold")
    for line in lines:
        out.print(Padding(Text(printable(line)), (0, 0, 0, 2)), style="dim")
