"""The same as pictures, for places where a page cannot go: slides, tickets, READMEs.

They are the same bytes for the same results and the same version of matplotlib.
"""

from collections.abc import Sequence
from io import BytesIO

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from quarterdeck_controller.optimize.evaluation import Evaluation
from quarterdeck_controller.optimize.report import front, kernels, wording
from quarterdeck_controller.optimize.report.front import Point
from quarterdeck_controller.optimize.search.story import Story, TimeShare

INK, FAINT, GOOD, BAD, BLUE = "#1b2530", "#9aa7b3", "#17806d", "#c1272d", "#2b6cb0"
AMBER = "#e0922f"
COLOURS = {
    "float": INK,
    wording.TAKEN: GOOD,
    wording.FRONT: BLUE,
    wording.FITS: FAINT,
    wording.OVER: BAD,
}
DPI = 120
AREA = 420.0
"""Of a mark as large as the float model's file, in square points."""
MOST_NODES = 30
MOST_NAMED = 16
LINE = 130
"""Letters in a line of the key."""
NEAR = 0.05
"""Of an axis: closer marks have their names above each other."""
MOST_LETTERS = 48
UNDRAWN = "\u0530"
"""Letters from here on may be missing in the font that matplotlib brings."""


def pictures(evaluation: Evaluation, story: Story) -> dict[str, bytes]:
    """Return a class's pictures as PNG files by name; only those that show anything."""
    drawn = {"front.png": _front(story)}
    if story.float_time:
        drawn["time.png"] = _times(evaluation, story)
    if story.sensitivity:
        drawn["sensitivity.png"] = _sensitivity(story)
    return drawn


def _front(story: Story) -> bytes:
    figure = Figure(figsize=(10.5, 5.0), layout="constrained")
    found = front.points(story)
    allowed = story.allowed
    for axes, across, name, limit in zip(
        figure.subplots(1, 2, sharey=True),
        ([one.latency for one in found], [one.size for one in found]),
        ("latency, share of float's", "size of the file, share of float's"),
        (
            allowed.latency_ratio if allowed else None,
            allowed.size_ratio if allowed else None,
        ),
        strict=True,
    ):
        _points(axes, found, across)
        _limits(axes, limit if limit and limit < 3 * max(across) else None, story)
        axes.set_xlabel(_plain(name), color=INK)
        axes.set_xlim(0, 1.15 * max(*across, 1))
        _quiet(axes)
        axes.grid(color="#e3e8ec", lw=0.8)
    up, first = front.losses(story, found), figure.axes[0]
    first.set_ylabel(_plain(up.label), color=INK)
    first.set_yscale("asinh", linear_width=front.bend_at(story))
    first.set_ylim(up.low, up.high)
    first.set_yticks(up.ticks, [f"{tick:g}" for tick in up.ticks])
    first.set_yticks([], minor=True)
    figure.suptitle(
        _plain(f"{story.name} for {story.device_class}: float, and what was tried"),
        color=INK,
    )
    figure.supxlabel(_key(story), color=INK, fontsize=8.5)
    return _png(figure)


def _key(story: Story) -> str:
    """Return what the numbers stand for, in lines."""
    told = [
        f"{n} {one.recipe}{' (taken)' if one.taken else ''}"
        for n, one in enumerate(story.tried[:MOST_NAMED], 1)
    ]
    if len(story.tried) > MOST_NAMED:
        told.append(f"and {len(story.tried) - MOST_NAMED} more")
    lines = [""]
    for one in map(_plain, told):
        if lines[-1] and len(lines[-1]) + len(one) > LINE:
            lines.append("")
        lines[-1] += f"{'    ' if lines[-1] else ''}{one}"
    return "\n".join(lines)


def _points(axes: Axes, found: Sequence[Point], across: Sequence[float]) -> None:
    near = NEAR * max(*across, 1)
    named: list[tuple[float, float]] = []
    for one, x in sorted(zip(found, across, strict=True), key=lambda it: -it[0].size):
        colour = COLOURS[one.standing]
        axes.scatter(
            [x],
            [one.lost],
            s=AREA * max(one.size, 0.05),
            color="none" if one.number == 0 else colour,
            edgecolors=colour,
            alpha=0.6,
            linewidths=1.5,
        )
        height = sum(
            abs(x - other) < near and abs(one.lost - lost) < NEAR * max(1, one.lost)
            for other, lost in named
        )
        named.append((x, one.lost))
        axes.annotate(
            "float" if one.number == 0 else str(one.number),
            (x, one.lost),
            xytext=(0, 5 + 9 * (one.size**0.5) + 10 * height),
            textcoords="offset points",
            ha="center",
            fontsize=8.5,
            color=colour,
        )


def _limits(axes: Axes, limit: float | None, story: Story) -> None:
    loss = front.allowed_loss(story)
    if limit is not None:
        axes.axvline(limit, color=BAD, lw=1, ls="--")
    if loss is not None:
        axes.axhline(loss, color=BAD, lw=1, ls="--")


def _times(evaluation: Evaluation, story: Story) -> bytes:
    figure = Figure(figsize=(10.5, 2.4), layout="constrained")
    axes = figure.add_subplot()
    ratio = evaluation.latency_ratio or 1.0
    rows = [("float", story.float_time, 1.0)]
    rows += [("variant", story.variant_time, ratio)] if story.variant_time else []
    for row, (_, shares, width) in enumerate(reversed(rows)):
        _bar(axes, row, shares, 100 * width)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in reversed(rows)])
    axes.set_xlabel("% of float's time", color=INK)
    axes.set_title(
        _plain(f"{story.name} for {story.device_class}: green multiplies integers, ")
        + "amber converts, grey computes in float",
        loc="left",
        fontsize=10,
        color=INK,
    )
    _quiet(axes)
    return _png(figure)


def _bar(axes: Axes, row: int, shares: Sequence[TimeShare], width: float) -> None:
    total = sum(one.share for one in shares) or 1.0
    left = 0.0
    colours = {"i": GOOD, "q": AMBER, "f": FAINT}
    for one in sorted(shares, key=kernels.order):
        part = width * one.share / total
        colour = colours[kernels.kind(one)]
        axes.barh(row, part, left=left, height=0.7, color=colour, edgecolor="white")
        if kernels.named(one, width / total / 100):
            told = _plain(one.operator)
            axes.text(left + part / 2, row, told, ha="center", va="center", fontsize=8)
        left += part


def _sensitivity(story: Story) -> bytes:
    worst = sorted(story.sensitivity, key=lambda one: one.sqnr_db)[:MOST_NODES]
    figure = Figure(figsize=(8.5, 1.2 + 0.24 * len(worst)), layout="constrained")
    axes = figure.add_subplot()
    for row, one in enumerate(reversed(worst)):
        colour = BLUE if one.treatment == "static" else FAINT
        axes.barh(row, one.sqnr_db, height=0.7, color=colour)
    names = [_plain(one.name) for one in reversed(worst)]
    axes.set_yticks(range(len(worst)), names, fontsize=7.5)
    axes.set_xlabel("signal to noise when it alone is quantized, dB", color=INK)
    axes.set_title(
        "The operators that cost most; grey ones were spared", loc="left", color=INK
    )
    _quiet(axes)
    return _png(figure)


def _plain(text: str) -> str:
    """Return text in which no dollar begins a formula, short enough for a picture."""
    kept = "".join(
        letter if letter.isprintable() and letter < UNDRAWN else "?" for letter in text
    )
    if len(kept) > 2 * MOST_LETTERS:
        kept = f"{kept[:MOST_LETTERS]}...{kept[-MOST_LETTERS:]}"
    return kept.replace("$", r"\$")


def _quiet(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=INK)


def _png(figure: Figure) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()
