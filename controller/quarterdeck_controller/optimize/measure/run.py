"""Run a model on stored samples and store every output. Runs in a child.

Outputs are streamed to disk, so memory is flat in the number of samples. An output
whose first dimension is not the batch (a sum over it, a list of what was detected) is
stored whole for each sample; that needs samples to be run one at a time. Outputs that
are no tensors of numbers are left out. Numbers that are not finite are stored as any
others: whoever judges them sees what a device would.
"""

import shutil

import numpy as np

from quarterdeck_controller.optimize.data.stored import Feed, Stored, Writer
from quarterdeck_controller.optimize.session import (
    infer,
    open_session,
    tensor_outputs,
)
from quarterdeck_controller.optimize.steps import Ran, RunRequest
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError


class _WholeError(Exception):
    """An output that was taken for samples first is not."""


def run(request: RunRequest) -> Ran:
    """Write every output for the chosen samples into ``request.out``.

    Raises:
        RejectedError: ``MODEL_INVALID`` when the runtime cannot open or run the model,
            when it has no output that can be judged, or when one does not have as many
            entries as samples were run at once.
    """
    session = open_session(request.model, request.session)
    names = tensor_outputs(session)
    if not names:
        raise RejectedError(
            Code.MODEL_INVALID, "none of its outputs is a tensor of numbers"
        )
    stored, whole = Stored.open(request.samples), set[str]()
    single = request.batch == 1 or not stored.uniform
    while True:
        try:
            with Writer(request.out) as writer:
                for feed in stored.batches(request.batch, request.rows):
                    outputs = infer(session, names, feed)
                    arrays = dict(zip(names, map(np.asarray, outputs), strict=True))
                    count = 1 if single else len(next(iter(feed.values())))
                    writer.add(_samples_first(arrays, count, whole))
            return Ran(count=Stored.open(request.out).count)
        except _WholeError as error:  # seen late: begin again, the same for all
            whole.add(str(error))
            shutil.rmtree(request.out)


def _samples_first(arrays: Feed, count: int, whole: set[str]) -> Feed:
    for name, array in arrays.items():
        if name in whole or (array.ndim and len(array) == count):
            continue
        if count > 1:
            raise RejectedError(
                Code.MODEL_INVALID,
                f"output {name} has the shape {list(array.shape)} for {count} samples "
                "at once: its first dimension is not the batch",
            )
        raise _WholeError(name)
    return {n: array[None] if n in whole else array for n, array in arrays.items()}
