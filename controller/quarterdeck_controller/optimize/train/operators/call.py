"""One node with its inputs at hand: what an operator's function is given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


class UnsupportedError(Exception):
    """The operator is used in a way that training does not know; says which."""


@dataclass(frozen=True, slots=True)
class Call:
    """A node.

    Attributes:
        inputs: As the node lists them; None is an input that it leaves out.
        given: Its attributes as Python values; tensors are PyTorch's.
        outputs: How many it gives.
        opset: Version of the standard operators.
    """

    inputs: tuple[Tensor | None, ...]
    given: Mapping[str, Any]
    outputs: int
    opset: int

    def tensor(self, index: int) -> Tensor:
        """Return an input that the operator cannot do without."""
        found = self.optional(index)
        if found is None:
            raise UnsupportedError(f"its input {index} is missing")
        return found

    def optional(self, index: int) -> Tensor | None:
        """Return an input, None when the node leaves it out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def whole(self, index: int) -> int | None:
        """Return an input that is one whole number, None when it is left out."""
        found = self.optional(index)
        return None if found is None else int(found)

    def numbers(self, index: int, attribute: str = "") -> list[int] | None:
        """Return whole numbers from an input, or from the attribute of old versions."""
        found = self.optional(index)
        if found is not None:
            return [int(number) for number in found.reshape(-1).tolist()]
        given = self.given.get(attribute)
        return None if given is None else [int(number) for number in given]


Operator = Callable[[Call], Tensor | tuple[Tensor, ...]]
"""What carries out a node: gives its output, or all of them."""
