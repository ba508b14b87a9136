"""The command line. Each command imports what it needs when it runs, so that usage and errors are instant."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gradwatch import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

DONE, UNHEALTHY, UNUSABLE, INTERRUPTED = 0, 1, 2, 130
# What a file that is not ours, or claims what no run can be, may make of reading it.
UNREADABLE = (OSError, ValueError, OverflowError, MemoryError, RecursionError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0 done, 1 unhealthy, 2 wrong usage or unreadable input."""
    parsed = _parser().parse_args(arguments)
    status: int = parsed.command(parsed)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gradwatch", description="Numerical health of PyTorch Lightning trainings.")
    parser.add_argument("--version", action="version", version=f"gradwatch {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_show(commands)
    _add_compare(commands)
    _add_replay(commands)
    _add_report(commands)
    _add_rules(commands)
    return parser


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "train three small models and one with a real bug under the monitor, and show what it saw"
    demo = commands.add_parser("demo", help=text, description=f"{text[0].upper()}{text[1:]}.")
    demo.add_argument(
        "--dir", type=Path, default=Path("gradwatch_demo"), help="where to write; a second run gets a subfolder"
    )
    demo.add_argument("--quick", action="store_true", help="a few steps each, too few to learn anything")
    demo.set_defaults(command=_demo)


def _demo(arguments: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415 - lazy, see above

    from gradwatch.demo.setting import DemoError, check_packages, fresh_folder  # noqa: PLC0415

    try:
        check_packages()
        folder = fresh_folder(arguments.dir)
    except DemoError as error:
        return _complain(f"demo: {error}", UNUSABLE)
    console = Console(highlight=False)
    duration = "a few seconds" if arguments.quick else "one to two minutes"
    used = "" if folder == arguments.dir else f" ({arguments.dir} is in use)"
    console.print(f"Three trainings and a real bug, {duration}, in {folder}{used}", markup=False, soft_wrap=True)
    try:
        from gradwatch.demo.run import run_demo  # noqa: PLC0415 - imports torch

        return DONE if run_demo(console, folder, quick=arguments.quick) else UNHEALTHY
    except (KeyboardInterrupt, SystemExit):  # Lightning turns Ctrl-C into SystemExit
        return _complain(f"demo: interrupted; what was written so far is in {folder}", INTERRUPTED)


def _add_show(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "show on one screen how a run went, and what it died of"
    show = commands.add_parser("show", help=text, description=f"{text[0].upper()}{text[1:]}.")
    show.add_argument("path", type=Path, metavar="DIR", help="folder of a run, one of its logs, or a folder above")
    show.add_argument("--run", metavar="ID", help="the run whose id begins so, where there are several (default: last)")
    show.add_argument("--check", action="store_true", help="exit with status 1 if the run is unhealthy")
    show.add_argument("--json", action="store_true", help="one JSON object for programs instead of a screen")
    show.set_defaults(command=_show)


def _show(arguments: argparse.Namespace) -> int:
    try:
        from gradwatch.report.terminal.command import show  # noqa: PLC0415 - imports numpy and rich

        healthy = show(arguments.path, run_id=arguments.run, as_json=arguments.json)
    except UNREADABLE as error:
        return _unreadable("show", error)
    except KeyboardInterrupt:
        return _complain("show: interrupted", INTERRUPTED)
    return UNHEALTHY if arguments.check and not healthy else DONE


def _add_compare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "say what differs between runs or groups of seeds, and from which step on their curves part"
    compare = commands.add_parser("compare", help=text, description=f"{text[0].upper()}{text[1:]}.")
    compare.add_argument("paths", type=Path, nargs="+", metavar="DIR", help="folder of a run, or one of its logs")
    compare.add_argument(
        "--against",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="a second group of runs (default: runs that agree in all settings but the seed are one group)",
    )
    compare.add_argument("-o", "--output", type=Path, metavar="FILE", help="write a page (HTML) with the curves, too")
    compare.add_argument("--force", action="store_true", help="write over FILE whatever it is")
    compare.add_argument("--json", action="store_true", help="one JSON object for programs instead of tables")
    compare.set_defaults(command=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    try:
        from gradwatch.report.compare.command import compare_runs  # noqa: PLC0415 - imports numpy and rich

        compare_runs(
            arguments.paths,
            arguments.against,
            output=arguments.output,
            force=arguments.force,
            as_json=arguments.json,
        )
    except UNREADABLE as error:
        return _unreadable("compare", error)
    except KeyboardInterrupt:
        return _complain("compare: interrupted", INTERRUPTED)
    return DONE


def _add_replay(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "run the failing step of an incident again and name the operation that made the bad value"
    replay = commands.add_parser("replay", help=text, description=f"{text[0].upper()}{text[1:]}.")
    replay.add_argument("directory", type=Path, metavar="INCIDENT_DIR", help="folder with incident.json")
    replay.add_argument(
        "--factory",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="what returns the module, if its class and saved hyperparameters do not",
    )
    replay.add_argument("--device", help="where to run the step (default: cpu)")
    replay.add_argument("--pdb", action="store_true", help="stop at the birth, with its tensors at hand")
    replay.set_defaults(command=_replay)


def _replay(arguments: argparse.Namespace) -> int:
    try:
        if not (arguments.directory / "incident.json").is_file():
            return _complain(f"replay: {arguments.directory} holds no incident.json", UNUSABLE)
        from rich.console import Console  # noqa: PLC0415 - lazy, see above

        from gradwatch.integrations.replay_command import replay  # noqa: PLC0415 - imports torch

        same = replay(
            Console(highlight=False),
            arguments.directory,
            factory=arguments.factory,
            device=arguments.device,
            debug=arguments.pdb,
        )
    except KeyboardInterrupt:
        return _complain("replay: interrupted", INTERRUPTED)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the step is the user's, the files are anybody's
        return _complain(f"replay: {_first_line(error)}", UNUSABLE)
    return DONE if same else UNHEALTHY


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "write a run as one HTML page that explains it, to open anywhere, offline"
    report = commands.add_parser("report", help=text, description=f"{text[0].upper()}{text[1:]}.")
    report.add_argument("path", type=Path, metavar="DIR", help="folder of a run, one of its logs, or a folder above")
    report.add_argument("-o", "--output", type=Path, metavar="FILE", help="what to write (default: DIR/report.html)")
    report.add_argument("--run", metavar="ID", help="the run whose id begins so (default: the last one)")
    report.add_argument("--force", action="store_true", help="overwrite a file that is no report")
    report.set_defaults(command=_report)


def _report(arguments: argparse.Namespace) -> int:
    try:
        from gradwatch.report.html.command import summary, write_report  # noqa: PLC0415 - imports numpy and rich

        file, length, others = write_report(
            arguments.path, arguments.output, run_id=arguments.run, force=arguments.force
        )
    except UNREADABLE as error:
        return _unreadable("report", error)
    except KeyboardInterrupt:
        return _complain("report: interrupted", INTERRUPTED)
    if others is not None:
        sys.stderr.write(f"{others}\n")
    sys.stdout.write(f"{summary(file, length)}\n")
    return DONE


def _add_rules(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    text = "list what the monitor can find, or explain one rule"
    rules = commands.add_parser("rules", help=text, description=f"{text[0].upper()}{text[1:]}.")
    rules.add_argument("code", nargs="?", metavar="CODE", help="a rule, as in a finding")
    rules.set_defaults(command=_rules)


def _rules(arguments: argparse.Namespace) -> int:
    from rich.console import Console  # noqa: PLC0415 - lazy, see above

    from gradwatch.detectors.catalogue import terminal  # noqa: PLC0415 - as above
    from gradwatch.detectors.catalogue.families import RULES  # noqa: PLC0415 - as above

    console = Console(highlight=False)
    if arguments.code is None:
        terminal.print_rules(console)
        return DONE
    rule = RULES.get(arguments.code)
    if rule is None:
        return _complain(f"rules: {terminal.meant(arguments.code)}", UNUSABLE)
    terminal.print_rule(console, rule)
    return DONE


def _first_line(error: BaseException) -> str:
    """Return what a user is told: our own errors and the system's speak for themselves, others need their type."""
    text, name = str(error).strip().partition("\n")[0], type(error).__name__
    if isinstance(error, (ValueError, OSError)) and text:
        return text
    return f"{name}: {text}" if text else name


def _unreadable(command: str, error: BaseException) -> int:
    """Say in one line what cannot be read. Names of files are data: what a terminal would act upon is escaped."""
    from gradwatch.report.text import clean  # noqa: PLC0415 - lazy, see above

    return _complain(f"{command}: {clean(str(error).strip()) or type(error).__name__}", UNUSABLE)


def _complain(message: str, status: int) -> int:
    sys.stderr.write(f"gradwatch {message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
