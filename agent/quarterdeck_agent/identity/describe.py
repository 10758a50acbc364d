"""How the identity stands, from what is in memory or on the disk."""

from quarterdeck_agent.identity.certificate import read_leaf
from quarterdeck_agent.identity.files import Identity, IdentityFiles
from quarterdeck_agent.identity.pem import TPM_KEY, take_apart
from quarterdeck_agent.identity.standing import IdentityStanding, KeyPlace
from quarterdeck_agent.settings import Settings, read
from quarterdeck_shared.codes import Code
from quarterdeck_shared.errors import QuarterdeckError, RejectedError


def describe(
    settings: Settings,
    used: Identity | None,
    *,
    new: bool = False,
    trouble: QuarterdeckError | None = None,
) -> IdentityStanding:
    """Return how the identity of a running agent stands."""
    told = IdentityStanding(
        new=new,
        code=trouble.code if trouble else None,
        detail=trouble.detail if trouble else "",
    )
    if used is None:
        return told
    certificate = used.certificate
    return told.model_copy(
        update={
            "enrolled": True,
            "generation": certificate.generation,
            "until": certificate.ends,
            "renews": certificate.renews(),
            "key": _place(settings, in_tpm=used.key.in_tpm),
            "key_id": used.key.key_id,
        }
    )


def describe_files(settings: Settings) -> IdentityStanding:
    """Return how the identity on the disk stands, without touching its key."""
    path = IdentityFiles(settings).file
    try:
        pem = take_apart(read(path) if path.exists() else b"")
        if not pem.chain:
            return IdentityStanding(code=Code.NOT_ENROLLED, detail=f"no {path}")
        leaf = read_leaf(pem.chain)
    except RejectedError as error:
        return IdentityStanding(code=error.code, detail=error.detail)
    return IdentityStanding(
        enrolled=True,
        generation=leaf.generation,
        until=leaf.ends,
        renews=leaf.renews(),
        key=_place(settings, in_tpm=pem.key_kind == TPM_KEY),
        key_id=leaf.key_id,
    )


def _place(settings: Settings, *, in_tpm: bool) -> KeyPlace:
    if in_tpm:
        return "tpm"
    return "elsewhere" if settings.identity.key else "file"
