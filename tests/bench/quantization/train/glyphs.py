"""Train a small MobileNetV2 on glyphs, [N, 3, 32, 32] to [N, 56].

With ``spread`` above 1 its bottlenecks are rescaled afterwards: each channel by a
random factor of at most ``spread`` either way, undone in what consumes it. The function
stays the same, the ranges of the channels do not, which is what ails int8 MobileNets
(Nagel et al., "Data-Free Quantization", arXiv:1906.04721).
"""

# mypy: disable-error-code="misc,no-any-return"
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.bench.quantization.train.mobilenet import Inverted, normal

CLASSES, EPOCHS, BATCH, RATE = 56, 6, 64, 4e-3
SHAPE = ((16, 1, 1), (24, 2, 4), (24, 1, 4), (40, 2, 4), (40, 1, 4), (64, 2, 4))
LAST = ((64, 1, 4), (96, 1, 4))


class Net(nn.Module):
    """Eight inverted residuals."""

    def __init__(self) -> None:
        super().__init__()
        channels, self.blocks = 16, nn.ModuleList()
        self.stem = normal(3, 16, 3)
        for out, stride, widen in (*SHAPE, *LAST):
            self.blocks.append(Inverted(channels, out, stride, widen))
            channels = out
        self.top = normal(channels, 192, 1)
        self.head = nn.Linear(192, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return a score for each class."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.top(x).mean((2, 3)))


def train(x: Tensor, labels: Tensor) -> Net:
    """Return a net trained on pictures of bytes."""
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.02)
    batches = -(-len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=EPOCHS * batches
    )
    for _ in range(EPOCHS):
        for picked in torch.randperm(len(labels)).split(BATCH):
            loss = functional.cross_entropy(net(x[picked]), labels[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def unbalance(net: Net, spread: float) -> None:
    """Rescale the channels between blocks, function unchanged."""
    rng = np.random.default_rng(0)
    blocks = list(net.blocks)
    for group in _bottlenecks(blocks):
        channels = group[0].conv[-1].num_features
        factors = torch.from_numpy(
            np.exp(rng.uniform(-np.log(spread), np.log(spread), channels))
        ).float()
        after = blocks.index(group[-1]) + 1
        consumers = [one.conv[0][0] for one in [*group[1:], *blocks[after : after + 1]]]
        if after == len(blocks):
            consumers.append(net.top[0])
        with torch.no_grad():
            for block in group:
                block.conv[-1].weight.mul_(factors)
                block.conv[-1].bias.mul_(factors)
            for conv in consumers:
                conv.weight.div_(factors.view(1, -1, 1, 1))


def _bottlenecks(blocks: list[Inverted]) -> list[list[Inverted]]:
    """Return the blocks that add to the same tensor; not the first, which is narrow."""
    groups: list[list[Inverted]] = []
    for block in blocks[1:]:
        if block.residual:
            groups[-1].append(block)
        else:
            groups.append([block])
    return groups


def main(data: Path, out: Path) -> None:
    """Train, unbalance and export."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    with np.load(data, allow_pickle=False) as arrays:
        x, labels = (torch.from_numpy(arrays[name]) for name in ("x", "labels"))
        spread = float(arrays["spread"])
    net = train(x, labels)
    if spread > 1:
        with torch.no_grad():
            before = net(x[:64])
            unbalance(net, spread)
            torch.testing.assert_close(net(x[:64]), before, rtol=1e-3, atol=1e-3)
    torch.onnx.export(
        net,
        (x[:2],),
        str(out),
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
        opset_version=17,
        dynamo=False,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
