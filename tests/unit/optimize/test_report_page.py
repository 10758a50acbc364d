import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from quarterdeck_controller.optimize.evaluation import ClassScore
from quarterdeck_controller.optimize.report.page import page
from quarterdeck_controller.optimize.report.plot import Axis, bent_at, round_ticks
from quarterdeck_controller.optimize.report.save import write_report
from quarterdeck_controller.optimize.search.story import (
    Allowed,
    Histogram,
    SensitiveNode,
    Story,
)
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError
from tests.support.stories import evaluation, side, story, tried

UNCLOSED = {"meta", "br"}
EVIL = "<script>alert('x')</script>\"' onload=\"alert(1) \x00\u202e"
MAX_BYTES = 2_000_000


class Reader(HTMLParser):
    """Checks that what opens closes, and collects what could act or reach out."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in UNCLOSED:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"{name} on {tag} could act"
            if name in {"href", "src", "srcset", "action", "data", "xlink:href"}:
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader.open
    return reader


def test_a_page_is_well_formed_and_reaches_nothing_outside() -> None:
    text = page([(evaluation(), story())], name="exercises")

    found = read(text)
    assert found.references == ["#gateway-x86"]
    assert found.ids == ["gateway-x86"]
    assert not {"script", "link", "img", "iframe"} & set(found.seen)
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in text
    assert "@import" not in text


def test_a_page_shows_every_part() -> None:
    text = page([(evaluation(), story())], name="exercises")

    for part in (
        "Accuracy against latency",
        "Accuracy against size",
        "The candidates",
        "What the search did",
        "Where the time goes",
        "Sensitivity by operator",
        "The tensors that quantize worst",
        "Training the integers",
        "Class by class",
        "The same answers elsewhere",
        "What went in",
    ):
        assert part in text
    assert text.count("<svg") == 2 + 1 + 2


def test_parts_without_figures_are_left_out() -> None:
    bare = Story(
        name="exercises",
        device_class="gateway-x86",
        metric="top1",
        unit="%",
        seconds=1,
        reference_score=0.9,
        reference_bytes=1000,
        tried=(),
        said=(),
    )
    nothing = evaluation(
        recipe=None,
        decision="refused",
        reason="no recipe gave a model that runs",
        variant=None,
        agreement=None,
        drop_points=None,
        drop_ci95=None,
        size_ratio=None,
        latency_ratio=None,
        peak_memory_ratio=None,
        golden_measured=(),
    )

    text = page([(nothing, bare)], name="exercises")

    read(text)
    assert "no recipe gave a model that runs" in text
    assert "Sensitivity" not in text
    assert "Training" not in text


def test_names_from_a_model_cannot_break_out() -> None:
    hostile = story(
        tried=(tried(EVIL, why=EVIL, misses=(EVIL,)), tried(EVIL, failure=EVIL)),
        sensitivity=(
            SensitiveNode(
                name=EVIL, operator=EVIL, sqnr_db=3.0, bytes=3, treatment=EVIL
            ),
        ),
        histograms=(
            Histogram(
                tensor=EVIL, edges=(0, 1), counts=(1,), taken=(0, 1), sqnr_db=1.0
            ),
        ),
        metric=EVIL,
    )
    classes = (ClassScore(name=EVIL, samples=3, score=0.5),)
    told = evaluation(
        reason=EVIL,
        metric=EVIL,
        notes=(EVIL,),
        reference=side(classes=classes),
        variant=side(classes=classes),
    )

    text = page([(told, hostile)], name=EVIL)

    found = read(text)
    assert "<script" not in text
    assert "script" not in found.seen
    assert "\x00" not in text
    assert "\u202e" not in text


def test_the_same_results_give_the_same_bytes() -> None:
    results = [(evaluation(), story())]

    assert page(results, name="a") == page(results, name="a")


def test_a_page_stays_small_whatever_the_model() -> None:
    name = "/model/layers." + "x" * 5000
    nodes = tuple(
        SensitiveNode(
            name=f"{name}{n}", operator="Conv", sqnr_db=1, bytes=1, treatment="static"
        )
        for n in range(3000)
    )
    classes = tuple(
        ClassScore(name=f"class {n}", samples=3, score=n / 1024) for n in range(1024)
    )
    many = story(
        sensitivity=nodes,
        tried=tuple(tried(f"static-{n}", why=name) for n in range(300)),
    )
    provenance = evaluation().provenance
    overrides = tuple((f"{name}{n}", "weights") for n in range(20_000))
    big = evaluation(
        reference=side(classes=classes),
        variant=side(classes=classes),
        notes=(name,) * 500,
        provenance=provenance.model_copy(update={"overrides": overrides}),
    )

    text = page([(big, many)] * 7, name="big")

    size = len(text.encode())
    assert size < MAX_BYTES


@pytest.mark.parametrize("lost", [-1e12, -30.0, 0.0, 1e-9, 5.0, 100.0, 1e12])
@pytest.mark.parametrize("ratio", [1e-9, 0.4, 1.0, 300.0])
def test_points_of_any_size_are_drawn_inside_the_plot(
    lost: float, ratio: float
) -> None:
    strange = tried(drop_points=lost, latency_ratio=ratio, size_ratio=ratio)

    text = page([(evaluation(), story(tried=(strange, tried())))], name="exercises")

    places = re.findall(r' (?:cx|cy|x|y|r|x1|y1|width|height)="([^"]*)"', text)
    assert all(-10 <= float(place) <= 440 for place in places)


def test_budget_lines_are_drawn_where_the_budget_lies() -> None:
    text = page([(evaluation(), story())], name="exercises")

    assert text.count("at most 1 lost") == 2
    assert "at most 0.6" in text


def test_unlabelled_data_is_plotted_by_how_much_differs_from_float() -> None:
    allowed = Allowed(
        drop_points=None,
        agreement=0.96,
        size_ratio=0.6,
        latency_ratio=1,
        latency_ms=50,
        memory_mb=384,
    )

    text = page([(evaluation(), story(allowed=allowed))], name="exercises")

    assert "samples that differ from float, %" in text
    assert "at most 4 lost" in text


def test_a_report_is_written_beside_the_classes(tmp_path: Path) -> None:
    path = write_report([(evaluation(), story())], tmp_path / "variants")

    assert path == tmp_path / "variants" / "report.html"
    assert path.read_text("utf-8").startswith("<!doctype html>")


def test_a_report_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "variants").write_text("a file")

    with pytest.raises(RejectedError) as caught:
        write_report([(evaluation(), story())], tmp_path / "variants")

    assert caught.value.code is Code.DISK_FAILED


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 900), (1e-7, 2e-7), (5, 5)])
def test_ticks_are_within_their_axis(low: float, high: float) -> None:
    ticks = round_ticks(low, high)

    assert ticks
    assert len(ticks) <= 8
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in ticks)


def test_a_bent_axis_keeps_the_order() -> None:
    axis = Axis("lost", -1, 100, (), bent_at(1.0))

    places = [axis.at(value) for value in (-1, 0, 0.5, 1, 10, 100)]

    assert places == sorted(places)
    assert places[0] == 0
    assert places[-1] == 1
