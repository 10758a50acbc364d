"""Operators that fold one or more dimensions."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from quarterdeck_controller.optimize.train.operators.call import Call, Operator

Fold = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def reducing(fold: Fold) -> Operator:
    """Return the operator that folds the axes it is given, or all of them."""

    def reduce(call: Call) -> Tensor:
        x, axes = call.tensor(0), call.numbers(1, "axes")
        if not axes and call.given.get("noop_with_empty_axes", 0):
            return x
        return fold(
            x, tuple(axes or range(x.dim())), bool(call.given.get("keepdims", 1))
        )

    return reduce


def _product(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def arg_max(call: Call) -> Tensor:
    """ArgMax; of equals the first, unless the last is asked for."""
    return _arg(call, torch.argmax)


def arg_min(call: Call) -> Tensor:
    """ArgMin; of equals the first, unless the last is asked for."""
    return _arg(call, torch.argmin)


def _arg(call: Call, find: Callable[..., Tensor]) -> Tensor:
    x, axis = call.tensor(0), call.given.get("axis", 0)
    keep = bool(call.given.get("keepdims", 1))
    if not call.given.get("select_last_index", 0):
        return find(x, dim=axis, keepdim=keep)
    return x.shape[axis] - 1 - find(x.flip(axis), dim=axis, keepdim=keep)


def top_k(call: Call) -> tuple[Tensor, ...]:
    """TopK."""
    values, at = torch.topk(
        call.tensor(0),
        int(call.tensor(1)),
        dim=call.given.get("axis", -1),
        largest=bool(call.given.get("largest", 1)),
        sorted=bool(call.given.get("sorted", 1)),
    )
    return values, at


def cumulate(call: Call) -> Tensor:
    """CumSum, from either end, with or without the element itself."""
    x, axis = call.tensor(0), int(call.tensor(1))
    x = x.flip(axis) if call.given.get("reverse", 0) else x
    total = torch.cumsum(x, axis, dtype=x.dtype)
    total = total - x if call.given.get("exclusive", 0) else total
    return total.flip(axis) if call.given.get("reverse", 0) else total


REDUCTION: Mapping[str, Operator] = MappingProxyType(
    {
        "ArgMax": arg_max,
        "ArgMin": arg_min,
        "CumSum": cumulate,
        "ReduceL1": reducing(lambda x, axes, keep: x.abs().sum(axes, keep)),
        "ReduceL2": reducing(lambda x, axes, keep: x.square().sum(axes, keep).sqrt()),
        "ReduceLogSum": reducing(lambda x, axes, keep: x.sum(axes, keep).log()),
        "ReduceLogSumExp": reducing(lambda x, axes, keep: x.logsumexp(axes, keep)),
        "ReduceMax": reducing(lambda x, axes, keep: x.amax(axes, keep)),
        "ReduceMean": reducing(lambda x, axes, keep: x.mean(axes, keep)),
        "ReduceMin": reducing(lambda x, axes, keep: x.amin(axes, keep)),
        "ReduceProd": reducing(_product),
        "ReduceSum": reducing(lambda x, axes, keep: x.sum(axes, keep)),
        "ReduceSumSquare": reducing(lambda x, axes, keep: x.square().sum(axes, keep)),
        "TopK": top_k,
    }
)
