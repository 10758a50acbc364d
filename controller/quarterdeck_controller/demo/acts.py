"""The acts of the demo. Each does something and says what was seen of it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from quarterdeck_controller.demo.intruder import Intruder
from quarterdeck_controller.demo.stage import FLEET, Stage, v
from quarterdeck_controller.optimize.evaluation import Evaluation
from quarterdeck_controller.optimize.report.table import report
from quarterdeck_controller.release.trial import trusting
from quarterdeck_controller.repository.director import Director
from quarterdeck_controller.store.records import Assigned, RolloutState
from quarterdeck_shared import topics
from quarterdeck_shared.assignment import Assignment
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import RejectedError, TransientError
from quarterdeck_shared.index import Index, digest

Figures = Mapping[str, object]
REFUSAL_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of an act."""

    ok: bool
    sentence: str
    figures: Figures = field(default_factory=lambda: MappingProxyType({}))


Act = Callable[[Stage], Seen]


def optimize_first(stage: Stage) -> Seen:
    """Quantize version 1 for every class and sign the release."""
    results = stage.search(1, "variants-1")
    stage.screen.show(report([(one.evaluation, one.story) for one in results]))
    evaluations = [one.evaluation for one in results]
    release = stage.release(1, "variants-1")
    accepted = [one for one in evaluations if one.decision == "accepted"]
    return Seen(
        ok=len(accepted) == len(evaluations) == len(release.variants),
        sentence=f"{release.id} signed for {len(release.variants)} classes: "
        + _best(accepted),
        figures=_figures(evaluations),
    )


def roll_out_first(stage: Stage) -> Seen:
    """Enrol the fleet, start its agents, and move it to version 1 in waves."""
    stage.enrol(FLEET)
    for device in FLEET:
        stage.start_agent(device)
    stage.wait_online(list(FLEET))
    return _promote(stage, v(1))


def roll_out_better(stage: Stage) -> Seen:
    """Roll out version 2, trained on twice as many people."""
    evaluations = stage.optimize(2, "variants-2")
    stage.release(2, "variants-2")
    seen = _promote(stage, v(2))
    old, new = _field_accuracy(stage, v(1)), _field_accuracy(stage, v(2))
    better = old is not None and new is not None and new > old
    return Seen(
        ok=seen.ok and better,
        sentence=f"{seen.sentence}; right answers in the field "
        f"{_share(old)} → {_share(new)}",
        figures={**seen.figures, **_figures(evaluations), "field": [old, new]},
    )


def refuse_broken(stage: Stage) -> Seen:
    """Release a wrongly calibrated version against the optimizer's advice."""
    evaluations = stage.optimize(
        2,
        "variants-broken",
        calibration=stage.material.raw_calibration,
        kinds=("static",),
        time_budget_s=1,  # one look is enough to see that it is wrong
    )
    refused = all(one.decision == "refused" for one in evaluations)
    reason = "demo: calibrated on thousandths, not on g"
    gate = _gate_refuses(stage, 4, "variants-broken", override=reason)
    stage.release(4, "variants-broken", override=reason, trial=trusting)
    rollout = stage.roll_out(v(4), "all")
    sight = stage.observer.look()
    failed = _telling(stage, FLEET, Code.GOLDEN_FAILED)
    still = [device for device in FLEET if sight.runs(device) == v(2)]
    return Seen(
        ok=refused
        and gate
        and rollout.state is RolloutState.ROLLED_BACK
        and 0 < len(failed) < len(FLEET)
        and len(still) == len(FLEET),
        sentence="refused by the optimizer, and by the gate before signing; signed past"
        " both, its golden vectors"
        f" failed on {', '.join(failed)} and the rollout was undone;"
        f" {len(still)} of {len(FLEET)} run {v(2)}",
        figures={
            "optimizer_refused": refused,
            "gate_refused": gate,
            "golden_failed": failed,
            "state": rollout.state,
            "reason": rollout.reason,
        },
    )


def _gate_refuses(stage: Stage, version: int, out: str, *, override: str) -> bool:
    try:
        stage.release(version, out, override=override)
    except RejectedError as error:
        return error.code is Code.GATE_FAILED
    return False


def undo_worse(stage: Stage) -> Seen:
    """Roll out a version that installs well and is wrong in the field."""
    evaluations = stage.optimize(3, "variants-3", evaluation=stage.material.right_arms)
    accepted = all(one.decision == "accepted" for one in evaluations)
    stage.release(3, "variants-3")
    rollout = stage.roll_out(v(3), "all", waves=("100%",), soak_s=3)
    sight = stage.observer.wait(
        f"all devices back on {v(2)}",
        lambda sight: all(sight.runs(device) == v(2) for device in FLEET),
        timeout_s=30,
    )
    tried = [d for d in FLEET if _ran(stage, d, v(3))]
    back = [device for device in FLEET if sight.runs(device) == v(2)]
    fetched = sum(stage.received(device)[0] for device in FLEET)
    return Seen(
        ok=accepted
        and rollout.state is RolloutState.ROLLED_BACK
        and len(tried) == len(back) == len(FLEET)
        and fetched == 0,
        sentence=f"accepted on right arms, ran on {len(tried)} devices, right in the"
        f" field {_share(_field_accuracy(stage, v(3)))}: {len(back)} rolled back to"
        f" {v(2)}, {fetched} bytes downloaded for it",
        figures={
            "ran_on": len(tried),
            "rolled_back": len(back),
            "bytes_downloaded": fetched,
            "reason": rollout.reason,
        },
    )


def refuse_assignments(stage: Stage) -> Seen:
    """Offer a device what was signed for another one, and for another class."""
    with Intruder(stage.home) as intruder:
        wrong_device = _refused(
            stage, "board-1", Code.WRONG_DEVICE, lambda: _steal(stage, intruder)
        )
        wrong_class = _refused(
            stage, "board-1", Code.WRONG_CLASS, lambda: _forge(stage, intruder)
        )
    unmoved = stage.observer.look().runs("board-1") == v(2)
    return Seen(
        ok=wrong_device and wrong_class and unmoved,
        sentence=f"another device's assignment: {_word(wrong_device)}; another class's,"
        f" signed with the director's stolen key: {_word(wrong_class)};"
        f" board-1 {'still' if unmoved else 'NO LONGER'} runs {v(2)}",
        figures={
            "wrong_device_refused": wrong_device,
            "wrong_class_refused": wrong_class,
            "unmoved": unmoved,
        },
    )


def refuse_tampered(stage: Stage) -> Seen:
    """Change the model on the controller's own disk, then put it right."""
    variant = stage.catalog.release(v(2)).variants["board-arm64"]
    file = stage.home.parts / variant.index.part("model.onnx").sha256
    stage.enrol({"late-1": "board-arm64"})
    real = file.read_bytes()
    file.write_bytes(bytes(byte ^ 1 for byte in real))
    stage.start_agent("late-1")
    stage.wait_online(["late-1"])
    tampered = stage.roll_out(v(2), "id=late-1", waves=("100%",))
    refused = bool(_telling(stage, ["late-1"], Code.CHUNK_INVALID))
    installed = stage.observer.look().runs("late-1")
    file.write_bytes(real)
    mended = stage.roll_out(v(2), "id=late-1", waves=("100%",))
    runs = stage.observer.look().runs("late-1")
    return Seen(
        ok=refused
        and installed is None
        and tampered.state is RolloutState.ROLLED_BACK
        and mended.state is RolloutState.PROMOTED
        and runs == v(2),
        sentence=f"a bit of every byte changed on the controller's disk:"
        f" {_word(refused)}, {installed or 'nothing'} installed; with the real bytes"
        f" late-1 runs {runs}",
        figures={
            "tampered_bytes": len(real),
            "refused": refused,
            "installed_then": installed,
            "runs_now": runs,
        },
    )


def resume_killed(stage: Stage) -> Seen:
    """Kill an agent in the middle of a download, and start it again."""
    stage.enrol({"late-2": "board-arm64"})
    variant = stage.catalog.release(v(2)).variants["board-arm64"]
    index, artifact = variant.index, variant.artifact
    with Intruder(stage.home) as watcher:
        stage.start_agent("late-2")
        stage.wait_online(["late-2"])
        killed = watcher.when_broadcast(
            "board-arm64",
            artifact,
            index.chunk_count // 3,
            lambda: stage.processes.kill("late-2"),
        )
        begun = stage.begin_rollout(v(2), "id=late-2", waves=("100%",))
        killed(REFUSAL_TIMEOUT_S)
    kept = _bytes_on_disk(index, stage.bundle("late-2") / "state/slots" / artifact)
    stage.observer.mark("† SIGKILL")
    stage.start_agent("late-2")
    rollout = stage.wait_ended(begun)
    received, twice = stage.received("late-2")
    return Seen(
        ok=rollout.state is RolloutState.PROMOTED
        and stage.observer.look().runs("late-2") == v(2)
        and 0 < kept < index.length
        and received == index.length - kept,
        sentence=f"killed with {kept:,} of {index.length:,} bytes on disk; fetched the"
        f" other {received:,} and {twice:,} twice, and runs {v(2)}",
        figures={
            "artifact_bytes": index.length,
            "kept_bytes": kept,
            "fetched_after_restart": received,
            "fetched_twice": twice,
        },
    )


def _promote(stage: Stage, release: str) -> Seen:
    rollout = stage.roll_out(release, "all")
    sight = stage.observer.look()
    on = [device for device in FLEET if sight.runs(device) == release]
    return Seen(
        ok=rollout.state is RolloutState.PROMOTED and len(on) == len(FLEET),
        sentence=f"{release} {rollout.state}, on {len(on)} of {len(FLEET)} devices",
        figures={"state": rollout.state, "devices": len(on), "reason": rollout.reason},
    )


def _refused(stage: Stage, device: str, code: Code, attack: Callable[[], None]) -> bool:
    """Attack, and return whether ``device`` refused it with ``code``."""
    attack()
    return bool(_telling(stage, [device], code))


def _telling(stage: Stage, devices: Iterable[str], code: Code) -> list[str]:
    """Return which of ``devices`` told about ``code``, once any has.

    A device's event may come a moment after the state that it reported.
    """

    def told() -> list[str]:
        return [device for device in devices if code in stage.observer.codes(device)]

    try:
        stage.observer.wait(
            f"{code} is told", lambda _: bool(told()), timeout_s=REFUSAL_TIMEOUT_S
        )
    except TransientError:
        return []
    return told()


def _steal(stage: Stage, intruder: Intruder) -> None:
    """Offer board-1 what was signed for gateway-1."""
    stolen = _assigned(stage, "gateway-1")
    topic = topics.down("board-1", topics.DOWN_ASSIGNMENT)
    intruder.publish(topic, stolen.envelope, retain=True)


def _forge(stage: Stage, intruder: Intruder) -> None:
    """Sign with the director's own key that board-1 shall run a gateway's model."""
    own, other = _assigned(stage, "board-1"), _assigned(stage, "gateway-1")
    forged = Assignment(
        device="board-1",
        device_class=other.device_class,
        sequence=own.sequence + 1,
        issued=own.issued,
        expires=own.expires,
        release=other.runs.release,
        target=other.runs.target,
    )
    topic = topics.down("board-1", topics.DOWN_ASSIGNMENT)
    intruder.publish(topic, Director(stage.home).sign(forged), retain=True)


def _assigned(stage: Stage, device: str) -> Assigned:
    with stage.store.read() as records:
        assigned = records.assignments.get(device)
    assert assigned is not None, f"{device} was assigned a release in an earlier act"
    return assigned


def _bytes_on_disk(index: Index, folder: Path) -> int:
    """Return how many bytes of whole, right chunks are in ``folder``."""
    files = {part.name: (folder / part.name).read_bytes() for part in index.parts}
    return sum(
        chunk.length
        for chunk in index.chunk_list()
        if digest(files[chunk.part][chunk.offset :][: chunk.length]) == chunk.sha256
    )


def _ran(stage: Stage, device: str, release: str) -> bool:
    return any(it.release == release for it in stage.observer.timeline.of(device))


def _field_accuracy(stage: Stage, release: str) -> float | None:
    """Return the share of right answers that devices counted on ``release``."""
    variants = stage.catalog.release(release).variants.values()
    digests = [variant.artifact for variant in variants]
    with stage.store.read() as records:
        totals = records.windows.totals(artifacts=digests, latency=False)
    labelled = sum(it.label_total for it in totals)
    return sum(it.label_ok for it in totals) / labelled if labelled else None


def _figures(evaluations: Sequence[Evaluation]) -> Figures:
    return {
        one.device_class: {
            "decision": one.decision,
            "recipe": one.recipe,
            "size_ratio": one.size_ratio,
            "latency_ratio": one.latency_ratio,
            "latency_known": one.latency_known,
            "float_score": one.reference.score,
            "score": one.variant and one.variant.score,
            "agreement": one.agreement,
        }
        for one in evaluations
    }


def _best(evaluations: Sequence[Evaluation]) -> str:
    sizes = [one.size_ratio for one in evaluations if one.size_ratio is not None]
    times = [one.latency_ratio for one in evaluations if one.latency_ratio is not None]
    return (
        f"{min(sizes):.2f}-{max(sizes):.2f} of float's size,"
        f" {min(times):.2f}-{max(times):.2f} of its latency"
        if sizes and times
        else "nothing was accepted"
    )


def _share(value: float | None) -> str:
    return "not known" if value is None else f"{100 * value:.1f} %"


def _word(refused: bool) -> str:
    return "refused" if refused else "NOT REFUSED"
