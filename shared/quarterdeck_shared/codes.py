"""Every machine-readable reason, one sentence each, with what to do.

A code is stable: dashboards, alerts and scripts match on it. Retire a code by
removing it; never give an old one a new meaning.
"""

from enum import StrEnum
from typing import Self


class Code(StrEnum):
    """A reason. ``sentence`` says what it means, ``remedy`` what to do."""

    sentence: str
    remedy: str

    def __new__(cls, value: str, sentence: str, remedy: str) -> Self:
        """Attach the sentence and the remedy to the value."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        member.remedy = remedy
        return member

    # -- messages and files ------------------------------------------------
    TOO_LARGE = (
        "too_large",
        "More bytes than the protocol allows were offered.",
        "Find the sender; a well-behaved one never sends this.",
    )
    MALFORMED = (
        "malformed",
        "The bytes are not a message of the expected form.",
        "Check that both ends run compatible versions.",
    )
    VERSION_UNKNOWN = (
        "version_unknown",
        "The message is of a protocol version this end does not speak.",
        "Update the older end.",
    )

    # -- the broker --------------------------------------------------------
    BROKER_UNREACHABLE = (
        "broker_unreachable",
        "No broker answered at the configured address.",
        "Check the address, the port and that the broker runs.",
    )
    BROKER_REFUSED = (
        "broker_refused",
        "The broker refused the credentials.",
        "Check the user name, the password and the broker's permissions.",
    )
    CERTIFICATE_INVALID = (
        "certificate_invalid",
        "A certificate has expired, or is not trusted by the other end.",
        "Check the clock, then renew it: device enrol --again.",
    )
    BROKER_MISSING = (
        "broker_missing",
        "The broker's program is not on this machine.",
        "Install it with the command in the detail, or choose the other broker.",
    )
    BROKER_FAILED = (
        "broker_failed",
        "The controller's own broker did not start, or died.",
        "Read the end of its log in the detail.",
    )
    PORT_TAKEN = (
        "port_taken",
        "Another program already listens at the broker's address.",
        "Stop that program, or choose another port in settings.toml.",
    )
    NOT_CONNECTED = (
        "not_connected",
        "There is no connection to the broker right now.",
        "Nothing: it is tried again.",
    )
    TIMED_OUT = (
        "timed_out",
        "No answer came in time.",
        "Nothing: it is tried again.",
    )

    # -- trust, in the order of PROTOCOL.md section 6 ----------------------
    METADATA_INVALID = (
        "metadata_invalid",
        "The signed metadata could not be verified.",
        "Check that the device was enrolled in this fleet.",
    )
    METADATA_ROLLBACK = (
        "metadata_rollback",
        "Metadata older than what this device has already accepted was offered.",
        "Restore the controller's repository from its newest backup.",
    )
    METADATA_EXPIRED = (
        "metadata_expired",
        "The signed metadata has expired.",
        "Check the device's clock and that the controller is running.",
    )
    METADATA_STALE = (
        "metadata_stale",
        "The device is connected and has had no new signed metadata for too long.",
        "Check that the controller serves metadata; else treat as an attack.",
    )
    TIME_INVALID = (
        "time_invalid",
        "An answer that tells the time was not signed by who may, or for this device.",
        "Treat as an attack on the broker until shown otherwise.",
    )
    ASSIGNMENT_UNSIGNED = (
        "assignment_unsigned",
        "The assignment does not carry a valid signature of the director.",
        "Treat as an attack on the broker until shown otherwise.",
    )
    WRONG_DEVICE = (
        "wrong_device",
        "The assignment names another device.",
        "Treat as an attack on the broker until shown otherwise.",
    )
    WRONG_CLASS = (
        "wrong_class",
        "The assignment or its artifact is for another device class.",
        "Treat as an attack until shown otherwise; check the device's class.",
    )
    ASSIGNMENT_EXPIRED = (
        "assignment_expired",
        "The assignment has expired.",
        "Check the device's clock; the controller signs a fresh one when it runs.",
    )
    ASSIGNMENT_REPLAYED = (
        "assignment_replayed",
        "An assignment with an older or a reused sequence number was offered.",
        "Treat as an attack on the broker until shown otherwise.",
    )
    TARGET_UNKNOWN = (
        "target_unknown",
        "The class role does not list the artifact that was assigned.",
        "Publish the release for this class before assigning it.",
    )
    TARGET_MISMATCH = (
        "target_mismatch",
        "Director and class role disagree on the artifact's digest or length.",
        "Treat as an attack until shown otherwise.",
    )
    RELEASE_DOWNGRADE = (
        "release_downgrade",
        "An older release than this device has accepted, without a signed permission.",
        "Let a class signer permit it: quarterdeck release permit-downgrade.",
    )
    TARGET_REVOKED = (
        "target_revoked",
        "The class role no longer lists the artifact: it was revoked.",
        "Roll out another release; a device goes on running it until then.",
    )
    SEAL_INVALID = (
        "seal_invalid",
        "The sealed artifact cannot be opened on this device.",
        "Assign it again; if this repeats, enrol the device anew.",
    )
    FLOOR_DAMAGED = (
        "floor_damaged",
        "The device's own record of what it has accepted is damaged.",
        "Check the disk, then enrol the device again into an empty state folder.",
    )
    INCOMPATIBLE = (
        "incompatible",
        "The device lacks what the artifact needs.",
        "Check the class of the device and the release's requirements.",
    )
    QUARANTINED = (
        "quarantined",
        "This artifact failed on this device before and is not tried again.",
        "Release a mended version, or lift the quarantine.",
    )

    # -- transfer and disk -------------------------------------------------
    CHUNK_INVALID = (
        "chunk_invalid",
        "A chunk's bytes do not have the digest that the signed index lists.",
        "Treat as an attack on the broker until shown otherwise.",
    )
    ARTIFACT_INVALID = (
        "artifact_invalid",
        "The artifact on disk does not have the digest that was signed.",
        "It is fetched again; check the disk if this repeats.",
    )
    DISK_FULL = (
        "disk_full",
        "There is not enough room on the disk.",
        "Free space there; a device then goes on by itself.",
    )
    DISK_FAILED = (
        "disk_failed",
        "The disk could not be read or written.",
        "Check the disk, and the permissions of what the detail names.",
    )
    FETCH_STALLED = (
        "fetch_stalled",
        "No chunk arrived for too long.",
        "Check that the controller is running; it is tried again.",
    )

    # -- the evidence on the device ----------------------------------------
    LOAD_FAILED = (
        "load_failed",
        "The runtime on this device could not load the model.",
        "Optimize the model for the runtime that this class has.",
    )
    GOLDEN_FAILED = (
        "golden_failed",
        "The model did not reproduce its golden vectors on this device.",
        "Look at the evaluation: the quantization is wrong, or the class is.",
    )
    LATENCY_EXCEEDED = (
        "latency_exceeded",
        "The model is slower on this device than its class allows.",
        "Optimize for a lower latency, or raise the class's limit.",
    )
    MEMORY_EXCEEDED = (
        "memory_exceeded",
        "The model needs more memory on this device than its class allows.",
        "Optimize for less memory, or raise the class's limit.",
    )
    WORKER_CRASHED = (
        "worker_crashed",
        "The process that runs the model died.",
        "Look at the agent's log for the signal.",
    )
    WORKER_HUNG = (
        "worker_hung",
        "The process that runs the model stopped answering.",
        "Look at the agent's log; the worker was ended.",
    )
    PROBATION_FAILED = (
        "probation_failed",
        "The model failed on live requests during its probation.",
        "Look at the errors and latencies of the probation window.",
    )
    SUPERSEDED = (
        "superseded",
        "A newer assignment arrived first.",
        "Nothing: the newer one is carried out.",
    )

    # -- running the agent -------------------------------------------------
    SETTINGS_INVALID = (
        "settings_invalid",
        "The settings cannot be used.",
        "Mend what is named; device enrol --again writes a device's settings anew.",
    )
    STATE_DAMAGED = (
        "state_damaged",
        "The agent's record of what is installed was damaged.",
        "Nothing: the device recovers by itself; check the disk if it repeats.",
    )

    # -- requests to the model ---------------------------------------------
    REQUEST_INVALID = (
        "request_invalid",
        "The request does not hold a tensor that can be read.",
        "Send a .npy or .npz file without pickled objects.",
    )
    OVERLOADED = (
        "overloaded",
        "More requests arrived than the model can answer.",
        "Send fewer, or choose a class with a faster device.",
    )
    NOTHING_ACTIVE = (
        "nothing_active",
        "No model is installed on this device yet.",
        "Assign a release to the device.",
    )

    # -- identity ----------------------------------------------------------
    DUPLICATE_IDENTITY = (
        "duplicate_identity",
        "Two agents use the same identity.",
        "Stop one of them; enrol each device under its own id.",
    )

    TOKEN_INVALID = (
        "token_invalid",
        "The enrolment token is unknown, used, expired or for another device.",
        "Make a new one: quarterdeck device enrol ID --class K --again.",
    )
    REQUEST_UNPROVEN = (
        "request_unproven",
        "The certificate request is not one that the device may make.",
        "Treat as an attack until shown otherwise; let the device enrol again.",
    )
    DEVICE_REVOKED = (
        "device_revoked",
        "The device was revoked and may not speak to this fleet.",
        "Let it back in with: quarterdeck device replace ID.",
    )
    NOT_ENROLLED = (
        "not_enrolled",
        "This device has no certificate yet.",
        "Run quarterdeck-agent enrol with the token of this device.",
    )
    KEY_UNUSABLE = (
        "key_unusable",
        "A private key cannot be opened or used.",
        "Check the passphrase, the token and that the file is the right one.",
    )

    # -- signing -----------------------------------------------------------
    OFFLINE_KEYS_HERE = (
        "offline_keys_here",
        "Keys that belong offline are in the controller's home.",
        "Take them away, or say that this is a test: test = true in settings.toml.",
    )
    KEY_INVALID = (
        "key_invalid",
        "The file holds no signing key that can be used.",
        "Name another file; quarterdeck key create makes keys.",
    )
    KEY_LOCKED = (
        "key_locked",
        "The key's passphrase or PIN is missing or wrong.",
        "Give it when asked, with --passphrase-file or QUARTERDECK_PASSPHRASE_FILE.",
    )
    SIGNATURES_MISSING = (
        "signatures_missing",
        "Signatures of keys that are not on this machine are needed.",
        "Export the request, sign it where the keys are, and import it again.",
    )
    SIGNATURE_INVALID = (
        "signature_invalid",
        "A signature does not fit what was to be signed, or its key may not sign it.",
        "Sign the newest request again, with a key of the role.",
    )
    PROVENANCE_INVALID = (
        "provenance_invalid",
        "Nobody who may vouches for how the variant was made.",
        "Optimize it again, or attest it: quarterdeck model attest.",
    )
    GATE_FAILED = (
        "gate_failed",
        "The variant failed the gate before signing.",
        "See the detail; a variant that fails here would fail on devices.",
    )
    RELEASE_REVOKED = (
        "release_revoked",
        "The release was revoked.",
        "Take another release; release list shows those in force.",
    )

    # -- operators ---------------------------------------------------------
    UNAUTHENTICATED = (
        "unauthenticated",
        "Nobody knows who asks.",
        "Give your token in QUARTERDECK_TOKEN, or your certificate with --identity.",
    )
    NOT_PERMITTED = (
        "not_permitted",
        "The operator's role does not include this.",
        "Ask somebody of the role in the detail.",
    )
    AUDIT_BROKEN = (
        "audit_broken",
        "The audit log was changed afterwards, or lacks entries.",
        "Treat as an intrusion: compare it with a copy kept elsewhere.",
    )

    # -- the operator's input ----------------------------------------------
    DATA_UNAVAILABLE = (
        "data_unavailable",
        "A data set that is fetched when it is first needed could not be had.",
        "Check the network and try again, or put the file where the detail says.",
    )
    MODEL_INVALID = (
        "model_invalid",
        "The file is not an ONNX model that can be optimized.",
        "Export the model again; see the detail.",
    )
    DATA_INVALID = (
        "data_invalid",
        "The data does not fit the model.",
        "Bring one array per model input, samples first, and labels of equal count.",
    )
    BUDGET_MISSED = (
        "budget_missed",
        "No recipe met the class's budget.",
        "See the table: relax the budget or bring a better float model.",
    )
    PROFILE_INVALID = (
        "profile_invalid",
        "The target profile is unknown or not valid.",
        "List the classes that exist with: quarterdeck class list",
    )
    HOME_MISSING = (
        "home_missing",
        "There is no fleet home here.",
        "Make one with: quarterdeck init",
    )
    HOME_INVALID = (
        "home_invalid",
        "The fleet home is damaged or of another version.",
        "See the detail; restore it from a backup.",
    )
    EXPORT_DAMAGED = (
        "export_damaged",
        "The folder that holds a request is incomplete, or was changed on the way.",
        "Copy it again from where key export wrote it, or export the request again.",
    )
    STORE_BUSY = (
        "store_busy",
        "Another process held the database for too long.",
        "Try again; find the process if this repeats.",
    )
    NOT_FOUND = (
        "not_found",
        "Nothing by that name exists.",
        "List what exists with the noun's list command.",
    )
    NAME_INVALID = (
        "name_invalid",
        "The name cannot be used.",
        "Use lower-case letters, digits and inner hyphens, 64 at most.",
    )
    LIST_INVALID = (
        "list_invalid",
        "The list of devices cannot be used; nothing was changed.",
        "Mend the lines that the detail names, and give it again.",
    )
    SELECTOR_INVALID = (
        "selector_invalid",
        "The selector makes no sense.",
        "Write all, class=board-arm64, tag=site-a, several joined by commas, or ids.",
    )
    CONFLICT = (
        "conflict",
        "It clashes with something that exists already.",
        "See the detail.",
    )
    NOT_ALLOWED = (
        "not_allowed",
        "The state it is in does not allow that.",
        "See the detail.",
    )
    POLICY_INVALID = (
        "policy_invalid",
        "The rollout policy makes no sense.",
        "See the detail.",
    )
