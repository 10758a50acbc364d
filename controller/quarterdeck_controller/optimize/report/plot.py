"""Axes and marks of a small plot, as inline SVG that a stylesheet colours. Pure.

Sizes are units of a view 420 wide, so that words stay readable on a phone.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import asinh, floor, isfinite, log10

from quarterdeck_controller.optimize.report.markup import Markup, element, together

WIDTH, HEIGHT = 420.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 14.0, 40.0
LETTER = 6.2
"""About the width of a letter of a label."""
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)

Bend = Callable[[float], float]


def straight(value: float) -> float:
    """Return ``value``: the axis of a linear plot."""
    return value


def bent_at(scale: float) -> Bend:
    """Return an axis that is linear up to about ``scale`` and logarithmic past it."""
    return lambda value: asinh(value / scale)


def logarithmic(value: float) -> float:
    """Return the axis of ratios: half and double are as far from one."""
    return log10(max(value, 1e-3))


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction of a plot.

    Attributes:
        ticks: Where it is labelled.
        bend: From a value to where it lies, up to scale and place.
    """

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    bend: Bend = straight

    def at(self, value: float) -> float:
        """Return where ``value`` lies: 0 is the axis's low end and 1 its high end."""
        start, end = self.bend(self.low), self.bend(self.high)
        place = (self.bend(value) - start) / ((end - start) or 1.0)
        return min(1.02, max(-0.02, place)) if isfinite(place) else 1.02


@dataclass(frozen=True, slots=True)
class Plot:
    """A pair of axes."""

    x: Axis
    y: Axis
    height: float = HEIGHT

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point lies in the view."""
        across = LEFT + self.x.at(x) * (WIDTH - LEFT - RIGHT)
        down = TOP + (1 - self.y.at(y)) * (self.height - TOP - BOTTOM)
        return across, down

    def draw(self, title: str, summary: str, marks: Iterable[Markup]) -> Markup:
        """Return the plot with its axes; ``summary`` is read to who cannot see it."""
        return element(
            "svg",
            element("title", title),
            element("desc", summary),
            self._grid(),
            together(marks),
            viewBox=f"0 0 {WIDTH:g} {self.height:g}",
            role="img",
            class_="plot",
        )

    def upright(self, x: float, told: str, *, at_top: bool = True) -> Markup:
        """Return a limit on the horizontal axis, with its name."""
        across, _ = self.at(x, self.y.low)
        low, high = self.height - BOTTOM, TOP
        right = across > WIDTH / 2
        return element(
            "g",
            line(across, low, across, high, "limit"),
            words(
                across + (-4 if right else 4),
                (high + 9) if at_top else low - 5,
                told,
                "limit-name",
                anchor="end" if right else "start",
            ),
        )

    def level(self, y: float, told: str) -> Markup:
        """Return a limit on the vertical axis, with its name."""
        _, down = self.at(self.x.low, y)
        return element(
            "g",
            line(LEFT, down, WIDTH - RIGHT, down, "limit"),
            words(LEFT + 4, down - 4, told, "limit-name"),
        )

    def _grid(self) -> Markup:
        bottom, right = self.height - BOTTOM, WIDTH - RIGHT
        parts: list[Markup] = []
        for tick in self.x.ticks:
            across, _ = self.at(tick, self.y.low)
            parts.append(line(across, TOP, across, bottom, "grid"))
            parts.append(
                words(across, bottom + 14, f"{tick:g}", "tick", anchor="middle")
            )
        for tick in self.y.ticks:
            _, down = self.at(self.x.low, tick)
            parts.append(line(LEFT, down, right, down, "grid"))
            parts.append(words(LEFT - 5, down + 4, f"{tick:g}", "tick", anchor="end"))
        parts.append(
            words(
                (LEFT + right) / 2,
                self.height - 6,
                self.x.label,
                "name",
                anchor="middle",
            )
        )
        turned = f"rotate(-90) translate({-(TOP + bottom) / 2:.2f} 11)"
        parts.append(
            words(0, 0, self.y.label, "name", anchor="middle", transform=turned)
        )
        return element("g", *parts, aria_hidden="true")


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """Return a line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def words(
    x: float,
    y: float,
    text: str,
    class_: str,
    *,
    anchor: str = "start",
    transform: str | None = None,
) -> Markup:
    """Return a label."""
    return element(
        "text",
        text,
        x=float(x),
        y=float(y),
        class_=class_,
        text_anchor=anchor,
        transform=transform,
    )


def path(points: Sequence[tuple[float, float]], class_: str) -> Markup:
    """Return a line through points of the view."""
    told = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return element("polyline", points=told, class_=class_)


def round_ticks(low: float, high: float, count: int = 5) -> tuple[float, ...]:
    """Return about ``count`` round values from ``low`` to ``high``."""
    if not isfinite(high - low) or high <= low:
        return (low,) if isfinite(low) else ()
    rough = (high - low) / count
    power = 10.0 ** floor(log10(rough))
    step = next(power * s for s in STEPS if power * s >= rough * 0.999)
    first = -floor(-low / step)
    number = floor((high - first * step) / step + 1e-9)
    return tuple(round((first + n) * step, 10) for n in range(max(number, 0) + 1))


def among(values: Sequence[float], low: float, high: float) -> tuple[float, ...]:
    """Return those of ``values`` between ``low`` and ``high``."""
    return tuple(value for value in values if low <= value <= high)
