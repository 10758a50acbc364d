"""The demo's model, as the benchmarks install it: samples and golden vectors."""

import io

import numpy as np

from quarterdeck_controller.demo.material import float_model
from quarterdeck_controller.optimize.data.samples import Array
from quarterdeck_controller.optimize.session import open_session
from tests.support.installed import npz

INPUT, SHAPE = "motion", (1, 6, 200)
VECTORS = 8


def model_bytes(version: int) -> bytes:
    """Return the float model of that version."""
    return float_model(version).read_bytes()


def sample() -> Array:
    """Return one sample, the same each time."""
    return np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)


def payload() -> bytes:
    """Return the sample as a request carries it: the bytes of a ``.npy`` file."""
    out = io.BytesIO()
    np.save(out, sample())
    return out.getvalue()


def golden_vectors(model: bytes) -> bytes:
    """Return golden vectors that ``model`` reproduces."""
    x = np.random.default_rng(2).normal(size=(VECTORS, *SHAPE[1:])).astype(np.float32)
    session = open_session(model)
    name = session.get_outputs()[0].name
    scores = [session.run([name], {INPUT: x[n : n + 1]})[0] for n in range(VECTORS)]
    return npz({f"input:{INPUT}": x, f"expected:{name}": np.concatenate(scores)})
