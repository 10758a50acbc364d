"""The command ``quarterdeck-agent``."""

import argparse
import asyncio
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from quarterdeck_agent.logs import set_up_logs
from quarterdeck_agent.settings import load_settings
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
    status = verbs.add_parser("status", help="show what runs and how the update stands")
    status.add_argument("--json", action="store_true", help="as one JSON object")
    status.set_defaults(act=_status)
    for verb in (run, status):
        verb.add_argument("--config", type=Path, required=True, metavar="agent.toml")
    return parser


def _run(given: argparse.Namespace) -> int:
    set_up_logs(as_json=given.log_json, verbose=given.verbose)
    settings = load_settings(given.config)
    # Loaded late, so that asking for the status costs little.
    service = importlib.import_module("quarterdeck_agent.service")
    return int(asyncio.run(service.run(settings)))


def _status(given: argparse.Namespace) -> int:
    shown = read_status(load_settings(given.config).state)
    sys.stdout.write((json.dumps(shown) if given.json else render(shown)) + "\n")
    return 0
