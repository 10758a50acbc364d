"""The command ``quarterdeck-agent``."""

import argparse
import asyncio
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from quarterdeck_agent.logs import set_up_logs
from quarterdeck_agent.settings import Settings, load_settings
from quarterdeck_agent.status import read_status, render
from quarterdeck_shared.errors import QuarterdeckError

EXIT_ERROR, EXIT_INTERRUPTED = 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the agent, or show what it does; return the exit code."""
    given = _parser().parse_args(arguments)
    try:
        return int(given.act(given))
    except QuarterdeckError as error:
        sys.stderr.write(f"error {error.code}: {error.detail}\n")
        sys.stderr.write(f"  {error.code.sentence} {error.code.remedy}\n")
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED  # before there was anything to stop


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="quarterdeck-agent", description="Runs signed models on this device."
    )
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")
    run = verbs.add_parser("run", help="run the agent until it is told to stop")
    run.add_argument("--log-json", action="store_true", help="log lines as JSON")
    run.add_argument("--verbose", action="store_true", help="log every detail")
    run.set_defaults(act=_run)
    _add_enrol(verbs)
    status = verbs.add_parser("status", help="show what runs and how the update stands")
    status.add_argument("--json", action="store_true", help="as one JSON object")
    status.set_defaults(act=_status)
    for verb in verbs.choices.values():
        verb.add_argument("--config", type=Path, required=True, metavar="agent.toml")
    return parser


def _add_enrol(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    enrol = verbs.add_parser(
        "enrol", help="make a key, and get this device's certificate for it"
    )
    tokens = enrol.add_mutually_exclusive_group()
    tokens.add_argument(
        "--token-file", type=Path, metavar="FILE", help="the token; - for the input"
    )
    tokens.add_argument(
        "--token", help="the token itself; others on this machine may see it"
    )
    enrol.add_argument(
        "--again", action="store_true", help="replace the identity that is there"
    )
    enrol.add_argument(
        "--tpm", action="store_true", help="make the key in this machine's TPM"
    )
    enrol.add_argument(
        "--wait",
        type=float,
        default=300.0,
        metavar="SECONDS",
        help="how long to wait for the broker and the controller (300)",
    )
    enrol.add_argument("--json", action="store_true", help="as one JSON object")
    enrol.set_defaults(act=_enrol)


def _run(given: argparse.Namespace) -> int:
    set_up_logs(as_json=given.log_json, verbose=given.verbose)
    settings = load_settings(given.config)
    # Loaded late, so that asking for the status costs little.
    module = importlib.import_module("quarterdeck_agent.identity.provider")
    _begin_anew_unless(settings, provider=module.needs_provider(settings))
    service = importlib.import_module("quarterdeck_agent.service")
    code = int(asyncio.run(service.run(settings)))
    if code == service.BEGIN_ANEW:
        _begin_anew_unless(settings, provider=module.needs_provider(settings))
    return code


def _enrol(given: argparse.Namespace) -> int:
    set_up_logs(as_json=False, verbose=False)
    settings = load_settings(given.config)
    _begin_anew_unless(settings, provider=False)
    if given.token is not None:
        _tell("the token is in the list of processes; --token-file keeps it out")
    command = importlib.import_module("quarterdeck_agent.identity.command")
    wanted = command.Wanted(
        given.token, given.token_file, given.again, given.tpm, given.wait
    )
    try:
        shown = command.enrol(settings, wanted, _tell)
    except KeyboardInterrupt:
        _tell("stopped; run it again to go on with the same key")
        return EXIT_INTERRUPTED
    text = json.dumps(shown) if given.json else command.render(shown, given.config)
    sys.stdout.write(text + "\n")
    return 0


def _tell(sentence: str) -> None:
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()


def _begin_anew_unless(settings: Settings, *, provider: bool) -> None:
    """Begin anew where OpenSSL has the TPM's provider and may not, or has to."""
    module = importlib.import_module("quarterdeck_agent.identity.provider")
    environment = module.other_environment(settings, provider=provider)
    if environment is not None:
        os.execve(
            sys.executable, [sys.executable, *sys.orig_argv[1:]], dict(environment)
        )


def _status(given: argparse.Namespace) -> int:
    settings = load_settings(given.config)
    shown = read_status(settings.state)
    if "identity" not in shown:
        describe = importlib.import_module("quarterdeck_agent.identity.describe")
        standing = describe.describe_files(settings)
        shown["identity"] = standing.model_dump(mode="json")
    sys.stdout.write((json.dumps(shown) if given.json else render(shown)) + "\n")
    return 0
