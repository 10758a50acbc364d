"""What a class's section shows below its candidates. Pure."""

from collections.abc import Iterator, Sequence
from math import isclose, isfinite, log10

from quarterdeck_controller.optimize.evaluation import Evaluation
from quarterdeck_controller.optimize.report import plot, wording
from quarterdeck_controller.optimize.report.markup import Markup, element, together
from quarterdeck_controller.optimize.report.plot import Axis, Plot
from quarterdeck_controller.optimize.search.story import (
    Histogram,
    SensitiveNode,
    Story,
    TrainingPoint,
)

MOST_NODES = 30
MOST_CLASSES = 40
CLEAR_DB = 60.0
"""A signal so far above its noise is as good as float."""
HISTOGRAM_HEIGHT = 190.0
CURVE_HEIGHT = 210.0


def table(
    heads: Sequence[str],
    rows: Sequence[Markup],
    *,
    right: Sequence[int] = (),
    class_: str = "wide",
) -> Markup:
    """Return a table that scrolls by itself where it is too wide."""
    head = [
        element("th", told, class_="num" if n in right else None)
        for n, told in enumerate(heads)
    ]
    made = element(
        "table",
        element("thead", element("tr", *head)),
        element("tbody", *rows),
        class_=class_,
    )
    return element("div", made, class_="scroll")


def cell(told: str, class_: str | None = None) -> Markup:
    """Return a cell of a table."""
    return element("td", told, class_=class_)


def sensitivity(story: Story) -> Markup:
    """Return the operators that cost most when they alone are quantized."""
    worst = sorted(story.sensitivity, key=lambda one: one.sqnr_db)[:MOST_NODES]
    least = min((one.sqnr_db for one in worst), default=0.0)
    rows = [_node(one, min(least, 0.0)) for one in worst]
    heads = ("name", "dB", "", "treatment", "operator", "weights")
    made = table(heads, rows, right=(1, 5))
    if len(story.sensitivity) <= MOST_NODES:
        return made
    told = f"The worst {MOST_NODES} of {len(story.sensitivity)}."
    return together((made, element("p", told, class_="note")))


def _node(one: SensitiveNode, least: float) -> Markup:
    share = (min(one.sqnr_db, CLEAR_DB) - least) / (CLEAR_DB - least)
    return element(
        "tr",
        cell(one.name, "mono"),
        cell(f"{one.sqnr_db:.1f}", "num"),
        element("td", bar(share, one.treatment)),
        cell(one.treatment),
        cell(one.operator),
        cell(wording.size(one.bytes) if one.bytes else "", "num"),
    )


def bar(share: float, class_: str) -> Markup:
    """Return a bar of a table; ``share`` is of the room it has."""
    width = f"width:{100 * min(max(share, 0.004), 1.0):.1f}%"
    inner = element("span", class_=f"bar {class_}", style=width)
    return element("span", inner, class_="track")


def histogram(one: Histogram) -> Markup:
    """Return the spread of a tensor with the range that was quantized."""
    counts = [log10(1 + max(count, 0)) for count in one.counts]
    low, high = one.edges[0], one.edges[-1]
    top = max(counts, default=1.0) or 1.0
    frame = Plot(
        Axis("value", low, high, plot.round_ticks(low, high)),
        Axis("how often, log10", 0.0, 1.05 * top, plot.round_ticks(0, top, 3)),
        HISTOGRAM_HEIGHT,
    )
    start, end = (frame.at(value, 0)[0] for value in one.taken)
    bottom = HISTOGRAM_HEIGHT - plot.BOTTOM
    marks = [
        element(
            "rect",
            x=start,
            y=plot.TOP,
            width=max(end - start, 0.5),
            height=bottom - plot.TOP,
            class_="range",
        ),
        *_columns(one, counts, frame),
    ]
    told = f"from {one.taken[0]:.4g} to {one.taken[1]:.4g}"
    summary = f"Values from {low:.4g} to {high:.4g}; quantized {told}."
    drawn = frame.draw(f"Spread of {one.tensor}", summary, marks)
    caption = element(
        "figcaption",
        element("code", one.tensor),
        f": {one.sqnr_db:.1f} dB when quantized {told}",
    )
    return element("figure", drawn, caption)


def _columns(one: Histogram, counts: Sequence[float], frame: Plot) -> Iterator[Markup]:
    for n, count in enumerate(counts):
        if not count:
            continue
        left, top = frame.at(one.edges[n], count)
        right, bottom = frame.at(one.edges[n + 1], 0.0)
        outside = one.edges[n + 1] <= one.taken[0] or one.edges[n] >= one.taken[1]
        yield element(
            "rect",
            x=left,
            y=top,
            width=max(right - left - 0.5, 0.4),
            height=max(bottom - top, 0.5),
            class_="clipped" if outside else "count",
        )


def training(curve: Sequence[TrainingPoint]) -> Markup:
    """Return loss and agreement over the steps of training."""
    losses = [(one.step, one.loss) for one in curve if isfinite(one.loss)]
    agreed = [(one.step, 100 * one.agreement) for one in curve]
    return element(
        "div",
        _curve("Loss", losses),
        _curve("Agreement with float on held-out samples, %", agreed),
        class_="pair",
    )


def _curve(name: str, points: Sequence[tuple[int, float]]) -> Markup:
    steps = [float(step) for step, _ in points] or [0.0]
    values = [value for _, value in points] or [0.0]
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.5
    across = Axis("step", 0, max(steps), plot.round_ticks(0, max(steps)))
    up = Axis("", low - margin, high + margin, plot.round_ticks(low, high, 4))
    frame = Plot(across, up, CURVE_HEIGHT)
    spots = [frame.at(step, value) for step, value in points]
    dots = [
        element("circle", element("title", f"{step}: {value:.4g}"), cx=x, cy=y, r=2.5,
                class_="dot")
        for (step, value), (x, y) in zip(points, spots, strict=True)
    ]  # fmt: skip
    summary = (
        f"{name} from {values[0]:.4g} to {values[-1]:.4g} in {steps[-1]:.0f} steps"
    )
    drawn = frame.draw(name, summary, [plot.path(spots, "curve"), *dots])
    return element("figure", element("figcaption", name), drawn)


def classes(evaluation: Evaluation) -> Markup:
    """Return the score of each class, float's and the variant's, worst change first."""
    unit = evaluation.unit
    variant = evaluation.variant
    after = {one.name: one for one in variant.classes} if variant else {}
    before = evaluation.reference.classes
    pairs = [(one, after[one.name]) for one in before if one.name in after]
    pairs.sort(key=lambda pair: pair[1].score - pair[0].score)
    top = max((max(a.score, b.score) for a, b in pairs), default=1.0) or 1.0
    rows = [
        element(
            "tr",
            cell(was.name),
            cell(str(was.samples), "num"),
            cell(wording.number(was.score, unit), "num"),
            cell(wording.number(now.score, unit), "num"),
            element("td", bar(now.score / top, _direction(was.score, now.score))),
        )
        for was, now in pairs[:MOST_CLASSES]
    ]
    made = table(("class", "samples", "float", "variant", ""), rows, right=(1, 2, 3))
    if len(pairs) <= MOST_CLASSES:
        return made
    told = (
        f"The {MOST_CLASSES} of {len(pairs)} classes that changed for the worse most."
    )
    return together((made, element("p", told, class_="note")))


def _direction(was: float, now: float) -> str:
    if isclose(was, now):
        return "same"
    return "lower" if now < was else "higher"


def processors(evaluation: Evaluation) -> Markup:
    """Return how the golden vectors were reproduced, processor by processor."""
    rows = [
        element(
            "tr",
            cell(one.processor),
            cell(f"{one.sqnr_db:.1f}", "num"),
            cell(f"{one.error:.4f}", "num"),
            cell(f"{wording.percent(one.agreement)} %", "num"),
        )
        for one in evaluation.golden_measured
    ]
    heads = ("processor", "dB to float", "error", "agrees")
    asked = evaluation.golden
    told = (
        f"A device must reproduce {asked.count} golden vectors with an error of at "
        f"most {asked.max_error:.3f} of the scores, and keep the top class of "
        f"{wording.percent(asked.min_agreement)} % of those whose margin is at least "
        f"{asked.margin:.3g}."
    )
    return together((
        table(heads, rows, right=(1, 2, 3), class_="narrow"),
        element("p", told, class_="note"),
    ))  # fmt: skip
