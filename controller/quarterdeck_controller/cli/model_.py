"""``quarterdeck model``: quantize, inspect and evaluate models."""

import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from quarterdeck_controller.cli.options import JsonOption
from quarterdeck_controller.cli.output import (
    EXIT_REFUSED,
    err,
    out,
    print_json,
    print_table,
)
from quarterdeck_controller.optimize.data.samples import Data, load_samples
from quarterdeck_controller.optimize.evaluate import Scored, evaluate_model
from quarterdeck_controller.optimize.evaluation import Evaluation
from quarterdeck_controller.optimize.optimizer import Options, optimize_all
from quarterdeck_controller.optimize.optimizer import Progress as Step
from quarterdeck_controller.optimize.profile import DEFAULT_CLASSES, load_profile
from quarterdeck_controller.optimize.recipe import KINDS, Kind
from quarterdeck_controller.optimize.report.table import report
from quarterdeck_controller.optimize.sandbox import Sandbox
from quarterdeck_controller.optimize.search import trial
from quarterdeck_controller.optimize.steps import Source, Tensor
from quarterdeck_controller.optimize.write import check_writable, write
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

app = typer.Typer(no_args_is_help=True)

ModelArgument = Annotated[Path, typer.Argument(help="A float ONNX model.")]
MAX_LABELS_BYTES = 1 << 20


@app.command()
def optimize(
    model: ModelArgument,
    *,
    name: Annotated[str, typer.Option(help="Name of the model, for its releases.")],
    calibration: Annotated[
        Path,
        typer.Option(
            help="Samples that ranges are taken from: .npz, an array per input."
        ),
    ],
    evaluation: Annotated[
        Path,
        typer.Option(help="Other samples, with 'labels' where known, that judge."),
    ],
    device_class: Annotated[
        list[str] | None,
        typer.Option(
            "--class", help="A class or a profile file; default: every class."
        ),
    ] = None,
    out_folder: Annotated[
        Path, typer.Option("--out", help="Where the variants go.")
    ] = Path("variants"),
    labels: Annotated[
        str | None,
        typer.Option(help="Names of the classes: a,b,c or a file with one a line."),
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(help=f"Try only this: {', '.join(KINDS)}. May be repeated."),
    ] = None,
    keep_refused: Annotated[
        bool,
        typer.Option(
            "--keep-refused", help="Write the nearest miss of a refused class."
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Draws the golden vectors.", min=0)] = 0,
    json: JsonOption = False,
) -> None:
    """Quantize a float model for each device class, or say why not.

    Exit code 0 when every class was accepted, 3 when some were refused.
    """
    check_writable(out_folder)
    profiles = [load_profile(k) for k in device_class or DEFAULT_CLASSES]
    options = Options(
        name=name,
        labels=_read_labels(labels),
        seed=seed,
        recipes=tuple(_kind(word) for word in recipe or ()),
    )
    data = Data(load_samples(calibration), load_samples(evaluation))
    with _stoppable(), _shown(silent=json) as show:
        results = optimize_all(model, data, profiles, options=options, on_progress=show)
    folders = [write(one, out_folder, keep_refused=keep_refused) for one in results]
    evaluations = [result.evaluation for result in results]
    _tell(evaluations, folders, json=json)
    if not all(result.accepted for result in results):
        raise typer.Exit(EXIT_REFUSED)


@app.command()
def inspect(model: ModelArgument, *, json: JsonOption = False) -> None:
    """Show what a model is made of, and what will be hard."""
    with _stoppable(), tempfile.TemporaryDirectory() as folder:
        source = trial.inspect(Sandbox(Path(folder)), model)
    if json:
        print_json(source.model_dump(mode="json"))
        return
    print_table(("", ""), list(_facts(source)), title=model.name)
    for note in source.notes:
        out.print(f"  {note}", style="yellow", markup=False)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Any ONNX model, quantized or not.")],
    *,
    evaluation: Annotated[Path, typer.Option(help="Samples with 'labels': .npz.")],
    json: JsonOption = False,
) -> None:
    """Run a model on labelled samples: accuracy, latency, memory."""
    with _stoppable():
        scored = evaluate_model(model, load_samples(evaluation))
    if json:
        print_json(scored.model_dump(mode="json"))
        return
    print_table(("", ""), list(_result(scored)), title=model.name)


def _tell(
    evaluations: Sequence[Evaluation], folders: Sequence[Path], *, json: bool
) -> None:
    if json:
        print_json([one.model_dump(mode="json") for one in evaluations])
        return
    out.print(report(evaluations))
    for folder in folders:
        out.print(str(folder), style="dim", markup=False)


def _facts(source: Source) -> Iterator[tuple[str, str]]:
    yield "size", f"{source.bytes:,} bytes, {source.parameters:,} parameters"
    yield "opset", f"{source.opset} (IR {source.ir_version}) {source.producer}"
    yield "takes", ", ".join(_tensor(tensor) for tensor in source.inputs)
    yield "gives", ", ".join(_tensor(tensor) for tensor in source.outputs)
    yield "judged by", source.score_output
    told = (f"{count} {kind}" for kind, count in source.operators.items())
    yield "operators", ", ".join(told)


def _tensor(tensor: Tensor) -> str:
    dims = " x ".join("any" if d is None else str(d) for d in tensor.shape)
    return f"{tensor.name} {tensor.dtype} {dims}"


def _result(scored: Scored) -> Iterator[tuple[str, str]]:
    low, high = (100 * end for end in scored.ci95)
    share = f"{100 * scored.score:.1f} % ({low:.1f}-{high:.1f})"
    yield "accuracy", f"{share}, n={scored.samples}"
    times = scored.latency
    yield (
        "latency",
        f"p50 {times.p50_ms:.3f} ms, p90 {times.p90_ms:.3f}, p99 {times.p99_ms:.3f}",
    )
    yield "peak memory", f"{scored.peak_memory_mb:.0f} MiB"
    yield "size", f"{scored.bytes:,} bytes"


def _kind(word: str) -> Kind:
    for kind in KINDS:
        if kind == word:
            return kind
    raise RejectedError(
        Code.PROFILE_INVALID,
        f"there is no recipe {word!r}; there are {', '.join(KINDS)}",
    )


def _read_labels(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    names = _lines(Path(text)) if "," not in text else text.split(",")
    named = tuple(name.strip() for name in names if name.strip())
    twice = sorted({name for name in named if named.count(name) > 1})
    if twice:
        raise RejectedError(
            Code.DATA_INVALID, f"--labels {text}: named twice: {', '.join(twice)}"
        )
    return named


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            return file.read(MAX_LABELS_BYTES).decode("utf-8", "replace").splitlines()
    except OSError as error:
        raise RejectedError(
            Code.DATA_INVALID,
            f"--labels {path}: {error.strerror}; give a file with a name a line, or "
            "names joined by commas",
        ) from error


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM unwind like Ctrl-C, so that children and temporary files go."""

    def stop(_signal: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _shown(*, silent: bool) -> Iterator[Callable[[Step], None]]:
    """Yield what shows progress, on standard error and only to a person."""
    if silent or not err.is_terminal:
        yield lambda _: None
        return
    columns = (BarColumn(24), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        row = bar.add_task("looking at the model", total=None)
        yield lambda step: bar.update(
            row, completed=step.done, total=step.total, description=step.sentence
        )
