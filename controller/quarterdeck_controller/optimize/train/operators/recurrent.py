"""LSTM, GRU and RNN, forward, backward and in both directions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from quarterdeck_controller.optimize.train.operators.call import (
    Call,
    Operator,
    UnsupportedError,
)

State = tuple[Tensor, ...]
"""What goes from one time step to the next; the hidden state first."""
Step = Callable[[Tensor, State], State]


@dataclass(frozen=True, slots=True)
class _Weights:
    """Of one direction. Biases of input and recurrence, ``[gates * hidden]`` each."""

    inward: Tensor
    recurrent: Tensor
    bias: Tensor
    recurrent_bias: Tensor
    hidden: int


def lstm(call: Call) -> tuple[Tensor, ...]:
    """LSTM without peepholes."""
    if call.optional(7) is not None:
        raise UnsupportedError("it has peepholes")
    if call.given.get("input_forget", 0):
        raise UnsupportedError("it couples input and forget gates")
    _expect(call, ("Sigmoid", "Tanh", "Tanh"))
    return _unroll(call, _lstm_step, 4, states=(5, 6))


def gru(call: Call) -> tuple[Tensor, ...]:
    """GRU, its reset gate before or after the multiplication."""
    _expect(call, ("Sigmoid", "Tanh"))
    after = bool(call.given.get("linear_before_reset", 0))
    return _unroll(call, _gru_after if after else _gru_before, 3, states=(5,))


def rnn(call: Call) -> tuple[Tensor, ...]:
    """RNN with tanh."""
    _expect(call, ("Tanh",))
    return _unroll(call, _rnn_step, 1, states=(5,))


def _expect(call: Call, functions: tuple[str, ...]) -> None:
    given = tuple(call.given.get("activations", functions))
    directions = 2 if call.given.get("direction") == "bidirectional" else 1
    if given not in (functions, functions * directions):
        raise UnsupportedError(f"its activations are {', '.join(given)}")
    if call.given.get("clip"):
        raise UnsupportedError("it clips")
    if call.given.get("layout", 0):
        raise UnsupportedError("its layout has the batch first")


def _lstm_step(weights: _Weights, inward: Tensor, state: State) -> State:
    hidden, cell = state
    gates = inward + functional.linear(
        hidden, weights.recurrent, weights.recurrent_bias
    )
    i, o, f, c = gates.chunk(4, -1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(c)
    return torch.sigmoid(o) * torch.tanh(cell), cell


def _gru_after(weights: _Weights, inward: Tensor, state: State) -> State:
    (hidden,) = state
    again = functional.linear(hidden, weights.recurrent, weights.recurrent_bias)
    z, r, n = inward.chunk(3, -1)
    again_z, again_r, again_n = again.chunk(3, -1)
    update, reset = torch.sigmoid(z + again_z), torch.sigmoid(r + again_r)
    new = torch.tanh(n + reset * again_n)
    return ((1 - update) * new + update * hidden,)


def _gru_before(weights: _Weights, inward: Tensor, state: State) -> State:
    (hidden,) = state
    split = 2 * weights.hidden
    gates = functional.linear(
        hidden, weights.recurrent[:split], weights.recurrent_bias[:split]
    )
    update, reset = torch.sigmoid(inward[..., :split] + gates).chunk(2, -1)
    again = functional.linear(
        reset * hidden, weights.recurrent[split:], weights.recurrent_bias[split:]
    )
    new = torch.tanh(inward[..., split:] + again)
    return ((1 - update) * new + update * hidden,)


def _rnn_step(weights: _Weights, inward: Tensor, state: State) -> State:
    (hidden,) = state
    again = functional.linear(hidden, weights.recurrent, weights.recurrent_bias)
    return (torch.tanh(inward + again),)


def _unroll(
    call: Call,
    step: Callable[[_Weights, Tensor, State], State],
    gates: int,
    *,
    states: tuple[int, ...],
) -> tuple[Tensor, ...]:
    """Return every hidden state ``[T, D, N, H]`` and the last ones ``[D, N, H]``."""
    x, hidden = call.tensor(0), call.tensor(2).shape[-1]
    _expect_full(call, x)
    direction = call.given.get("direction", "forward")
    backward = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
    sequences, ends = [], []
    for number, reverse in enumerate(backward[direction]):
        weights = _weights(call, number, gates, hidden)
        state = _start(call, number, states, (x.shape[1], hidden))
        outputs, state = _walk(step, weights, x.flip(0) if reverse else x, state)
        sequences.append(outputs.flip(0) if reverse else outputs)
        ends.append(state)
    last = [torch.stack(parts) for parts in zip(*ends, strict=True)]
    return (torch.stack(sequences, 1), *last)[: call.outputs]


def _walk(
    step: Callable[[_Weights, Tensor, State], State],
    weights: _Weights,
    x: Tensor,
    state: State,
) -> tuple[Tensor, State]:
    inward, outputs = functional.linear(x, weights.inward, weights.bias), []
    for moment in inward:
        state = step(weights, moment, state)
        outputs.append(state[0])
    return torch.stack(outputs), state


def _weights(call: Call, number: int, gates: int, hidden: int) -> _Weights:
    inward, recurrent = call.tensor(1)[number], call.tensor(2)[number]
    bias = call.optional(3)
    size = gates * hidden
    both = inward.new_zeros(2 * size) if bias is None else bias[number]
    return _Weights(inward, recurrent, both[:size], both[size:], hidden)


def _start(
    call: Call, number: int, states: tuple[int, ...], shape: tuple[int, int]
) -> State:
    given = [call.optional(index) for index in states]
    nothing = call.tensor(0).new_zeros(shape)
    return tuple(nothing if state is None else state[number] for state in given)


def _expect_full(call: Call, x: Tensor) -> None:
    lengths = call.numbers(4)
    if lengths and any(length != x.shape[0] for length in lengths):
        raise UnsupportedError("its sequences are shorter than their tensor")


RECURRENT: Mapping[str, Operator] = MappingProxyType(
    {"GRU": gru, "LSTM": lstm, "RNN": rnn}
)
