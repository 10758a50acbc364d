"""``quarterdeck rollout``: move devices to a release in waves."""

import threading
from pathlib import Path
from typing import Annotated

import typer

from quarterdeck_controller.access.roles import Act
from quarterdeck_controller.cli.opened import Opened, hint_if_unserved, opened, span
from quarterdeck_controller.cli.options import DEFAULT_HOME, HomeOption, JsonOption
from quarterdeck_controller.cli.output import (
    EXIT_INTERRUPTED,
    out,
    print_json,
    print_table,
)
from quarterdeck_controller.cli.rollout_text import (
    details,
    lines_of,
    plan_json,
    print_plan,
    print_show,
    progress,
    summary,
)
from quarterdeck_controller.release.catalog import Catalog
from quarterdeck_controller.rollout.create import check, create
from quarterdeck_controller.rollout.execute import command as carry_out_command
from quarterdeck_controller.rollout.observe import observe
from quarterdeck_controller.rollout.plan import preview
from quarterdeck_controller.rollout.policy import Policy
from quarterdeck_controller.rollout.reconcile import look
from quarterdeck_controller.rollout.state import ENDED, Step
from quarterdeck_controller.store.records import Rollout, RolloutState
from quarterdeck_controller.store.store import Records
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError

app = typer.Typer(no_args_is_help=True)

EXIT_ROLLED_BACK = 5
EXIT_TIMED_OUT = 6
WATCH_S = 0.5
_PAUSE = threading.Event()

ReleaseArgument = Annotated[str, typer.Argument(help="<model>@<version>")]
RolloutArgument = Annotated[int, typer.Argument(help="The rollout's number.")]
SelectorOption = Annotated[
    str,
    typer.Option(
        "--selector", "-l", help="all, class=K, tag=T, joined by commas, or ids."
    ),
]
WavesOption = Annotated[
    str, typer.Option(help="Counts or shares, growing, the last one 100%.")
]
SoakOption = Annotated[str, typer.Option(help="How long a settled wave is watched.")]
DeadlineOption = Annotated[
    str, typer.Option(help="How long an online device may take to commit.")
]
HoldOption = Annotated[
    str, typer.Option(help="How long an undecided gate may hold before it pauses.")
]
MaxFailedOption = Annotated[
    int | None, typer.Option(help="Most failed devices accepted; 0 without a share.")
]
MaxShareOption = Annotated[
    float | None, typer.Option(help="Largest share of failed accepted, from 0 to 1.")
]
DropOption = Annotated[
    float | None, typer.Option(help="Points of labelled accuracy that may be lost.")
]
LabelledOption = Annotated[
    int, typer.Option(help="Labelled inferences needed before and after.")
]
RatioOption = Annotated[
    float | None, typer.Option(help="Most that p90 latency may be of the previous.")
]
OnFailureOption = Annotated[str, typer.Option(help="rollback or pause.")]
ProbationOption = Annotated[
    str, typer.Option(help="How long a device watches the model before it commits.")
]
ReasonOption = Annotated[str, typer.Option(help="Why, for the audit log.")]


@app.command("plan")
def plan_(
    release: ReleaseArgument,
    *,
    selector: SelectorOption = "all",
    waves: WavesOption = "1,25%,100%",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show who would get a release in which wave, and change nothing."""
    policy = Policy.parse({"waves": _waves(waves)})
    with opened(home, Act.SEE) as fleet, fleet.store.read() as records:
        catalog, now = Catalog(fleet.home), fleet.clock.now()
        draft = check(records, catalog, release, selector, policy, now=now)
        seen = observe(records, catalog, draft, policy)
        who = preview(policy, draft, seen.variants, seen.fleet)
        refused = look(records, catalog, draft, now)[0].refused
        lengths = {
            name: variant.index.length
            for name, variant in catalog.release(release).variants.items()
        }
    if as_json:
        print_json(plan_json(release, policy, who, refused, lengths))
    else:
        print_plan(release, policy, who, refused, lengths)


@app.command("create")
def create_(
    release: ReleaseArgument,
    *,
    selector: SelectorOption = "all",
    waves: WavesOption = "1,25%,100%",
    soak: SoakOption = "5m",
    deadline: DeadlineOption = "15m",
    hold: HoldOption = "1h",
    max_failed: MaxFailedOption = None,
    max_failed_share: MaxShareOption = None,
    accuracy_drop: DropOption = None,
    min_labelled: LabelledOption = 200,
    latency_ratio: RatioOption = None,
    on_failure: OnFailureOption = "rollback",
    probation: ProbationOption = "60s",
    planned: Annotated[
        bool, typer.Option("--planned", help="Record it and wait for: rollout resume")
    ] = False,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Begin a rollout; the running controller carries it out."""
    unset = max_failed is None and max_failed_share is None
    policy = Policy.parse(
        {
            "waves": _waves(waves),
            "soak_s": span(soak).total_seconds(),
            "deadline_s": span(deadline).total_seconds(),
            "hold_s": span(hold).total_seconds(),
            "max_failed": 0 if unset else max_failed,
            "max_failed_share": max_failed_share,
            "accuracy_drop": accuracy_drop,
            "min_labelled": min_labelled,
            "latency_ratio": latency_ratio,
            "on_failure": on_failure,
            "probation_s": span(probation).total_seconds(),
        }
    )
    with opened(home, Act.ROLLOUT_CREATE) as fleet, fleet.store.write() as records:
        rollout = create(
            records,
            Catalog(fleet.home),
            release,
            selector,
            policy,
            now=fleet.clock.now(),
            planned=planned,
        )
    if as_json:
        print_json(summary(rollout))
        return
    out.print(f"rollout [bold]{rollout.id}[/] of {release} is {rollout.state}")
    out.print(f"follow it with: quarterdeck rollout watch {rollout.id}", markup=False)
    hint_if_unserved(fleet.home)


@app.command("list")
def list_(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List rollouts, the newest first."""
    with opened(home, Act.SEE) as fleet, fleet.store.read() as records:
        rollouts = tuple(reversed(records.rollouts.all()))
    if as_json:
        print_json([summary(rollout) for rollout in rollouts])
    elif not rollouts:
        out.print("No rollouts yet; begin one with: quarterdeck rollout create RELEASE")
    else:
        print_table(
            ("rollout", "release", "cohort", "state", "wave", "changed", "reason"),
            [lines_of(rollout) for rollout in rollouts],
            right=("rollout",),
        )


@app.command()
def show(
    rollout: RolloutArgument,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show one rollout: its devices, its verdicts and every decision."""
    with opened(home, Act.SEE) as fleet, fleet.store.read() as records:
        found = _get(records, rollout)
        decided, policy = look(records, Catalog(fleet.home), found, fleet.clock.now())
        decisions = records.decisions.of(rollout)
    if as_json:
        print_json(details(decided, policy, decisions))
    else:
        print_show(decided, policy, decisions)


@app.command()
def watch(
    rollout: RolloutArgument,
    timeout: Annotated[str, typer.Option(help="How long to wait for its end.")] = "1d",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Follow a rollout: exit 0 promoted, 5 rolled back or aborted, 6 timed out."""
    limit_s = span(timeout).total_seconds()
    try:
        with opened(home, Act.SEE) as fleet:
            hint_if_unserved(fleet.home)
            ended = _follow(fleet, rollout, limit_s, as_json=as_json)
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if ended is None:
        raise typer.Exit(EXIT_TIMED_OUT)
    if ended.state is not RolloutState.PROMOTED:
        raise typer.Exit(EXIT_ROLLED_BACK)


@app.command()
def pause(
    rollout: RolloutArgument,
    reason: ReasonOption = "paused by the operator",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Begin no new wave; devices that have their assignment go on."""
    _command(rollout, Step.PAUSE, reason, home, as_json=as_json)


@app.command()
def resume(
    rollout: RolloutArgument,
    reason: ReasonOption = "resumed by the operator",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Start a planned rollout, or go on with a paused one in spite of its failures."""
    with opened(home, Act.SEE) as fleet, fleet.store.read() as records:
        planned = _get(records, rollout).state is RolloutState.PLANNED
    step = Step.START if planned else Step.RESUME
    _command(rollout, step, reason, home, as_json=as_json)


@app.command()
def abort(
    rollout: RolloutArgument,
    reason: ReasonOption = "aborted by the operator",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """End a rollout and leave every device as it is."""
    _command(rollout, Step.ABORT, reason, home, as_json=as_json)


@app.command()
def rollback(
    rollout: RolloutArgument,
    reason: ReasonOption = "rolled back by the operator",
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Take every device it touched back to its previous release."""
    _command(rollout, Step.ROLL_BACK, reason, home, as_json=as_json)


def _command(
    rollout: int, step: Step, reason: str, home: Path, *, as_json: bool
) -> None:
    subject = f"rollout:{rollout}"
    with (
        opened(home, Act.ROLLOUT_CHANGE, subject) as fleet,
        fleet.store.write() as records,
    ):
        moved = carry_out_command(records, rollout, step, reason, fleet.clock.now())
    if as_json:
        print_json(summary(moved))
    else:
        out.print(f"rollout [bold]{moved.id}[/] is {moved.state}")


def _follow(
    fleet: Opened, rollout: int, limit_s: float, *, as_json: bool
) -> Rollout | None:
    catalog = Catalog(fleet.home)
    until = fleet.clock.monotonic() + limit_s
    last = ""
    while True:
        now = fleet.clock.now()
        with fleet.store.read() as records:
            found = _get(records, rollout)
            decided, policy = look(records, catalog, found, now)
        line = progress(decided, policy)
        if line != last:
            _tell(details(decided, policy, ()), line, now.isoformat(), as_json=as_json)
            last = line
        if found.state in ENDED:
            return found
        if fleet.clock.monotonic() >= until:
            return None
        _PAUSE.wait(WATCH_S)


def _tell(value: dict[str, object], line: str, at: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"at": at, **value})
        out.file.flush()
    else:
        out.print(f"{at[11:19]} {line}", markup=False)


def _get(records: Records, rollout: int) -> Rollout:
    found = records.rollouts.get(rollout)
    if found is None:
        raise RejectedError(Code.NOT_FOUND, f"no rollout {rollout}")
    return found


def _waves(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(","))
