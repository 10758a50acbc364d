"""The demo's pictures: who ran what and when, and how right it was."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from quarterdeck_controller.demo.timeline import Change, Timeline
from quarterdeck_shared.telemetry.window import Window

COLOURS = ("#b8c4ce", "#2a9d8f", "#e76f51", "#e9c46a", "#457b9d", "#8d6a9f")
INK, FAINT, BAD = "#22303c", "#8a97a3", "#c1121f"
DPI = 110


def draw_rollouts(timeline: Timeline, end_s: float, path: Path) -> None:
    """Draw one line a device: what it ran over time, and what it refused."""
    devices = sorted({change.device for change in timeline.changes})
    releases = sorted({c.release for c in timeline.changes if c.release})
    colours = dict(zip(releases, COLOURS, strict=False))
    figure = Figure(figsize=(11, 1.6 + 0.38 * len(devices)), layout="constrained")
    axes = figure.add_subplot()
    for row, device in enumerate(reversed(devices)):
        _draw_device(axes, row, timeline.of(device), end_s, colours)
        refused = [it.at_s for it in timeline.refusals if it.device == device]
        axes.plot(refused, [row] * len(refused), "x", color=BAD, ms=8, mew=2)
    _draw_marks(axes, timeline)
    axes.set_yticks(range(len(devices)), list(reversed(devices)))
    axes.set_xlim(0, end_s)
    axes.set_xlabel("seconds since the demo began")
    _plain(axes)
    handles: list[Patch | Line2D] = [
        Patch(color=colour, label=release) for release, colour in colours.items()
    ]
    handles.append(
        Line2D([], [], color=BAD, marker="x", ls="", label="refused, undone")
    )
    figure.legend(handles=handles, ncols=6, loc="outside lower left", frameon=False)
    axes.set_title("What each device ran", loc="left", pad=44, color=INK)
    figure.savefig(path, dpi=DPI)


def _draw_device(
    axes: Axes,
    row: int,
    changes: Sequence[Change],
    end_s: float,
    colours: Mapping[str, str],
) -> None:
    ends = [change.at_s for change in changes[1:]] + [end_s]
    for change, until_s in zip(changes, ends, strict=True):
        if change.release:
            width = until_s - change.at_s
            colour = colours[change.release]
            axes.barh(row, width, left=change.at_s, height=0.62, color=colour)


def _draw_marks(axes: Axes, timeline: Timeline) -> None:
    """Draw a letter where each act begins; what they stand for is written above."""
    for number, mark in enumerate(timeline.marks):
        axes.axvline(mark.at_s, color=FAINT, lw=0.8, ls=":")
        axes.annotate(
            mark.text.partition(" ")[0],
            (mark.at_s, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3 + 11 * (number % 2)),  # neighbours may be close
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=INK,
        )
    axes.annotate(
        "   ".join(mark.text for mark in timeline.marks),
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 30),
        textcoords="offset points",
        fontsize=8.5,
        color=FAINT,
    )


def draw_accuracy(windows: Mapping[str, Sequence[Window]], path: Path) -> None:
    """Draw the share of right answers in the field, each second, for each release.

    ``windows`` are those of the whole fleet, by release; a release that answered no
    labelled sample is left out.
    """
    windows = {
        release: held
        for release, held in windows.items()
        if any(window.label_total for window in held)
    }
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    axes = figure.add_subplot()
    begin = min(
        (w.started.timestamp() for held in windows.values() for w in held), default=0
    )
    for release, colour in zip(sorted(windows), COLOURS, strict=False):
        seconds = _by_second(windows[release], begin)
        axes.plot(list(seconds), list(seconds.values()), ".", color=colour, ms=6)
        total = sum(window.label_total for window in windows[release])
        share = sum(window.label_ok for window in windows[release]) / total
        axes.axhline(share, color=colour, lw=1, ls="--")
        axes.plot([], [], "s", color=colour, label=f"{release}: {share:.1%} of {total}")
    axes.set_ylim(0, 1)
    axes.set_ylabel("right answers")
    axes.set_xlabel("seconds since the first window")
    axes.set_title(
        "Accuracy in the field, from labelled samples", loc="left", color=INK
    )
    axes.legend(loc="lower left", ncols=3, frameon=False)
    _plain(axes)
    figure.savefig(path, dpi=DPI)


def _by_second(windows: Sequence[Window], begin: float) -> dict[float, float]:
    total: dict[float, int] = defaultdict(int)
    right: dict[float, int] = defaultdict(int)
    for window in windows:
        second = window.started.timestamp() - begin
        total[second] += window.label_total
        right[second] += window.label_ok
    return {at: right[at] / total[at] for at in sorted(total) if total[at]}


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=INK)
