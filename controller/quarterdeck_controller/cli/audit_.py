"""``quarterdeck audit``: the record of every act and every decision.

The chain shows every change in the middle of the log. An end that was cut off or
written anew shows against a head that was kept elsewhere: the signed timestamp in this
home, one that a device or a backup has kept, or an exported log.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from quarterdeck_controller.access.exported import as_json as head_as_json
from quarterdeck_controller.access.exported import (
    export_lines,
    head_in,
    read_export,
)
from quarterdeck_controller.access.roles import Act
from quarterdeck_controller.access.verify import Findings, Witness, examine
from quarterdeck_controller.cli.opened import Opened, opened, span
from quarterdeck_controller.cli.options import DEFAULT_HOME, HomeOption, JsonOption
from quarterdeck_controller.cli.output import err, out, print_json, print_table
from quarterdeck_controller.repository.witness import roots, witness
from quarterdeck_controller.store.ledger import Head, Kept, Raw
from quarterdeck_controller.store.store import Records
from quarterdeck_shared.codes import Code
from quarterdeck_shared.durable import disk_code
from quarterdeck_shared.errors import RejectedError

app = typer.Typer(no_args_is_help=True)

MAX_SAID = 100
"""Characters of an entry's detail in a table; show tells it whole."""

FileOption = Annotated[
    Path | None,
    typer.Option("--file", help="An exported log, in place of the home's own."),
]
AgainstOption = Annotated[
    list[Path] | None,
    typer.Option(
        help="A head kept elsewhere: a timestamp.json of this fleet, an exported log,"
        " or what verify --json printed. May be repeated."
    ),
]
RootOption = Annotated[
    Path | None,
    typer.Option(
        help="A root.json that vouches for a timestamp; by default the home's."
    ),
]


@app.command("list")
def list_(
    *,
    subject: Annotated[
        str | None, typer.Option(help="Such as device:till-1, or device for all.")
    ] = None,
    actor: Annotated[
        str | None, typer.Option(help="Such as ada, os:root or controller.")
    ] = None,
    act: Annotated[
        str | None, typer.Option(help="Such as device.enrol, or device for all.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="How far back, such as 2h or 7d.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000)] = 50,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """List the newest entries, the newest last."""
    back = None if since is None else span(since)
    with opened(home, Act.SEE) as fleet, fleet.store.read() as records:
        begin = None if back is None else fleet.clock.now() - back
        found = records.audit.newest(
            limit, subject=subject, actor=actor, act=act, since=begin
        )
    if as_json:
        print_json([_fields(it) for it in found])
    elif not found:
        out.print("No entry in the audit log is like that.")
    else:
        print_table(
            ("entry", "at", "actor", "act", "subject", "outcome", "detail"),
            [_row(it) for it in found],
            right=("entry",),
        )


@app.command()
def show(
    number: Annotated[int, typer.Argument(help="The entry's number.")],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show one entry, whole."""
    with opened(home, Act.SEE) as fleet, fleet.store.read() as records:
        found = records.audit.get(number)
    if found is None:
        raise RejectedError(Code.NOT_FOUND, f"no entry {number}")
    fields = _fields(found)
    if as_json:
        print_json(fields)
        return
    for key, value in fields.items():
        if key not in ("v", "detail"):
            out.print(f"[bold]{key:<9}[/] ", end="")
            out.print(str(value) or "-", markup=False)
    out.print("[bold]detail[/]")
    out.print(json.dumps(fields["detail"], indent=2), markup=False)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="A file that does not exist yet.")],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Write the whole log as JSON lines, to be kept elsewhere."""
    with opened(home, Act.SEE) as fleet, fleet.store.read() as records:
        head = _write(file, export_lines(records.audit.every()))
    if as_json:
        print_json({"v": 1, "file": str(file), "head": head_as_json(head)})
        return
    out.print(f"{head.number} entries are in {file}; its head is {head.sha256}")
    out.print(f"check it anywhere with: quarterdeck audit verify --file {file}")


@app.command()
def verify(
    *,
    file: FileOption = None,
    against: AgainstOption = None,
    root: RootOption = None,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Check every entry, and the whole against heads that were kept elsewhere."""
    given = against or []
    if file is None:
        findings = _of_home(home, given, root)
    else:
        findings = _of_file(file, given, root)
    if as_json:
        print_json(_as_json(findings))
    else:
        _print(findings)
    _refuse(findings)


@app.command()
def accept(
    *,
    reason: Annotated[str, typer.Option(help="Why it lacks what was signed.")],
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Accept that the log lacks what the signed timestamp knows, and say why.

    For a database that was restored from a backup. The record keeps who did; the next
    signed timestamp carries the head of the log as it is.
    """
    with (
        opened(home, Act.AUDIT_ACCEPT) as fleet,
        fleet.store.write() as records,
    ):
        signed = next(_signed(fleet, records), None)
        if signed is None or not records.audit.departs_from(signed.head):
            raise RejectedError(
                Code.NOT_ALLOWED, "the log holds all that the signed timestamp knows"
            )
        head = signed.head
        fleet.audit(head.subject, sha256=head.sha256, reason=reason)
    if as_json:
        print_json({"v": 1, "accepted": head_as_json(head)})
    else:
        out.print(f"Accepted that entry {head.number} is not the one that was signed.")


def _of_home(home: Path, given: list[Path], root: Path | None) -> Findings:
    with opened(home, Act.SEE) as fleet, fleet.store.read() as records:
        trusted = roots(fleet.home) if root is None else (_read(root),)
        kept = [_witness(it, trusted) for it in given]
        return _examined(records.audit.every(), [*_signed(fleet, records), *kept])


def _of_file(file: Path, given: list[Path], root: Path | None) -> Findings:
    trusted = () if root is None else (_read(root),)
    exported = read_export(_read(file), str(file))
    kept = [_witness(it, trusted) for it in given]
    end = Witness("its last line", exported.head, outside=False)
    return _examined(exported.rows, [end, *kept])


def _signed(fleet: Opened, records: Records) -> Iterator[Witness]:
    """Give the head in the home's own timestamp, unless the log's end was accepted."""
    try:
        data = (fleet.home.repository / "timestamp.json").read_bytes()
    except FileNotFoundError:
        return  # the fleet's first metadata still waits for signatures
    try:
        signed = witness(data, roots(fleet.home), "the signed timestamp")
    except RejectedError as error:
        if error.code is not Code.NOT_FOUND:
            raise
        return
    agrees = records.audit.digest(signed.head.number) == signed.head.sha256
    if agrees or records.audit.departs_from(signed.head):
        yield signed


def _witness(file: Path, trusted: tuple[bytes, ...]) -> Witness:
    data = _read(file)
    try:
        value = json.loads(data)
    except ValueError:
        value = None
    if (head := head_in(value)) is not None:
        return Witness(str(file), head)
    if isinstance(value, dict) and "signatures" in value:
        if not trusted:
            raise RejectedError(
                Code.SIGNATURE_INVALID,
                f"nothing here says who may sign {file}: name a root.json with --root",
            )
        return witness(data, trusted, str(file))
    exported = read_export(data, str(file))
    kept = Witness(str(file), exported.head)
    _refuse(examine(exported.rows, [kept]), f"{file} itself: ")
    return kept


def _refuse(findings: Findings, where: str = "") -> None:
    if findings.faults:
        first = findings.faults[0]
        raise RejectedError(
            Code.AUDIT_BROKEN, f"{where}entry {first.number}: {first.what}"
        )


def _examined(rows: Iterable[Raw], witnesses: list[Witness]) -> Findings:
    with _shown() as progress:
        return examine(rows, witnesses, progress)


@contextmanager
def _shown() -> Iterator[Callable[[int], None]]:
    columns = TextColumn("{task.completed} entries checked"), TimeElapsedColumn()
    hidden = not err.is_terminal
    with Progress(*columns, console=err, transient=True, disable=hidden) as bar:
        line = bar.add_task("", total=None)
        yield lambda count: bar.update(line, completed=count)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        raise RejectedError(Code.NOT_FOUND, f"{file} does not exist") from error
    except OSError as error:
        raise RejectedError(
            Code.DISK_FAILED, f"{file} cannot be read: {error.strerror}"
        ) from error


def _write(file: Path, lines: Iterable[bytes]) -> Head:
    """Write a file that was not there before, and return the head in its last line."""
    last = b""
    try:
        with file.open("xb") as written:
            for last in lines:
                written.write(last)
            written.flush()
            os.fsync(written.fileno())
    except FileExistsError as error:
        raise RejectedError(Code.CONFLICT, f"{file} exists; name another") from error
    except OSError as error:
        file.unlink(missing_ok=True)
        raise RejectedError(
            disk_code(error), f"{file} cannot be written: {error.strerror}"
        ) from error
    head = head_in(json.loads(last))
    assert head is not None
    return head


def _fields(kept: Kept) -> dict[str, Any]:
    try:
        return kept.fields
    except ValueError as error:
        raise RejectedError(
            Code.AUDIT_BROKEN,
            f"entry {kept.number} cannot be read: see quarterdeck audit verify",
        ) from error


def _row(kept: Kept) -> tuple[object, ...]:
    detail = _fields(kept)["detail"]
    said = " ".join(f"{key}={_brief(value)}" for key, value in detail.items())
    return (
        kept.number,
        f"{kept.at:%Y-%m-%d %H:%M:%S}",
        kept.actor,
        kept.act,
        kept.subject,
        kept.outcome,
        said if len(said) <= MAX_SAID else said[: MAX_SAID - 1] + "…",
    )


def _brief(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _as_json(findings: Findings) -> dict[str, object]:
    return {
        "v": 1,
        "sound": not findings.faults,
        "entries": findings.entries,
        "head": head_as_json(findings.head),
        "witnessed": findings.witnessed,
        "faults": [{"entry": it.number, "what": it.what} for it in findings.faults],
        "more_faults": findings.more,
        "clock_went_back": list(findings.backwards),
    }


def _print(findings: Findings) -> None:
    head = findings.head
    if findings.faults:
        print_table(
            ("entry", "what is wrong"),
            [(it.number, it.what) for it in findings.faults],
            right=("entry",),
        )
        if findings.more:
            out.print(f"and {findings.more} more")
        return
    out.print(f"{findings.entries} entries, none of them changed; head {head.sha256}")
    newer = head.number - findings.witnessed
    if findings.witnessed:
        out.print(
            f"A signed or kept head vouches for the first {findings.witnessed};"
            f" {newer} are newer than any."
        )
    elif findings.entries:
        out.print("No head was kept elsewhere: an end that was cut off cannot show.")
    if findings.backwards:
        some = ", ".join(map(str, findings.backwards[:5]))
        out.print(f"The clock was set back before: entry {some}", markup=False)
