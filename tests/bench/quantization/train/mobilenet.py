"""MobileNetV2: inverted residuals (Sandler et al., arXiv:1801.04381)."""

# mypy: disable-error-code="misc,no-any-return"
from torch import Tensor, nn


def normal(
    channels: int, out: int, size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return a convolution with normalization and ReLU6."""
    return nn.Sequential(
        nn.Conv2d(channels, out, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU6(inplace=True),
    )


class Inverted(nn.Module):
    """Widen, convolve each channel, narrow; add the input where the shape allows."""

    def __init__(self, channels: int, out: int, stride: int, widen: int) -> None:
        super().__init__()
        wide = channels * widen
        first = [normal(channels, wide, 1)] if widen > 1 else []
        self.conv = nn.Sequential(
            *first,
            normal(wide, wide, 3, stride, wide),
            nn.Conv2d(wide, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """Return [N, out, H / stride, W / stride]."""
        return x + self.conv(x) if self.residual else self.conv(x)
