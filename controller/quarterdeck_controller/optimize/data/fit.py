"""Whether samples fit the model's inputs, by name, type, shape and value. Pure."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from quarterdeck_controller.optimize.data.batch import invalid
from quarterdeck_controller.optimize.data.samples import (
    GROUPS,
    INPUT_PREFIX,
    LABELS,
    Array,
)
from quarterdeck_controller.optimize.intake.shapes import MisfitError, Way, how_fed
from quarterdeck_controller.optimize.steps import Tensor


def match_names(
    where: str, brought: Iterable[str], tensors: Sequence[Tensor]
) -> dict[str, str]:
    """Return which of the arrays ``brought`` is for which of the model's inputs.

    Raises:
        RejectedError: ``DATA_INVALID`` when there is none for an input.
    """
    arrays = sorted(name for name in brought if name not in {LABELS, GROUPS})
    names = [tensor.name for tensor in tensors]
    if len(names) == 1 and len(arrays) == 1:
        return {names[0]: arrays[0]}
    known = {name.removeprefix(INPUT_PREFIX): name for name in arrays}
    missing = [name for name in names if name not in known]
    if missing:
        raise invalid(
            f"{where}: no array for input {', '.join(missing)}; the model takes "
            f"{', '.join(names)}, the data has {', '.join(arrays) or 'none'}"
            + _about_reserved(missing)
        )
    return {name: known[name] for name in names}


def left_out(names: Mapping[str, str], brought: Iterable[str]) -> tuple[str, ...]:
    """Return a note about arrays that are for none of the model's inputs."""
    unused = sorted(set(brought) - set(names.values()) - {LABELS, GROUPS})
    if not unused:
        return ()
    return (f"not used, as no input of the model is called so: {', '.join(unused)}",)


def check_array(
    where: str, tensor: Tensor, dtype: "np.dtype[np.generic]", shape: tuple[int, ...]
) -> Way:
    """Return how an array of this type and shape, samples first, is fed.

    Raises:
        RejectedError: ``DATA_INVALID`` when the model does not take it.
    """
    if dtype != _numpy_type(where, tensor):
        raise invalid(
            f"{where}: {tensor.name} is {dtype}, the model takes {tensor.dtype}; "
            f"save it with .astype('{tensor.dtype}')"
        )
    try:
        return how_fed(tensor, shape)
    except MisfitError as error:
        raise invalid(f"{where}: {error}") from error


def check_values(where: str, name: str, array: Array, first: int) -> None:
    """Refuse numbers that are none.

    Args:
        where: Of which data.
        name: Of which input.
        array: Samples first.
        first: The number of its first sample in the data.

    Raises:
        RejectedError: ``DATA_INVALID`` when there is NaN or infinity.
    """
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    bad = first + int(np.argwhere(~np.isfinite(array))[0][0])
    raise invalid(f"{where}: {name} holds NaN or infinity in sample {bad}")


def check_counts(where: str, counts: Mapping[str, int]) -> int:
    """Return how many samples every one of the inputs has.

    Raises:
        RejectedError: ``DATA_INVALID`` when they differ, or there are none.
    """
    if len(set(counts.values())) > 1:
        raise invalid(
            f"{where}: the inputs have different sample counts: {dict(counts)}"
        )
    count = next(iter(counts.values()))
    if count == 0:
        raise invalid(f"{where} holds no samples")
    return count


def check_beside(where: str, what: str, shape: tuple[int, ...], count: int) -> None:
    """Refuse labels or groups that are not one for each sample.

    Raises:
        RejectedError: ``DATA_INVALID`` with both counts.
    """
    if not shape or shape[0] != count:
        raise invalid(
            f"{where}: {what} have shape {list(shape)}, there are {count} samples; "
            f"bring shape [{count}{', ...' if what == LABELS else ''}]"
        )


def _numpy_type(where: str, tensor: Tensor) -> "np.dtype[np.generic]":
    try:
        dtype = np.dtype(tensor.dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "biuf":
        raise invalid(
            f"{where}: {tensor.name} takes {tensor.dtype}, which arrays cannot hold"
        )
    return dtype


def _about_reserved(missing: Sequence[str]) -> str:
    reserved = [name for name in missing if name in {LABELS, GROUPS}]
    if not reserved:
        return ""
    return f"; call that array {INPUT_PREFIX}{reserved[0]}"
