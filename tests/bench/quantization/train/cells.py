"""MobileNetV2 of ImageNet with a linear head for solar cells, [N, 3, 160, 160] to 2.

The network is torchvision's (its checkpoint is loaded strictly); the head is logistic
regression on its features, fitted here.
"""

# mypy: disable-error-code="misc,no-any-return"
import io
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.bench.quantization.train.mobilenet import Inverted, normal

STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Widening, channels, blocks and first stride of each stage."""
FEATURES, CLASSES = 1280, 2
DECAY, LEAST_SPREAD = 0.03, 0.05
"""Chosen on a quarter of the training data, held out for that."""
BATCH = 32


class MobileNet(nn.Module):
    """Named as torchvision names its parts, so that its checkpoint fits."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [normal(3, 32, 3, 2)]
        channels = 32
        for widen, out, blocks, stride in STAGES:
            for number in range(blocks):
                step = stride if number == 0 else 1
                layers.append(Inverted(channels, out, step, widen))
                channels = out
        layers.append(normal(channels, FEATURES, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(FEATURES, 1000))

    def forward(self, x: Tensor) -> Tensor:
        """Return a score for each class."""
        return self.classifier(self.features(x).mean((2, 3)))


def fit(net: MobileNet, x: Tensor, labels: Tensor) -> None:
    """Replace the classifier by a head fitted to the labels."""
    with torch.no_grad():
        parts = [net.features(part).mean((2, 3)) for part in x.split(BATCH)]
    seen = torch.cat(parts)
    mean, spread = seen.mean(0), seen.std(0) + LEAST_SPREAD
    head = nn.Linear(FEATURES, CLASSES)
    scaled = (seen - mean) / spread
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200)

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = functional.cross_entropy(head(scaled), labels)
        found = found + DECAY * head.weight.square().sum()
        found.backward()
        return found

    optimizer.step(loss)
    with torch.no_grad():
        head.weight.div_(spread)
        head.bias.sub_(head.weight @ mean)
    net.classifier = nn.Sequential(head)


def main(data: Path, out: Path) -> None:
    """Load, fit and export."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    net = MobileNet().eval()
    with np.load(data, allow_pickle=False) as arrays:
        x, labels = (torch.from_numpy(arrays[name]) for name in ("x", "labels"))
        checkpoint = io.BytesIO(arrays["checkpoint"].tobytes())
    net.load_state_dict(torch.load(checkpoint, weights_only=True), strict=True)
    fit(net, x, labels)
    torch.onnx.export(
        net.eval(),
        (x[:2],),
        str(out),
        input_names=["image"],
        output_names=["scores"],
        dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
