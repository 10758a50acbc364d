"""Train the demo's float models. Needs PyTorch; the demo itself does not.

    python -m quarterdeck_controller.demo.training CACHE OUT

Three nets of one shape, 242 thousand parameters (convolution blocks with residuals and
squeeze-excite), on the smartwatch data. The blocks are plain convolutions: with
depthwise ones and swish the same task is learned as well, but int8 then runs slower
than float, and the gate of this very project would refuse it.

    exercises-1  trained on three people: a decent first version
    exercises-2  trained on six people: the better model
    exercises-3  trained on right arms only: a mistake that a look at right arms
                 only does not show
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from quarterdeck_controller.demo.dataset import LABELS, TRAIN, WINDOW, Windows, load

EPOCHS = 16


class _Block(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        wide = channels * 2
        self.expand = nn.Sequential(
            nn.Conv1d(channels, wide, 5, stride, 2, bias=False),
            nn.BatchNorm1d(wide),
            nn.ReLU(),
        )
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool1d(1),
            nn.Conv1d(wide, wide // 8, 1),
            nn.ReLU(),
            nn.Conv1d(wide // 8, wide, 1),
            nn.Sigmoid(),
        )
        self.project = nn.Sequential(
            nn.Conv1d(wide, out, 1, bias=False), nn.BatchNorm1d(out)
        )
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(x)
        y = self.project(y * self.squeeze(y))
        return x + y if self.residual else y


class Net(nn.Module):
    """[N, 6, 200] of raw sensor values in, [N, 7] of probabilities out."""

    def __init__(self) -> None:
        super().__init__()
        shape = [(32, 48, 2), (48, 64, 1), (64, 96, 2), (96, 96, 1)]
        self.layers = nn.Sequential(
            nn.BatchNorm1d(6),
            nn.Conv1d(6, 32, 5, 2, 2, bias=False),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            *(_Block(*sizes) for sizes in shape),
            nn.Conv1d(96, 160, 1, bias=False),
            nn.BatchNorm1d(160),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(160, len(LABELS)),
            nn.Softmax(1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the probability of each exercise."""
        return self.layers(x)


def train(windows: Windows, *, epochs: int, seed: int) -> Net:
    """Return a net trained on ``windows``."""
    torch.manual_seed(seed)
    net = Net()
    x, y = torch.from_numpy(windows.x), torch.from_numpy(windows.labels)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=0.05)
    batches = -(-len(y) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 6e-3, total_steps=epochs * batches
    )
    for _ in range(epochs):
        for picked in torch.randperm(len(y)).split(64):
            seen = x[picked] * (1 + 0.2 * torch.randn(len(picked), 6, 1))
            seen = seen + 0.1 * torch.randn_like(seen)
            logs = torch.log(net(seen) + 1e-9)
            loss = nn.functional.nll_loss(logs, y[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def export(net: Net, path: Path) -> None:
    """Write ``net`` as ONNX with a free batch size."""
    torch.onnx.export(
        net,
        (torch.zeros(1, 6, WINDOW),),
        str(path),
        input_names=["motion"],
        output_names=["scores"],
        dynamic_axes={"motion": {0: "batch"}, "scores": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )


def accuracy(net: Net, windows: Windows) -> float:
    """Return the share of windows that ``net`` names right."""
    with torch.no_grad():
        return float(
            (
                net(torch.from_numpy(windows.x)).argmax(1).numpy() == windows.labels
            ).mean()
        )


def main(cache: Path, out: Path) -> None:
    """Train and export the three models."""
    torch.set_num_threads(1)
    windows = load(cache)
    six = windows.of(TRAIN)
    sets = {
        "exercises-1": windows.of(TRAIN[:3]),
        "exercises-2": six,
        "exercises-3": six.where(np.flatnonzero(six.right)),
    }
    for name, training in sets.items():
        net = train(training, epochs=EPOCHS, seed=1)
        export(net, out / f"{name}.onnx")
        for what, part in {"held out": (7, 8), "field": (9, 10)}.items():
            held = windows.of(part)
            right = held.where(np.flatnonzero(held.right))
            sys.stdout.write(
                f"{name} {what}: {accuracy(net, held):.3f}, "
                f"right arms {accuracy(net, right):.3f}, n={len(held)}\n"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
