"""A small fleet home and small variants to release, made from scratch."""

import functools
import io
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from securesystemslib.signer import Signer

from quarterdeck_controller.founding import create_home
from quarterdeck_controller.home import Home, Settings
from quarterdeck_controller.optimize.evaluation import (
    Evaluation,
    Latency,
    Provenance,
    Side,
)
from quarterdeck_controller.release.assemble import create_release
from quarterdeck_controller.release.attest import attester
from quarterdeck_controller.release.listings import index_file, target_file
from quarterdeck_controller.release.trial import trusting
from quarterdeck_controller.repository.drafts import following
from quarterdeck_controller.repository.repository import Committed, Repository
from quarterdeck_controller.repository.requests import Request
from quarterdeck_controller.repository.roles import PROVENANCE
from quarterdeck_shared.device import Requirements
from quarterdeck_shared.index import Golden, Index, Limits, cut
from quarterdeck_shared.listing import Listing
from quarterdeck_shared.session import Session

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
CLASSES = ("cam", "gateway")
VECTORS = 8
ALLOWING_PROFILE = """
v = 2
name = "cam"
description = "a camera"
isa = ["x86-64"]
memory_mb = 512
[budget]
accuracy_drop_points = 1
min_agreement = 0.9
size_ratio = 1
latency_ratio = 1
latency_ms = 50
memory_mb = 256
[gate]
control_flow = true
"""
"""A profile of the class cam that allows operators which run subgraphs."""


class ManualClock:
    """A clock that is moved by hand."""

    def __init__(self, now: datetime = NOW) -> None:
        self.time = now

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return (self.time - NOW).total_seconds()

    def forward(self, **span: float) -> None:
        """Let time pass."""
        self.time += timedelta(**span)


def make_home(
    path: Path, clock: ManualClock, *, classes: Sequence[str] = CLASSES
) -> Home:
    """Return a new fleet home with small chunks."""
    settings = Settings(
        fleet="test fleet", classes=tuple(classes), chunk_bytes=1024, test=True
    )
    return create_home(path, settings, clock)


_KEPT = TemporaryDirectory(prefix="quarterdeck-homes-")


def copied_home(path: Path, *, released: bool = False) -> Home:
    """Return a copy of a home made once: a hundred tests need one, synced to disk.

    ``released``: with ``model@1`` for every class.
    """
    shutil.copytree(_original(released=released), path)
    return Home.open(path)


@functools.cache
def _original(*, released: bool) -> Path:
    folder = Path(_KEPT.name, "released" if released else "empty")
    home = make_home(folder / "home", ManualClock())
    if released:
        variants = write_variants(folder / "v1", weight=1, home=home)
        create_release(home, variants, "model", 1, ManualClock(), trial=trusting)
    return home.path


def model_bytes(weight: float = 1.0, *, width: int = 64) -> bytes:
    """Return an ONNX model that multiplies a row of ``width`` by a matrix."""
    matrix = np.full((width, width), weight, np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", width])],
        [numpy_helper.from_array(matrix, "w")],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset)
    return bytes(model.SerializeToString())


def golden_bytes(count: int = VECTORS, *, width: int = 64, **arrays: object) -> bytes:
    """Return golden vectors for ``model_bytes``; ``arrays`` replace or add some."""
    held: dict[str, object] = {
        "input:x": np.ones((count, width), np.float32),
        "expected:y": np.ones((count, width), np.float32),
    }
    held |= {name.replace("__", ":"): array for name, array in arrays.items()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in held.items():
            if array is not None:
                with archive.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array(file, np.asarray(array))
    return buffer.getvalue()


def evaluation(
    name: str = "model",
    device_class: str = "cam",
    *,
    decision: str = "accepted",
    files: Mapping[str, bytes] = MappingProxyType({}),
) -> Evaluation:
    """Return an evaluation record with plausible figures."""
    side = Side(
        score=0.9,
        ci95=(0.88, 0.92),
        bytes=40_000,
        compressed_bytes=36_000,
        latency=Latency(p50_ms=1.0, p90_ms=1.2, p99_ms=1.5, cpu_ms=1.0),
        peak_memory_mb=50,
        load_ms=10,
    )
    return Evaluation.model_validate(
        {
            "name": name,
            "device_class": device_class,
            "recipe": "dynamic",
            "decision": decision,
            "reason": "best within the budget" if decision == "accepted" else "slow",
            "metric": "top1",
            "unit": "%",
            "samples": 100,
            "selection_samples": 100,
            "looks": 1,
            "float": side,
            "variant": side.model_copy(update={"score": 0.89}),
            "agreement": 0.99,
            "drop_points": 1.0,
            "drop_ci95": (-1.0, 3.0),
            "size_ratio": 0.26,
            "latency_ratio": 0.6,
            "latency_known": "measured",
            "peak_memory_ratio": 0.9,
            "golden": Golden(
                count=VECTORS, min_agreement=0.9, margin=0.1, max_error=0.1
            ),
            "golden_measured": (),
            "requires": Requirements(
                isa=(), memory_mb=64, runtime="1.20", provider="CPUExecutionProvider"
            ),
            "limits": Limits(latency_ms=100, memory_mb=500),
            "labels": ("a", "b"),
            "files": {name: sha256(data).hexdigest() for name, data in files.items()},
            "session": Session(),
            "baselines": None,
            "notes": (),
            "provenance": Provenance(
                model_sha256="0" * 64,
                calibration_sha256="1" * 64,
                evaluation_sha256="2" * 64,
                calibration_samples=10,
                seed=0,
                settings={},
                versions={"onnxruntime": "1.32.0"},
                machine_isa=(),
                profile_sha256="3" * 64,
                invocation="a run of the tests",
                started=NOW - timedelta(hours=1),
                finished=NOW,
            ),
        }
    )


def write_variants(
    folder: Path,
    *,
    home: Home | None = None,
    name: str = "model",
    classes: Sequence[str] = CLASSES,
    weight: float = 1 / 64,
    decision: str = "accepted",
) -> Path:
    """Write what the optimizer would have written, and return the folder.

    The default weight is the one that reproduces the golden vectors. ``home`` vouches
    for the variants with its own key; without it nobody does.
    """
    signers = () if home is None else vouchers(home)
    for device_class in classes:
        variant = folder / device_class
        variant.mkdir(parents=True, exist_ok=True)
        files = {"model.onnx": model_bytes(weight), "golden.npz": golden_bytes()}
        record = evaluation(name, device_class, decision=decision, files=files)
        files["evaluation.json"] = record.encode()
        if signers:
            vouch = attester(signers)
            files["provenance.json"] = vouch(record, files["evaluation.json"])
        for file, data in files.items():
            (variant / file).write_bytes(data)
    return folder


def vouchers(home: Home) -> tuple[Signer, ...]:
    """Return the keys of the home that sign provenance."""
    return Repository(home, ManualClock()).signers(PROVENANCE)


def publish(repository: Repository) -> Committed | Request:
    """List a small index for cam, in one change of its own."""
    with repository.exclusive():
        chain, index = repository.chain(), make_index()
        role = following(chain.delegated["class-cam"], "class-cam", NOW)
        file = target_file(index, Listing.model_validate(listing(), strict=False))
        role.targets[file.path] = file
        files = {index_file(file): index.encode()}
        return repository.propose({"class-cam": role}, why="a test", attachments=files)


def load(data: bytes) -> onnx.ModelProto:
    """Return the model to change it."""
    return onnx.load_model_from_string(data)


def make_index(
    device_class: str = "cam", version: int = 1, *, release: int = 1, length: int = 5000
) -> Index:
    """Return the index of an artifact that exists nowhere."""
    record = evaluation("model", device_class)
    return Index(
        model="model",
        version=version,
        release=release,
        device_class=device_class,
        recipe="dynamic",
        chunk_bytes=1024,
        parts=(
            cut("model.onnx", bytes(length), 1024),
            cut("golden.npz", b"golden", 1024),
        ),
        requires=record.requires,
        limits=record.limits,
        golden=record.golden,
    )


def listing(release: int = 1) -> dict[str, str | int]:
    """Return what is signed beside a target."""
    return Listing(release=release, created=NOW).model_dump(mode="json")
