"""What the ``key`` commands print: roles, keys, requests, and what comes next."""

from collections.abc import Sequence
from datetime import datetime

from quarterdeck_controller.cli.output import out, print_table
from quarterdeck_controller.repository.ceremony import Lack
from quarterdeck_controller.repository.expiry import Deadline, KeyRow
from quarterdeck_controller.repository.keyfile import fingerprint, key_name
from quarterdeck_controller.repository.repository import Committed
from quarterdeck_controller.repository.requests import Request

WAY = (
    "  quarterdeck key export {id} --out FOLDER   and bring it to the holders, who\n"
    "  quarterdeck key sign FOLDER --key FILE   read, decide and sign; then here\n"
    "  quarterdeck key import FOLDER"
)


def request_json(request: Request, lacks: Sequence[Lack]) -> dict[str, object]:
    """Return a request as scripts see it."""
    return {
        "request": request.id,
        "why": request.why,
        "created": request.terms.created.isoformat(),
        "roles": {wanted.role: wanted.version for wanted in request.terms.roles},
        "lacks": [
            {
                "role": lack.role,
                "signatures": lack.need,
                "of": {
                    keyid: key_name(lack.quorum.keys[keyid]) for keyid in lack.could
                },
                "because": lack.why,
            }
            for lack in lacks
        ],
    }


def outcome_json(
    outcome: Committed | Request, lacks: Sequence[Lack]
) -> dict[str, object]:
    """Return what came of a change as scripts see it."""
    if isinstance(outcome, Committed):
        return {"committed": True, "roles": outcome.roles}
    return {"committed": False, **request_json(outcome, lacks)}


def print_outcome(outcome: Committed | Request, lacks: Sequence[Lack]) -> None:
    """Print what came of a change, and what is to be done next."""
    if isinstance(outcome, Committed):
        out.print(f"In force: {', '.join(outcome.roles)} signed anew.")
        return
    out.print(
        f"Nothing has changed yet: the request {outcome.id} waits for signatures.",
        markup=False,
    )
    print_lacks(lacks)
    out.print(WAY.format(id=outcome.id), markup=False)


def print_lacks(lacks: Sequence[Lack]) -> None:
    """Print which signatures a request lacks, and who can give them."""
    for lack in lacks:
        names = (
            f"{key_name(lack.quorum.keys[keyid])} ({fingerprint(keyid)})"
            for keyid in lack.could
        )
        out.print(
            f"  {lack.role}: {lack.need} more of {', '.join(names)} ({lack.why})",
            markup=False,
        )


def print_requests(
    requests: Sequence[tuple[Request, Sequence[Lack] | None]],
) -> None:
    """Print every open request; without lacks it stands on what is not in force."""
    if not requests:
        out.print("No change waits for signatures.")
    for request, lacks in requests:
        roles = ", ".join(f"{it.role} {it.version}" for it in request.terms.roles)
        out.print(f"{request.id}  {roles}: {request.why}", markup=False)
        if lacks is None:
            out.print(
                f"  made from metadata that is no longer in force; give it up with "
                f"quarterdeck key cancel {request.id}",
                markup=False,
            )
        else:
            print_lacks(lacks)


def print_keys(rows: Sequence[KeyRow]) -> None:
    """Print every key in force by role, then those here that sign nothing."""
    table = [
        (row.role or "-", row.name, fingerprint(row.keyid), row.where) for row in rows
    ]
    print_table(("role", "key", "id", "where"), table)


def print_deadlines(deadlines: Sequence[Deadline], now: datetime) -> None:
    """Print what expires when, the soonest first."""
    rows = [
        (
            it.what,
            it.signed_by,
            it.version,
            f"{it.expires:%Y-%m-%d}",
            f"{it.left(now).days}",
            it.where,
            it.warning(now),
        )
        for it in deadlines
    ]
    columns = ("what", "signed by", "version", "valid until", "days", "keys", "")
    print_table(columns, rows, right=("version", "days"))
