"""The candidates as points: accuracy against latency, and against size. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

from quarterdeck_controller.optimize.report import plot, wording
from quarterdeck_controller.optimize.report.markup import Markup, element
from quarterdeck_controller.optimize.report.plot import Axis, Plot
from quarterdeck_controller.optimize.search.story import Story, Tried

RATIOS = (
    *(1, 0.5, 0.25, 2, 0.1, 4, 10, 30, 100, 0.05, 0.75, 1.5, 0.35, 0.15, 3, 6),
    *(0.6, 0.9, 1.2, 0.2, 0.3, 0.4, 0.7, 0.8, 1.1),
)
"""Where an axis of ratios may be labelled, what matters most first."""
APART = 0.09
"""Of an axis: labels are no closer."""
MOST_SHOWN = 120
"""Candidates on a page; no search tries so many."""
LOSSES = (-50, -20, -10, -5, -2, -1, -0.5, 0, 0.5, 1, 2, 5, 10, 20, 50, 100)
LEAST_RADIUS, RADIUS = 4.0, 9.0
LABEL = 11.0
"""Height of a label."""


@dataclass(frozen=True, slots=True)
class Point:
    """A candidate in a plot; number 0 is the float model.

    Attributes:
        number: By which the table names it.
        lost: In points, or percent of the samples that differ where nothing is
            labelled.
    """

    number: int
    lost: float
    size: float
    latency: float
    standing: str
    told: str


def points(story: Story) -> tuple[Point, ...]:
    """Return the float model and every candidate that was measured."""
    found = [Point(0, 0.0, 1.0, 1.0, "float", "float")]
    for number, tried in enumerate(story.tried[:MOST_SHOWN], 1):
        lost = lost_by(tried, story)
        figures = (lost, tried.size_ratio, tried.latency_ratio)
        if lost is None or tried.size_ratio is None or tried.latency_ratio is None:
            continue
        if all(isfinite(value) for value in figures if value is not None):
            told = describe(tried)
            standing = wording.standing(tried)
            found.append(
                Point(
                    number, lost, tried.size_ratio, tried.latency_ratio, standing, told
                )
            )
    return tuple(found)


def lost_by(tried: Tried, story: Story) -> float | None:
    """Return what a candidate lost, by what the class's budget judges."""
    if story.allowed is None or story.allowed.agreement is None:
        return tried.drop_points
    return None if tried.agreement is None else 100 * (1 - tried.agreement)


def allowed_loss(story: Story) -> float | None:
    """Return what a candidate may lose, in the unit of ``lost_by``."""
    if story.allowed is None:
        return None
    if story.allowed.agreement is not None:
        return 100 * (1 - story.allowed.agreement)
    return story.allowed.drop_points


def bend_at(story: Story) -> float:
    """Return the loss up to which its axis is about linear."""
    return max(allowed_loss(story) or 1.0, 0.2)


def loss_name(story: Story) -> str:
    """Return what ``lost_by`` is called."""
    if story.allowed is None or story.allowed.agreement is None:
        return f"{story.metric}: points lost"
    return "samples that differ from float, %"


def describe(tried: Tried) -> str:
    """Return a candidate's figures and what it missed, in a few lines."""
    latency = f"{tried.latency.p50_ms:.3f} ms" if tried.latency else ""
    lost = wording.points(tried.drop_points or 0)
    agrees = wording.percent(tried.agreement or 0)
    lines = (
        f"{tried.recipe} ({wording.standing(tried)})",
        f"lost {lost} points, agrees on {agrees} %",
        f"size {tried.size_ratio or 0:.2f} of float ({wording.size(tried.bytes or 0)})",
        f"latency {tried.latency_ratio or 0:.2f} of float, p50 {latency}",
        *tried.misses,
    )
    return "\n".join(lines)


def draw_front(story: Story) -> Markup:
    """Return accuracy lost against latency; a mark's area is the file's size."""
    found = points(story)
    allowed = story.allowed
    limit = None if allowed is None else allowed.latency_ratio
    across = _ratios("latency, share of float's", [p.latency for p in found], limit)
    frame = Plot(across, losses(story, found))
    spots = [(one, *frame.at(one.latency, one.lost)) for one in found]
    marks = [*_limits(frame, story, limit), *_marks(spots)]
    told = "Accuracy lost against latency. " + _summary(story, found)
    return frame.draw("Accuracy against latency", told, marks)


def draw_sizes(story: Story) -> Markup:
    """Return accuracy lost against the size of the file."""
    found = points(story)
    allowed = story.allowed
    limit = None if allowed is None else allowed.size_ratio
    across = _ratios(
        "size of the file, share of float's", [p.size for p in found], limit
    )
    frame = Plot(across, losses(story, found))
    spots = [(one, *frame.at(one.size, one.lost)) for one in found]
    marks = [*_limits(frame, story, limit), *_marks(spots)]
    told = "Accuracy lost against size. " + _summary(story, found)
    return frame.draw("Accuracy against size", told, marks)


def losses(story: Story, found: Sequence[Point]) -> Axis:
    """Return the axis of what is lost: linear up to the budget, bent past it."""
    limit = allowed_loss(story)
    values = [one.lost for one in found] + ([] if limit is None else [limit])
    bend = plot.bent_at(bend_at(story))
    span = bend(max(values)) - bend(min(values)) or 1.0
    low = _unbent(bend, min(values), -0.12 * span)
    high = _unbent(bend, max(values), 0.12 * span)
    ticks: list[float] = []
    for tick in plot.among(LOSSES, low, high):
        if not ticks or bend(tick) - bend(ticks[-1]) > 0.07 * span:
            ticks.append(tick)
        elif tick == 0:
            ticks[-1] = tick
    return Axis(loss_name(story), low, high, tuple(ticks), bend)


def _summary(story: Story, found: Sequence[Point]) -> str:
    taken = next((one.told for one in found if one.standing == wording.TAKEN), "")
    count = len(found) - 1
    told = f"{count} candidates of {len(story.tried)} were measured."
    return f"{told} Taken: {taken}" if taken else f"{told} None was taken."


def _ratios(name: str, values: Sequence[float], limit: float | None) -> Axis:
    seen = [*values, *([limit] if limit and limit < 3 * max(values) else [])]
    low, high = max(0.8 * min(seen), 0.01), 1.2 * max(seen)
    bend = plot.logarithmic
    least = APART * (bend(high) - bend(low))
    ticks: list[float] = []
    for tick in plot.among(RATIOS, low, high):
        if all(abs(bend(tick) - bend(other)) > least for other in ticks):
            ticks.append(tick)
    return Axis(name, low, high, tuple(sorted(ticks)), bend)


def _unbent(bend: plot.Bend, value: float, by: float) -> float:
    """Return what lies ``by`` further along a bent axis than ``value``."""
    far = 1.0
    while abs(bend(value + far) - bend(value)) < abs(by):
        far *= 2
    low, high = 0.0, far
    for _ in range(40):
        middle = (low + high) / 2
        step = middle if by > 0 else -middle
        if abs(bend(value + step) - bend(value)) < abs(by):
            low = middle
        else:
            high = middle
    return value + (high if by > 0 else -high)


def _limits(frame: Plot, story: Story, limit: float | None) -> Iterator[Markup]:
    if limit is not None and frame.x.low <= limit <= frame.x.high:
        yield frame.upright(limit, f"at most {limit:g}")
    loss = allowed_loss(story)
    if loss is not None and frame.y.low <= loss <= frame.y.high:
        yield frame.level(loss, f"at most {loss:g} lost")


Spot = tuple[Point, float, float]


def _marks(spots: Sequence[Spot]) -> Iterator[Markup]:
    """Yield the marks, the largest first so that none hides another, then names."""
    for one, x, y in sorted(spots, key=lambda spot: -_radius(spot[0])):
        yield element(
            "circle",
            element("title", one.told),
            cx=x,
            cy=y,
            r=_radius(one),
            class_=f"mark {one.standing}",
        )
    yield from _names(spots)


def _names(spots: Sequence[Spot]) -> Iterator[Markup]:
    """Yield a name over every mark, moved up or down from where another stands."""
    names: list[Box] = []
    leads: list[Markup] = []
    labels: list[Markup] = []
    for one, x, y in sorted(spots, key=lambda spot: (spot[1], spot[2])):
        name = "float" if one.number == 0 else str(one.number)
        half = len(name) * plot.LETTER / 2
        others = [_around(spot) for spot in spots if spot[0] is not one]
        start, below = y - _radius(one) - 3, y + _radius(one) + LABEL
        steps = [n * LABEL for n in range(12)]
        places = [p for far in steps for p in (start - far, below + far)]
        inside = [p for p in places if plot.TOP + 6 < p < plot.HEIGHT - plot.BOTTOM]
        clear = [p for p in inside if not _meets(names, (x, p, half, LABEL))]
        free = [p for p in clear if not _meets(others, (x, p, half, LABEL))]
        place = (free or clear or places)[0]
        names.append((x, place, half, LABEL))
        if abs(place - start) > 1:
            end = place + 2 if place < y else place - LABEL + 2
            leads.append(plot.line(x, y, x, end, "lead"))
        style = f"spot {one.standing}"
        labels.append(plot.words(x, place, name, style, anchor="middle"))
    yield from (*leads, *labels)


Box = tuple[float, float, float, float]
"""Middle across, lower edge, half the width, and height."""


def _around(spot: Spot) -> Box:
    one, x, y = spot
    reach = _radius(one)
    return x, y + reach, reach, 2 * reach


def _meets(boxes: Sequence[Box], box: Box) -> bool:
    x, low, half, height = box
    return any(
        abs(x - other) < half + width + 1
        and low > bottom - tall
        and bottom > low - height
        for other, bottom, width, tall in boxes
    )


def _radius(one: Point) -> float:
    return min(LEAST_RADIUS + RADIUS * sqrt(max(one.size, 0.0)), 3 * RADIUS)
