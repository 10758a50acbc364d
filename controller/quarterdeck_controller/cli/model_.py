"""``quarterdeck model``: quantize, inspect and evaluate models."""

import re
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from quarterdeck_controller.cli.attesting import attest, find_attester
from quarterdeck_controller.cli.comparing import compare as print_comparison
from quarterdeck_controller.cli.options import DEFAULT_HOME, HomeOption, JsonOption
from quarterdeck_controller.cli.output import (
    EXIT_REFUSED,
    out,
    print_json,
    print_table,
)
from quarterdeck_controller.cli.passphrases import PassphraseOption
from quarterdeck_controller.cli.watching import watched
from quarterdeck_controller.optimize.data.samples import Data
from quarterdeck_controller.optimize.evaluate import Result, evaluate_model
from quarterdeck_controller.optimize.intake.hard import hard_for
from quarterdeck_controller.optimize.optimizer import (
    Optimization,
    Options,
    optimize_all,
)
from quarterdeck_controller.optimize.profile import DEFAULT_CLASSES, load_profile
from quarterdeck_controller.optimize.recipe import KINDS, Kind
from quarterdeck_controller.optimize.report.save import write_report
from quarterdeck_controller.optimize.report.table import report
from quarterdeck_controller.optimize.report.wording import number
from quarterdeck_controller.optimize.sandbox import Sandbox
from quarterdeck_controller.optimize.search.cache import default_folder
from quarterdeck_controller.optimize.search.ready import inspect as inspect_model
from quarterdeck_controller.optimize.steps import Source, Tensor
from quarterdeck_controller.optimize.write import check_writable, write
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

app = typer.Typer(no_args_is_help=True)

ModelArgument = Annotated[
    Path,
    typer.Argument(
        help="A float ONNX model, or file.py:function that returns a PyTorch module "
        "and its example inputs."
    ),
]
_DEFAULT = ", ".join(DEFAULT_CLASSES)
SOURCES = ".npz, .npy, a folder, or a Python function file.py:name"
METRICS = "top1, topk:k=5, f1, map, cer, exact, rmse, sisdr, recall, cosine, ..."
MAX_LABELS_BYTES = 1 << 20


@app.command()
def optimize(
    model: ModelArgument,
    *,
    name: Annotated[str, typer.Option(help="Name of the model, for its releases.")],
    calibration: Annotated[
        str, typer.Option(help=f"Samples that ranges are taken from: {SOURCES}.")
    ],
    evaluation: Annotated[
        str,
        typer.Option(
            help="Other samples, with labels where known: half of them choose, the "
            "others judge."
        ),
    ],
    metric: Annotated[
        str,
        typer.Option(help=f"{METRICS}; default: what fits the labels."),
    ] = "",
    device_class: Annotated[
        list[str] | None,
        typer.Option(
            "--class", help=f"A class or a profile file; default: {_DEFAULT}."
        ),
    ] = None,
    qat: Annotated[
        bool,
        typer.Option(
            "--qat", help="Train the integers where nothing cheaper meets the budget."
        ),
    ] = False,
    time_budget: Annotated[
        str | None,
        typer.Option(help="Begin nothing new after so long: 90s, 10m, 1h."),
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
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Use nothing that an earlier run has found."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Splits the samples, trains.", min=0)] = 0,
    attest_with: Annotated[
        Path | None,
        typer.Option(
            "--attest-with",
            help="The provenance key that vouches for what is written; in a test home "
            "its own does. Else: model attest, afterwards.",
        ),
    ] = None,
    passphrase_file: PassphraseOption = None,
    home: HomeOption = DEFAULT_HOME,
    json: JsonOption = False,
) -> None:
    """Find the best integer variant of a float model for each device class.

    Exit code 0 when every class was accepted, 3 when some were refused.
    """
    check_writable(out_folder)
    vouch = find_attester(attest_with, passphrase_file, home)
    profiles = [load_profile(k) for k in device_class or DEFAULT_CLASSES]
    options = Options(
        name=name,
        labels=_read_labels(labels),
        metric=metric,
        seed=seed,
        kinds=tuple(_kind(word) for word in recipe or ()),
        qat=qat,
        time_budget_s=_seconds(time_budget),
        cache=None if fresh else default_folder(),
    )
    names = [profile.name for profile in profiles]
    with _stoppable(), watched(names, silent=json) as show:
        results = optimize_all(
            model,
            Data(calibration, evaluation),
            profiles,
            options=options,
            on_progress=show,
        )
    folders = [
        write(one, out_folder, keep_refused=keep_refused, attest=vouch)
        for one in results
    ]
    page = write_report([(one.evaluation, one.story) for one in results], out_folder)
    _tell(results, [*folders, page], json=json)
    if vouch is None and not json:
        out.print(
            f"Nobody vouches for them yet: quarterdeck model attest {out_folder} --key "
            "KEY",
            markup=False,
        )
    if not all(result.accepted for result in results):
        raise typer.Exit(EXIT_REFUSED)


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(help="A float ONNX model.")],
    *,
    device_class: Annotated[
        list[str] | None,
        typer.Option("--class", help="Say what will be hard for this class."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show what a model is made of, and what will be hard, by class."""
    profiles = [load_profile(k) for k in device_class or DEFAULT_CLASSES]
    with _stoppable(), tempfile.TemporaryDirectory() as folder:
        source = inspect_model(Sandbox(Path(folder)), model)
    hard = {profile.name: hard_for(source, profile) for profile in profiles}
    if json:
        print_json(source.model_dump(mode="json") | {"hard": hard})
        return
    print_table(("", ""), list(_facts(source)), title=model.name)
    for note in source.notes:
        out.print(f"  {note}", style="yellow", markup=False)
    for name, notes in hard.items():
        for note in notes or ("nothing here is known to be hard",):
            out.print(f"  {name}: {note}", style="yellow", markup=False)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Any ONNX model, quantized or not.")],
    *,
    evaluation: Annotated[str, typer.Option(help=f"Samples with labels: {SOURCES}.")],
    metric: Annotated[
        str, typer.Option(help=f"{METRICS}; default: what fits the labels.")
    ] = "",
    json: JsonOption = False,
) -> None:
    """Run a model on labelled samples: score, latency, memory."""
    with _stoppable():
        scored = evaluate_model(model, evaluation, metric=metric)
    if json:
        print_json(scored.model_dump(mode="json"))
        return
    print_table(("", ""), list(_result(scored)), title=model.name)
    for note in scored.notes:
        out.print(f"  {note}", style="yellow", markup=False)


app.command()(attest)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="A folder that model optimize wrote.")],
    b: Annotated[Path, typer.Argument(help="Another, for one class or for several.")],
    *,
    json: JsonOption = False,
) -> None:
    """Show two variants side by side: what B is in comparison with A."""
    print_comparison(a, b, json=json)


def _tell(
    results: Sequence[Optimization], folders: Sequence[Path], *, json: bool
) -> None:
    if json:
        print_json([one.evaluation.model_dump(mode="json") for one in results])
        return
    out.print(report([(one.evaluation, one.story) for one in results]))
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


def _result(scored: Result) -> Iterator[tuple[str, str]]:
    low, high = (number(end, scored.unit) for end in scored.ci95)
    share = f"{number(scored.score, scored.unit)} {scored.unit} ({low}-{high})"
    yield scored.metric, f"{share}, n={scored.samples}"
    times = scored.latency
    yield (
        "latency",
        f"p50 {times.p50_ms:.3f} ms, p90 {times.p90_ms:.3f}, p99 {times.p99_ms:.3f}",
    )
    yield "processor", f"{times.cpu_ms:.3f} ms of processor time an inference"
    memory = f"{scored.peak_memory_mb:.0f} MiB, loads in {scored.load_ms:.0f} ms"
    yield "peak memory", memory
    yield "size", f"{scored.bytes:,} bytes"


def _seconds(text: str | None) -> float:
    if text is None:
        return inf
    found = re.fullmatch(r"([0-9]+(?:[.][0-9]+)?)([smh]?)", text.strip())
    if found is None:
        raise RejectedError(
            Code.NOT_ALLOWED, f"--time-budget {text!r}: say 90s, 10m or 1h"
        )
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def _kind(word: str) -> Kind:
    for kind in KINDS:
        if kind == word:
            return kind
    raise RejectedError(
        Code.NOT_ALLOWED,
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
