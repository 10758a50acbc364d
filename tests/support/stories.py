"""Evaluations and stories made up for a test: one class that got a variant."""

from datetime import UTC, datetime
from typing import Any

from quarterdeck_controller.optimize.evaluation import (
    ClassScore,
    Evaluation,
    GoldenMeasured,
    Kernels,
    Latency,
    Provenance,
    Side,
)
from quarterdeck_controller.optimize.search.story import (
    Allowed,
    Histogram,
    Said,
    SensitiveNode,
    Story,
    TimeShare,
    TrainingPoint,
    Tried,
)
from quarterdeck_shared.device import Requirements
from quarterdeck_shared.index import Golden, Limits
from quarterdeck_shared.session import Session

FLOAT_BYTES = 10_000_000


def latency(p50_ms: float) -> Latency:
    """Return a latency with that median."""
    return Latency(
        p50_ms=p50_ms, p90_ms=1.2 * p50_ms, p99_ms=2 * p50_ms, cpu_ms=1.1 * p50_ms
    )


def side(**changes: object) -> Side:
    """Return what was measured of a model, changed."""
    fields: dict[str, Any] = {
        "score": 0.9,
        "ci95": (0.87, 0.92),
        "bytes": FLOAT_BYTES,
        "compressed_bytes": 9_000_000,
        "latency": latency(4.0),
        "peak_memory_mb": 120.0,
        "load_ms": 20.0,
        "kernels": Kernels(
            integer=0, heavy_float=20, conversions=0, conversion_share=0.0
        ),
        "classes": tuple(
            ClassScore(name=name, samples=40, score=score)
            for name, score in (("PEN", 0.95), ("ABD", 0.85), ("ROW", 0.9))
        ),
    }
    return Side(**(fields | changes))


def evaluation(**changes: object) -> Evaluation:
    """Return the record of an accepted variant, changed."""
    variant = side(
        score=0.897,
        ci95=(0.866, 0.917),
        bytes=2_700_000,
        compressed_bytes=2_500_000,
        latency=latency(1.6),
        kernels=Kernels(
            integer=24, heavy_float=2, conversions=5, conversion_share=0.04
        ),
    )
    fields: dict[str, Any] = {
        "name": "exercises",
        "device_class": "gateway-x86",
        "recipe": "static-u8s8-mse",
        "decision": "accepted",
        "reason": "static-u8s8-mse: best by latency of 3 within the budget",
        "metric": "top1",
        "unit": "%",
        "samples": 500,
        "selection_samples": 480,
        "looks": 1,
        "reference": side(),
        "variant": variant,
        "agreement": 0.985,
        "drop_points": 0.3,
        "drop_ci95": (-0.4, 1.0),
        "size_ratio": 0.27,
        "latency_ratio": 0.4,
        "latency_known": "measured",
        "peak_memory_ratio": 1.01,
        "golden": Golden(count=32, min_agreement=0.9, margin=0.1, max_error=0.08),
        "golden_measured": (
            GoldenMeasured(processor="here", agreement=1, error=0.026, sqnr_db=31.7),
            GoldenMeasured(processor="Haswell", agreement=1, error=0.03, sqnr_db=30.5),
        ),
        "requires": Requirements(
            isa=("x86-64", "avx2"),
            memory_mb=900,
            runtime="1.20",
            provider="CPUExecutionProvider",
        ),
        "limits": Limits(latency_ms=50, memory_mb=384),
        "session": Session(),
        "labels": ("PEN", "ABD", "ROW"),
        "files": {"model.onnx": "a" * 64, "golden.npz": "b" * 64},
        "baselines": None,
        "notes": ("480 samples choose the recipe and 500 others report it",),
        "provenance": provenance(),
    }
    return Evaluation(**(fields | changes))


def provenance(**changes: object) -> Provenance:
    """Return what went in, changed."""
    fields: dict[str, Any] = {
        "model_sha256": "c" * 64,
        "calibration_sha256": "d" * 64,
        "evaluation_sha256": "e" * 64,
        "calibration_samples": 300,
        "seed": 0,
        "settings": {"kind": "static", "scheme": "u8s8", "per_channel": True},
        "versions": {"onnxruntime": "1.32.0"},
        "machine_isa": ("x86-64", "avx2"),
        "profile_sha256": "f" * 64,
        "invocation": "a run",
        "started": datetime(2026, 11, 1, 12, tzinfo=UTC),
        "finished": datetime(2026, 11, 1, 12, 5, tzinfo=UTC),
    }
    return Provenance(**(fields | changes))


def tried(recipe: str = "static-u8s8-mse", **changes: object) -> Tried:
    """Return a candidate that was measured, changed."""
    fields: dict[str, Any] = {
        "recipe": recipe,
        "rung": "static",
        "why": "integers throughout",
        "score": 0.897,
        "drop_points": 0.3,
        "agreement": 0.985,
        "bytes": 2_700_000,
        "size_ratio": 0.27,
        "latency": latency(1.6),
        "latency_ratio": 0.4,
        "peak_memory_mb": 121.0,
        "peak_memory_ratio": 1.01,
        "kernels": Kernels(
            integer=24, heavy_float=2, conversions=5, conversion_share=0.04
        ),
        "treated": {"static": 24},
    }
    return Tried(**(fields | changes))


def candidates() -> tuple[Tried, ...]:
    """Return one candidate of every standing."""
    return (
        tried(
            "weights-s8", rung="floor", on_front=True, drop_points=0.0, latency_ratio=1
        ),
        tried("fp16", rung="floor", drop_points=0.0, size_ratio=0.5, latency_ratio=1.1),
        tried(on_front=True, taken=True),
        tried(
            "static-u8s8-mse-elementwise",
            misses=(
                "top1 84.1 % is 5.9 points below float's 90.0 %, at most 1 allowed",
            ),
            drop_points=5.9,
            latency_ratio=0.35,
        ),
        Tried(
            recipe="static-u8s8-mse-elementwise-qoperator-equalize-bias-round-8dynamic",
            rung="repair",
            why="channels of very different size are levelled",
            failure="the runtime does not load it: no kernel for QLinearPool",
        ),
    )


def story(**changes: object) -> Story:
    """Return a story with something in every part, changed."""
    fields: dict[str, Any] = {
        "name": "exercises",
        "device_class": "gateway-x86",
        "metric": "top1",
        "unit": "%",
        "seconds": 55.4,
        "reference_score": 0.903,
        "reference_bytes": FLOAT_BYTES,
        "tried": candidates(),
        "said": (
            Said(rung="floor", sentence="the safe floor", seconds=16.2),
            Said(rung="static", sentence="integers throughout", seconds=17.9),
            Said(rung="floor", sentence="ended: tried", seconds=0),
            Said(rung="repair", sentence="ended: the budget is met", seconds=0),
            Said(rung="train", sentence="ended: the budget is met", seconds=0),
        ),
        "allowed": Allowed(
            drop_points=1,
            agreement=None,
            size_ratio=0.6,
            latency_ratio=1,
            latency_ms=50,
            memory_mb=384,
        ),
        "sensitivity": tuple(
            SensitiveNode(
                name=f"/blocks.{n}/conv/Conv",
                operator="Conv",
                sqnr_db=4.0 + n,
                bytes=1000 * n,
                treatment="weights" if n < 4 else "static",
            )
            for n in range(40)
        ),
        "histograms": (
            Histogram(
                tensor="/blocks.1/act/Mul_output_0",
                edges=tuple(float(n) for n in range(-4, 61)),
                counts=tuple(max(1, 10_000 // (1 + n * n)) for n in range(-4, 60)),
                taken=(-3.5, 22.0),
                sqnr_db=5.2,
            ),
        ),
        "float_time": (
            TimeShare(operator="FusedConv", count=14, share=0.8, integer=False),
            TimeShare(operator="Softmax", count=1, share=0.2, integer=False),
        ),
        "variant_time": (
            TimeShare(operator="QLinearConv", count=14, share=0.7, integer=True),
            TimeShare(operator="QuantizeLinear", count=5, share=0.1, integer=False),
            TimeShare(operator="Softmax", count=1, share=0.2, integer=False),
        ),
        "training": tuple(
            TrainingPoint(step=100 * n, loss=1 / (1 + n), agreement=0.8 + 0.02 * n)
            for n in range(8)
        ),
    }
    return Story(**(fields | changes))
