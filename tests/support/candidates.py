"""Candidates with figures made up for a test."""

from typing import Any

from quarterdeck_controller.optimize.evaluation import Kernels, Latency
from quarterdeck_controller.optimize.profile import Profile, load_profile
from quarterdeck_controller.optimize.recipe import Recipe
from quarterdeck_controller.optimize.search.candidate import Candidate, Figures


def profile(**changes: object) -> Profile:
    """Return the gateway's profile, changed."""
    return load_profile("gateway-x86-vnni").model_copy(update=changes)


def figures(*, ratio: float = 0.5, size: float = 0.3, **changes: object) -> Figures:
    """Return figures within any budget, changed."""
    fields: dict[str, Any] = {
        "metric": "top1",
        "unit": "%",
        "labelled": True,
        "samples": 1000,
        "score": 0.9,
        "reference_score": 0.9,
        "drop_points": 0.0,
        "agreement": 0.99,
        "bytes": round(1000 * size),
        "reference_bytes": 1000,
        "latency": Latency(p50_ms=ratio, p90_ms=ratio, p99_ms=ratio, cpu_ms=ratio),
        "reference_latency": Latency(p50_ms=1, p90_ms=1, p99_ms=1, cpu_ms=1),
        "latency_ratio": ratio,
        "latency_known": "measured",
        "peak_memory_mb": 80.0,
        "reference_peak_memory_mb": 80.0,
        "load_ms": 20.0,
        "golden_agreement": 1.0,
        "golden_clear": 100,
        "golden_error": 0.02,
        "kernels": Kernels(integer=9, heavy_float=0, conversions=2, conversion_share=0),
        "treated": (),
    }
    return Figures(**(fields | changes))


def candidate(
    recipe: Recipe, *, ratio: float = 0.5, size: float = 0.3, **changes: object
) -> Candidate:
    """Return a candidate with such figures."""
    found = figures(ratio=ratio, size=size, **changes)
    return Candidate(recipe, "static", "a test wants it", found)


def failed(recipe: Recipe, why: str) -> Candidate:
    """Return a candidate that could not be made."""
    return Candidate(recipe, "static", "a test wants it", None, why)
