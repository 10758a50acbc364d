"""Find out whether samples can be run together with the same outputs."""

import numpy as np

from quarterdeck_controller.optimize.data.stored import Stored
from quarterdeck_controller.optimize.intake.equal import Outputs, furthest
from quarterdeck_controller.optimize.intake.graph import walk
from quarterdeck_controller.optimize.intake.kinds import CONTROL
from quarterdeck_controller.optimize.intake.work import EQUAL, Work
from quarterdeck_controller.optimize.session import Feed
from quarterdeck_shared.errors import RejectedError

BATCH = 64
BATCH_BYTES = 16 << 20
"""Inputs of samples that are run together take no more, for the activations' sake."""


def batch_of(work: Work, samples: Stored) -> int:
    """Return how many samples may be run at once; 1 when only one by one is safe."""
    if len(work.feeds) == 1 or not samples.uniform:
        return 1
    if any(node.op_type in CONTROL for node in walk(work.model.graph)):
        return 1  # one sample's branch would be every sample's
    together = {
        name: np.concatenate([feed[name] for feed in work.feeds])
        for name in work.feeds[0]
    }
    try:
        got = work.run(work.model, [together])[0]
    except RejectedError:
        return 1
    if not _is_same(work.expected, got):
        return 1
    size = sum(array.nbytes for array in work.feeds[0].values())
    return max(1, min(BATCH, BATCH_BYTES // max(size, 1)))


def _is_same(expected: Outputs, together: Feed) -> bool:
    for name, array in together.items():
        singles = [outputs[name] for outputs in expected]
        if len({one.shape for one in singles}) > 1 or singles[0].shape[:1] != (1,):
            return False
        if furthest([{name: np.concatenate(singles)}], [{name: array}]) > EQUAL:
            return False
    return True
