"""How stored samples become what a model's input takes. Pure.

A model's first dimension counts samples, as a rule. Not so for a number of no dimension
(a sampling rate), for a state whose first dimension counts layers, and for a graph that
was exported without a batch: there every sample is one complete tensor of the input,
and samples cannot be run together. Which of the two it is follows from the ranks alone:
samples come first in the data, so one dimension more than the input has says that each
sample is a whole one.
"""

from typing import Literal

from quarterdeck_controller.optimize.steps import Tensor

Way = Literal["batch", "whole"]
"""``batch``: samples are rows of the input's first dimension. ``whole``: each sample is
one complete tensor of the input."""


class MisfitError(ValueError):
    """Data does not fit an input; the message says what the input takes."""


def how_fed(tensor: Tensor, array_shape: tuple[int, ...]) -> Way:
    """Return how an array of samples is fed to the model's input ``tensor``.

    Args:
        tensor: The input.
        array_shape: Shape of all samples together, samples first.

    Raises:
        MisfitError: The array fits in neither way.
    """
    sample = array_shape[1:]
    if is_whole(len(tensor.shape), len(array_shape)):
        if _fits(tensor.shape, sample):
            return "whole"
    elif takes_batches(tensor) and _fits(tensor.shape[1:], sample):
        return "batch"
    raise MisfitError(
        f"{tensor.name} has shape {list(array_shape)}, the model takes "
        f"{wanted_shape(tensor)}"
    )


def is_whole(input_rank: int, array_rank: int) -> bool:
    """Return whether samples of ``array_rank``, samples first, are whole tensors."""
    return array_rank == input_rank + 1


def takes_batches(tensor: Tensor) -> bool:
    """Return whether the input's first dimension may count samples."""
    return bool(tensor.shape) and tensor.shape[0] in (None, 1)


def wanted_shape(tensor: Tensor) -> str:
    """Return in words what shape an array of samples must have for ``tensor``."""
    if not tensor.shape:
        return "[N], one number a sample"
    if takes_batches(tensor):
        return f"{_show(('N', *tensor.shape[1:]))} with the N samples first"
    return (
        f"{_show(('N', *tensor.shape))} with the N samples first: its own first "
        f"dimension is fixed to {tensor.shape[0]} and counts no samples"
    )


def _fits(wanted: tuple[int | None, ...], got: tuple[int, ...]) -> bool:
    return len(wanted) == len(got) and all(
        want is None or want == have for want, have in zip(wanted, got, strict=True)
    )


def _show(shape: tuple[int | str | None, ...]) -> str:
    return "[" + ", ".join("any" if d is None else str(d) for d in shape) + "]"
