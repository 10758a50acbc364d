"""Run a model of doubtful origin once on its golden vectors. Runs in a child.

Nothing leaves the child but a few numbers, so that no output, however large, reaches
whoever asked. The child takes tighter limits on than other steps: it reads what the
runtime needs before the model is opened, and writes nothing but its answer.
"""

import resource
from collections.abc import Iterator, Mapping
from math import isfinite

import numpy as np
import onnxruntime as ort

from quarterdeck_controller.optimize import golden
from quarterdeck_controller.optimize.data.stored import Array
from quarterdeck_controller.optimize.session import infer, open_session
from quarterdeck_controller.optimize.steps import Replayed, ReplayRequest
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

MAX_WRITTEN_BYTES = 1 << 20
MAX_FILES = 64


def replay(request: ReplayRequest) -> Replayed:
    """Return how closely the model reproduces its golden vectors.

    Raises:
        RejectedError: ``MODEL_INVALID`` when the runtime cannot open or run it, or
            what it gives has another shape than what is expected; ``MALFORMED`` when
            the vectors are none.
    """
    inputs, output, expected = golden.decode(request.golden.read_bytes())
    model = request.model.read_bytes()
    _take_limits(request.seconds)
    before = _peak_mb()
    session = open_session(model, request.session.model_copy(update={"threads": 1}))
    got = [_scores(session, output, feed) for feed in _feeds(session, inputs)]
    grown = max(0.0, _peak_mb() - before)
    scores = _stacked(got, expected)
    scale = golden.device_scale(expected, request.thresholds)
    compared = golden.compare(expected, scores, scale)
    return Replayed(
        count=len(scores),
        finite=bool(np.isfinite(scores).all()),
        agreement=compared.agreement,
        error=compared.error if isfinite(compared.error) else None,
        reproduces=golden.reproduces(compared, request.thresholds),
        grown_mb=grown,
    )


def _take_limits(seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_WRITTEN_BYTES, MAX_WRITTEN_BYTES))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, MAX_FILES))


def _feeds(
    session: ort.InferenceSession, inputs: Mapping[str, Array]
) -> Iterator[dict[str, Array]]:
    ranks = {value.name: len(value.shape) for value in session.get_inputs()}
    count = len(next(iter(inputs.values())))
    for row in range(count):
        yield {
            name: _fed(array[row], ranks.get(name, array.ndim))
            for name, array in inputs.items()
        }


def _fed(sample: Array, rank: int) -> Array:
    """Return one sample as the model takes it: a batch of one, or whole."""
    return sample[np.newaxis] if sample.ndim == rank - 1 else sample


def _scores(
    session: ort.InferenceSession, output: str, feed: Mapping[str, Array]
) -> Array:
    (scores,) = infer(session, [output], feed)
    array = np.asarray(scores)
    if array.dtype.kind not in "fiub":
        raise _invalid(f"output {output} holds no numbers")
    return array.reshape(-1)


def _stacked(got: list[Array], expected: Array) -> Array:
    wanted = expected[0].size
    other = next((scores.size for scores in got if scores.size != wanted), None)
    if other is not None:
        raise _invalid(f"it gives {other} scores, the golden vectors expect {wanted}")
    return np.stack(got).reshape(expected.shape)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _invalid(why: str) -> RejectedError:
    return RejectedError(Code.MODEL_INVALID, why)
