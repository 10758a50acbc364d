"""Which dimension counts samples."""

import pytest

from quarterdeck_controller.optimize.intake.shapes import MisfitError, how_fed
from quarterdeck_controller.optimize.steps import Tensor


def tensor(*shape: int | None) -> Tensor:
    return Tensor(name="x", dtype="float32", shape=shape)


@pytest.mark.parametrize(
    ("wanted", "array", "way"),
    [
        (tensor(None, 8), (5, 8), "batch"),
        (tensor(1, 8), (5, 8), "batch"),
        (tensor(None), (5,), "batch"),
        (tensor(1, None, None), (5, 3, 4), "batch"),
        (tensor(), (5,), "whole"),
        (tensor(2, None, 128), (5, 2, 1, 128), "whole"),
        (tensor(2, 1, 128), (2, 2, 1, 128), "whole"),
        (tensor(None, 8), (5, 3, 8), "whole"),
        (tensor(3, None, None), (5, 3, 10, 12), "whole"),
    ],
)
def test_the_ranks_tell_rows_from_whole_tensors(
    wanted: Tensor, array: tuple[int, ...], way: str
) -> None:
    assert how_fed(wanted, array) == way


@pytest.mark.parametrize(
    ("wanted", "array", "told"),
    [
        (tensor(None, 8), (5, 9), "takes [N, 8] with the N samples first"),
        (tensor(None, 8), (5,), "takes [N, 8]"),
        (tensor(), (5, 1), "takes [N], one number a sample"),
        (tensor(), (), "takes [N], one number a sample"),
        (tensor(2, None, 128), (2, 5, 128), "fixed to 2 and counts no samples"),
        (tensor(2, None, 128), (5, 3, 1, 128), "takes [N, 2, any, 128]"),
        (tensor(1, 8), (5, 2, 8), "takes [N, 8]"),
    ],
)
def test_what_fits_in_neither_way_is_refused_with_what_would(
    wanted: Tensor, array: tuple[int, ...], told: str
) -> None:
    with pytest.raises(MisfitError) as refused:
        how_fed(wanted, array)

    assert told in str(refused.value)
