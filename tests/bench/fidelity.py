"""Variants of the demo's model on emulated processors, beside this machine."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from quarterdeck_controller.demo import material
from quarterdeck_controller.optimize import golden
from quarterdeck_controller.optimize.data.stored import Array, Stored, Writer
from quarterdeck_controller.optimize.intake.prepare import prepare
from quarterdeck_controller.optimize.measure.emulate import (
    Emulator,
    find_emulator,
    run_emulated,
)
from quarterdeck_controller.optimize.measure.fidelity import (
    HERE,
    fidelity,
    is_faithful,
    loses_db,
)
from quarterdeck_controller.optimize.measure.run import run
from quarterdeck_controller.optimize.quantize.build import build
from quarterdeck_controller.optimize.quantize.calibrate import calibrate
from quarterdeck_controller.optimize.recipe import Recipe
from quarterdeck_controller.optimize.steps import (
    BuildRequest,
    CalibrateRequest,
    PrepareRequest,
    RunRequest,
)
from quarterdeck_shared.errors import RejectedError
from quarterdeck_shared.session import Session
from tests.bench.table import Figure
from tests.bench.timing import seconds

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "quarterdeck"
PROCESSORS = ("Haswell", "cortex-a53", "cortex-a76")
VERSION = 2
OUTPUT = "scores"
VECTORS, QUICK_VECTORS = 32, 8
SECONDS = 300
NOTE = 90
PLAIN, PRECISE = Session(), Session(precise=True)
VARIANTS: Mapping[str, tuple[Recipe, Session]] = {
    "u8s8": (Recipe("static", "u8s8"), PLAIN),
    "u8s8, precise": (Recipe("static", "u8s8"), PRECISE),
    "u8s8, 7 bits": (Recipe("static", "u8s8", reduce_range=True), PLAIN),
    "u8u8": (Recipe("static", "u8u8"), PLAIN),
    "s8s8": (Recipe("static", "s8s8"), PLAIN),
    "dynamic": (Recipe("dynamic"), PLAIN),
    "weights": (Recipe("weights"), PLAIN),
    "fp16": (Recipe("fp16"), PLAIN),
}
QUICK = ("u8s8", "u8u8")


@dataclass(frozen=True, slots=True)
class Bench:
    """What all variants are made from and held against.

    Attributes:
        rows: Samples that are golden vectors.
        expected: The float model's scores for them.
    """

    folder: Path
    float_model: Path
    spreads: Path
    calibration: Path
    evaluation: Path
    rows: tuple[int, ...]
    expected: Array
    scale: golden.Scale


def measure(folder: Path, *, quick: bool) -> Sequence[Figure]:
    """Return the noise of each variant on each processor, and what it takes to know.

    Raises:
        RuntimeError: No processor can be emulated here.
    """
    logging.getLogger().setLevel(logging.ERROR)
    found = [find_emulator(name) for name in PROCESSORS]
    emulators = [one for one in found if isinstance(one, Emulator)]
    if not emulators:
        raise RuntimeError("; ".join(map(str, found)))
    bench = _prepare(folder, QUICK_VECTORS if quick else VECTORS)
    figures = [_cost(bench, emulator) for emulator in emulators]
    for name in QUICK if quick else VARIANTS:
        figures += _one_variant(bench, name, emulators)
    return figures


def _prepare(folder: Path, vectors: int) -> Bench:
    data = material.prepare(CACHE, folder / "data", ["field"])
    calibration = _store(data.calibration, folder / "calibration")
    evaluation = _store(data.evaluation, folder / "evaluation")
    model, spreads = folder / "float.onnx", folder / "spreads"
    prepare(
        PrepareRequest(
            model=material.float_model(VERSION), out=model, samples=calibration
        )
    )
    calibrate(CalibrateRequest(model=model, out=spreads, samples=calibration, batch=32))
    scores = _here(folder / "float", model, evaluation, PLAIN, None)
    rows = golden.choose_vectors(scores, None, count=vectors, seed=0)
    expected = scores[list(rows)]
    scale = golden.scale_of(expected)
    return Bench(folder, model, spreads, calibration, evaluation, rows, expected, scale)


def _store(file: Path, folder: Path) -> Path:
    with np.load(file) as arrays, Writer(folder) as writer:
        writer.add({"motion": arrays["motion"]})
    return folder


def _here(
    out: Path, model: Path, samples: Path, session: Session, rows: Sequence[int] | None
) -> Array:
    run(_request(out, model, samples, session, rows))
    return _scores(out)


def _request(
    out: Path, model: Path, samples: Path, session: Session, rows: Sequence[int] | None
) -> RunRequest:
    return RunRequest(
        model=model,
        out=out,
        samples=samples,
        session=session,
        batch=1,
        rows=None if rows is None else tuple(rows),
    )


def _scores(out: Path) -> Array:
    stored = Stored.open(out)
    return stored.array(stored.names[0])


def _cost(bench: Bench, emulator: Emulator) -> Figure:
    """Time the float model, whose kernels are the slowest to emulate."""
    out = bench.folder / f"cost-{emulator.processor}"
    asked = partial(_request, model=bench.float_model, samples=bench.evaluation)
    every = asked(out=out / "all", session=PLAIN, rows=bench.rows)
    one = asked(out=out / "one", session=PLAIN, rows=bench.rows[:1])
    return Figure(
        f"{len(bench.rows)} vectors, float, {emulator.processor}",
        1,
        seconds(lambda: run_emulated(emulator, every, seconds=SECONDS)),
        "s",
        "one vector, so start alone",
        seconds(lambda: run_emulated(emulator, one, seconds=SECONDS)),
        f"onnxruntime {emulator.runtime}",
    )


def _one_variant(
    bench: Bench, name: str, emulators: Sequence[Emulator]
) -> Iterator[Figure]:
    recipe, session = VARIANTS[name]
    folder = bench.folder / name.replace(", ", "-").replace(" ", "")
    folder.mkdir()
    model = folder / "model.onnx"
    build(
        BuildRequest(
            model=bench.float_model,
            out=model,
            recipe=recipe,
            spreads=bench.spreads,
            samples=bench.calibration,
            output=OUTPUT,
            batch=32,
        )
    )
    try:
        native = _here(folder / HERE, model, bench.evaluation, session, bench.rows)
    except RejectedError as error:  # the others are still worth measuring
        yield Figure(name, 0, 0.0, "dB", HERE, None, error.detail[:NOTE])
        return
    here = fidelity(HERE, bench.expected, native, bench.scale)
    for emulator in emulators:
        out = folder / emulator.processor
        asked = _request(out, model, bench.evaluation, session, bench.rows)
        run_emulated(emulator, asked, seconds=SECONDS)
        there = fidelity(emulator.processor, bench.expected, _scores(out), bench.scale)
        verdict = "faithful" if is_faithful(here, there) else "NOT FAITHFUL"
        yield Figure(
            f"{name}, {emulator.processor}",
            len(bench.rows),
            there.sqnr_db,
            "dB",
            HERE,
            here.sqnr_db,
            f"{verdict}: loses {loses_db(here, there):.1f} dB,"
            f" agreement {there.agreement:.2f} for {here.agreement:.2f}",
        )
