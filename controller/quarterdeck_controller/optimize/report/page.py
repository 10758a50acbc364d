"""The report: one page for all classes of a run, with nothing outside of it. Pure.

It needs no network and no script, works from a file, on a phone and on paper, and is
the same bytes for the same results.
"""

from collections.abc import Callable, Iterator, Sequence

from quarterdeck_controller.optimize.evaluation import Evaluation, Kernels, Side
from quarterdeck_controller.optimize.report import detail, front, kernels, wording
from quarterdeck_controller.optimize.report.detail import cell, table
from quarterdeck_controller.optimize.report.markup import Markup, element, together
from quarterdeck_controller.optimize.report.style import STYLE
from quarterdeck_controller.optimize.search.story import Said, Story, Tried

MOST_OVERRIDES = 100
MOST_NOTES = 60
SECURITY = "default-src 'none'; style-src 'unsafe-inline'"

Result = tuple[Evaluation, Story]


def page(results: Sequence[Result], *, name: str) -> str:
    """Return the whole page for the classes of one run of the model ``name``."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=SECURITY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", f"{name}: variants"),
        element("style", Markup(STYLE)),
    )
    body = element(
        "body",
        element("header", *_header(results, name)),
        element("main", *(_class(*one) for one in results)),
    )
    return "<!doctype html>\n" + element("html", head, body, lang="en") + "\n"


def _header(results: Sequence[Result], name: str) -> Iterator[Markup]:
    yield element("h1", name)
    if not results:
        yield element("p", "No class was optimized.")
        return
    first = results[0][0]
    took = "also chose" if wording.chose_too(first) else "took no part in choosing"
    accepted = sum(one.decision == "accepted" for one, _ in results)
    yield element(
        "p",
        f"{accepted} of {len(results)} device classes got a variant; judged by "
        f"{first.metric} on {first.samples} samples that {took}.",
    )
    yield element(
        "p",
        "float model ",
        element("code", first.provenance.model_sha256[:16]),
        f", {wording.size(first.reference.bytes)}; evaluation data ",
        element("code", first.provenance.evaluation_sha256[:16]),
        "; calibration data ",
        element("code", first.provenance.calibration_sha256[:16]),
        class_="soft",
    )
    yield element("div", *(_card(one) for one, _ in results), class_="cards")


def _card(evaluation: Evaluation) -> Markup:
    link = element("a", evaluation.device_class, href=f"#{evaluation.device_class}")
    figures = [
        element("div", element("dt", what), element("dd", told, _small(more)))
        for what, told, more in _headlines(evaluation)
    ]
    return element(
        "article",
        element("h2", link, " ", _badge(evaluation)),
        element("p", element("code", evaluation.recipe or "no variant")),
        element("dl", *figures),
        element("p", evaluation.reason, class_="note"),
        class_=f"card {evaluation.decision}",
    )


def _small(told: str) -> Markup | None:
    return element("small", f" {told}") if told else None


def _badge(evaluation: Evaluation) -> Markup:
    return element("span", evaluation.decision, class_=f"badge {evaluation.decision}")


def _headlines(evaluation: Evaluation) -> Iterator[tuple[str, str, str]]:
    """Yield what a card tells: what, its figure, and a word on it."""
    variant, unit = evaluation.variant, evaluation.unit
    if variant is None:
        return
    times = variant.latency
    yield (
        "size",
        f"{evaluation.size_ratio or 0:.2f} of float",
        wording.size(variant.bytes),
    )
    yield (
        "latency",
        f"{evaluation.latency_ratio or 0:.2f} of float",
        f"{wording.milliseconds(times.p50_ms)} ms, {evaluation.latency_known}",
    )
    yield (
        evaluation.metric,
        wording.with_unit(variant.score, unit),
        f"({wording.interval(variant.ci95, unit)})",
    )
    low, high = evaluation.drop_ci95 or (0.0, 0.0)
    yield (
        "lost, points",
        wording.points(evaluation.drop_points or 0),
        f"({wording.points(low)} to {wording.points(high)})",
    )
    yield "agrees with float", f"{wording.percent(evaluation.agreement or 0)} %", ""
    memory = f"{evaluation.peak_memory_ratio or 0:.2f} of float"
    yield "peak memory", memory, f"{variant.peak_memory_mb:.0f} MiB"


def _class(evaluation: Evaluation, story: Story) -> Markup:
    known = wording.KNOWN[evaluation.latency_known]
    seconds = f"{known}; {story.seconds:.0f} s for the search"
    return element(
        "section",
        element("h2", evaluation.device_class, " ", _badge(evaluation)),
        element("p", _unbroken(evaluation.reason)),
        *(
            element("p", _unbroken(told), class_="soft")
            for told in (*wording.outcome(evaluation), seconds)
        ),
        *_parts(evaluation, story),
        id=evaluation.device_class,
        class_="class",
    )


def _unbroken(told: str) -> str:
    """Return a sentence whose figures stay with their percent sign."""
    return told.replace(" %", "\N{NO-BREAK SPACE}%")


def _parts(evaluation: Evaluation, story: Story) -> Iterator[Markup | None]:
    yield _titled("The candidates", _plots(story), _candidates(story))
    yield _titled("Float and variant", _sides(evaluation))
    yield _titled("What the search did", _said(story))
    if story.float_time:
        ratio = evaluation.latency_ratio
        yield _titled(
            "Where the time goes",
            kernels.time_bars(story, ratio),
            _folded("the same in numbers", kernels.time_table(story, ratio)),
        )
    if story.sensitivity:
        told = (
            "Signal to noise of the output, in decibels, when this operator alone is "
            "quantized: the shorter the bar, the more it costs."
        )
        note = element("p", told, class_="note")
        yield _titled("Sensitivity by operator", note, detail.sensitivity(story))
    if story.histograms:
        drawn = [detail.histogram(one) for one in story.histograms]
        told = "The shaded range is what integers span; what lies outside is clipped."
        yield _titled(
            "The tensors that quantize worst",
            element("p", told, class_="note"),
            element("div", *drawn, class_="pair"),
        )
    if story.training:
        yield _titled("Training the integers", detail.training(story.training))
    if evaluation.variant is not None and evaluation.reference.classes:
        yield _titled("Class by class, on the test samples", detail.classes(evaluation))
    if evaluation.golden_measured:
        yield _titled("The same answers elsewhere", detail.processors(evaluation))
    yield _titled("What went in", _provenance(evaluation))


def _titled(title: str, *parts: Markup | None) -> Markup:
    return element("div", element("h3", title), *parts)


def _folded(summary: str, *parts: Markup) -> Markup:
    return element("details", element("summary", summary), *parts)


def _plots(story: Story) -> Markup:
    told = (
        "A mark is a candidate by its number in the table, its area the size of the "
        "file. Green is taken, blue is on the front, grey fits the budget, dashed red "
        "is over it. The losses are bent: finer near zero."
    )
    return together((
        element(
            "div",
            element("figure", front.draw_front(story)),
            element("figure", front.draw_sizes(story)),
            class_="pair",
        ),
        element("p", told, class_="note"),
    ))  # fmt: skip


HEADS = (
    "#",
    "recipe",
    "",
    "size",
    "score",
    "lost",
    "agrees",
    "time",
    "p50 ms",
    "MiB",
    "integer",
    "q/dq",
    "why it was tried, and what it missed",
)


def _candidates(story: Story) -> Markup:
    rows = [_float_row(story)]
    rows += [_row(n, one, story) for n, one in enumerate(story.tried, 1)][
        : front.MOST_SHOWN
    ]
    told = (
        "On the samples that choose. Size and time are shares of float's; agrees: % of "
        "the samples; integer and q/dq count kernels."
    )
    made = table(HEADS, rows, right=range(3, 12))
    return together((made, element("p", told, class_="note")))


def _float_row(story: Story) -> Markup:
    score = wording.number(story.reference_score, story.unit)
    cells = ["1.00", score, "", "", "1.00", *[""] * 5]
    numbers = [cell(told, "num") for told in cells]
    return element("tr", cell(""), cell("float"), cell(""), *numbers)


def _row(number: int, tried: Tried, story: Story) -> Markup:
    standing = wording.standing(tried)
    return element(
        "tr",
        cell(str(number), "num"),
        element("td", element("code", tried.recipe), class_="recipe"),
        cell(standing, f"word {standing}"),
        *(cell(told, "num") for told in _figures(tried, story)),
        element("td", tried.why, *_missed(tried), class_="why"),
        class_=standing,
    )


def _missed(tried: Tried) -> Iterator[Markup]:
    told = wording.why_not(tried)
    if told:
        yield element("br")
        yield element("span", told, class_="over")


def _figures(tried: Tried, story: Story) -> tuple[str, ...]:
    if tried.latency is None:
        return ("",) * 9
    kept = tried.kernels
    return (
        f"{tried.size_ratio or 0:.2f}",
        wording.number(tried.score or 0, story.unit),
        wording.points(tried.drop_points or 0),
        wording.percent(tried.agreement or 0),
        f"{tried.latency_ratio or 0:.2f}",
        wording.milliseconds(tried.latency.p50_ms),
        f"{tried.peak_memory_mb or 0:.0f}",
        str(kept.integer) if kept else "",
        str(kept.conversions) if kept else "",
    )


def _said(story: Story) -> Markup:
    rows = [
        element("tr", cell(one.rung), cell(_when(one), "num"), cell(one.sentence))
        for one in story.said
        if not wording.was_left_out(one)
    ]
    rows += [
        element("tr", cell(", ".join(rungs)), cell("-", "num"), cell(why, "soft"))
        for rungs, why in wording.left_out(story, climbed_too=True)
    ]
    made = table(("rung", "seconds", "why"), rows, right=(1,), class_="narrow")
    told = "A dash: not climbed, or not climbed further."
    return together((made, element("p", told, class_="note")))


def _when(one: Said) -> str:
    return "kept" if one.cached else f"{one.seconds:.1f}"


def _sides(evaluation: Evaluation) -> Markup:
    unit, variant = evaluation.unit, evaluation.variant
    told = [
        (name, read(evaluation.reference, unit), read(variant, unit) if variant else "")
        for name, read in SIDES
    ]
    rows = [
        element("tr", cell(name), cell(was, "num"), cell(now, "num"))
        for name, was, now in told
    ]
    return table(("", "float", "variant"), rows, right=(1, 2), class_="narrow")


def _count(side: Side, what: Callable[[Kernels], object]) -> str:
    return "" if side.kernels is None else str(what(side.kernels))


SIDES: tuple[tuple[str, Callable[[Side, str], str]], ...] = (
    ("score", lambda s, unit: wording.with_unit(s.score, unit)),
    ("95 % interval", lambda s, unit: wording.interval(s.ci95, unit)),
    ("size", lambda s, _: f"{s.bytes:,} bytes"),
    ("compressed", lambda s, _: f"{s.compressed_bytes:,} bytes"),
    ("median latency, ms", lambda s, _: wording.milliseconds(s.latency.p50_ms)),
    ("90th percentile, ms", lambda s, _: wording.milliseconds(s.latency.p90_ms)),
    ("99th percentile, ms", lambda s, _: wording.milliseconds(s.latency.p99_ms)),
    ("processor time, ms", lambda s, _: wording.milliseconds(s.latency.cpu_ms)),
    ("peak memory, MiB", lambda s, _: f"{s.peak_memory_mb:.1f}"),
    ("loads in, ms", lambda s, _: f"{s.load_ms:.1f}"),
    ("integer kernels", lambda s, _: _count(s, lambda k: k.integer)),
    ("heavy float kernels", lambda s, _: _count(s, lambda k: k.heavy_float)),
    ("q/dq kernels", lambda s, _: _count(s, lambda k: k.conversions)),
    (
        "q/dq, % of the time",
        lambda s, _: _count(s, lambda k: wording.percent(k.conversion_share)),
    ),
)


def _provenance(evaluation: Evaluation) -> Markup:
    rows = [
        element("tr", cell(what), element("td", element("code", told)))
        for what, told in _went_in(evaluation)
    ]
    notes = tuple(dict.fromkeys(evaluation.notes))
    told = [element("li", note) for note in notes[:MOST_NOTES]]
    return together((
        table(("", ""), rows, class_="narrow"),
        element("ul", *told, class_="note"),
        _overrides(evaluation),
    ))  # fmt: skip


def _went_in(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    found = evaluation.provenance
    yield "float model", found.model_sha256
    yield (
        "calibration data",
        f"{found.calibration_sha256} ({found.calibration_samples})",
    )
    yield "evaluation data", found.evaluation_sha256
    yield "seed", str(found.seed)
    yield from evaluation.files.items()
    yield "recipe", ", ".join(f"{k} {v}" for k, v in found.settings.items() if v != "")
    yield "versions", ", ".join(f"{k} {v}" for k, v in found.versions.items())
    yield "this machine", " ".join(found.machine_isa)
    yield "the class needs", " ".join(evaluation.requires.isa)


def _overrides(evaluation: Evaluation) -> Markup | None:
    held = evaluation.provenance.overrides
    if not held:
        return None
    rows = [
        element("tr", cell(name, "mono"), cell(treatment))
        for name, treatment in held[:MOST_OVERRIDES]
    ]
    told = f"{len(held)} operators with a treatment of their own"
    if len(held) > MOST_OVERRIDES:
        told += f", the first {MOST_OVERRIDES} of them"
    return _folded(told, table(("operator", "treatment"), rows, class_="narrow"))
