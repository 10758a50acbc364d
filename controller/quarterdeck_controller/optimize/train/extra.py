"""PyTorch is an optional extra: say so where it is missing."""

from importlib.util import find_spec

from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

INSTALL = 'pip install "quarterdeck-controller[qat]"'


def require_torch(what: str) -> None:
    """Return if PyTorch is installed.

    Args:
        what: What needs it, to begin a sentence with.

    Raises:
        RejectedError: ``MODEL_INVALID`` saying how to install it.
    """
    if find_spec("torch") is None:
        raise RejectedError(
            Code.MODEL_INVALID,
            f"{what} needs PyTorch, which is not installed: {INSTALL}",
        )
