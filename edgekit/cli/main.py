"""The command line: find the command, call it, end with its exit code. Nothing heavy is imported before a command runs."""

import ast
import importlib
import json
import pkgutil
import signal
import sys
import traceback
from typing import Any, NoReturn

import click

from edgekit import __version__
from edgekit.cli import commands, options
from edgekit.cli.options import EXIT_CODES, fail
from edgekit.errors import DISK_FULL, ConfigError, EdgekitError, InputError, OutputError, WorkerError


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0, or the error's own code with one line on stderr."""
    _prepare()
    try:
        sys.exit(_run(sys.argv[1:] if arguments is None else arguments) or 0)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        _interrupted()


def _run(arguments: list[str]) -> Any:
    detail, code = "", WorkerError.exit_code
    try:
        return cli.main(arguments, prog_name="edgekit", standalone_mode=False)
    except (KeyboardInterrupt, SystemExit, click.Abort, click.exceptions.Exit):
        raise
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return ConfigError.exit_code
    except EdgekitError as error:
        message, code, detail = error.message, error.exit_code, error.detail or traceback.format_exc()
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "edgekit"
        message, code = f"{error.format_message()} See {command} --help", ConfigError.exit_code
    except BaseException as error:  # a panic of Rust is no Exception
        message = f"unforeseen {type(error).__name__}: {' '.join(str(error).split())[:300]}; run with --debug and report it"
        detail = traceback.format_exc()
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            place = error.filename or "stdout, or a temporary file"
            message, code = f"{place}: {error.strerror}; free some space, or set TMPDIR", OutputError.exit_code
        elif isinstance(error, OSError) and error.filename:
            message = f"{str(error.filename)[:200]}: {error.strerror}; check the path and its permissions"
            code = InputError.exit_code
    if detail and "--debug" in arguments:
        click.echo(detail, err=True)
    if "--json" in arguments:
        # On one line, for those who read results line by line.
        click.echo(json.dumps({"error": message, "exit_code": code}, ensure_ascii=False))
    return fail(message, code)


def _prepare() -> None:
    """Characters that the terminal lacks are replaced, and the signals that end a process let it clean up first."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)


def _interrupted() -> NoReturn:
    """How a command ends on Ctrl-C."""
    options.say("edgekit: error: interrupted; each output is as it was before or whole", err=True)
    sys.exit(options.INTERRUPTED)


def _end(number: int, _: Any) -> None:
    options.say(f"edgekit: error: ended by {signal.Signals(number).name}", err=True)
    sys.exit(128 + number)


class _Listed(click.Command):
    """A command that is only listed: the line about it is read from its source, since importing all of them takes a second."""

    def get_short_help_str(self, limit: int = 45) -> str:
        functions = ast.parse(pkgutil.get_data(commands.__name__, f"{self.name}.py") or b"").body
        self.help = next(ast.get_docstring(one) for one in functions if isinstance(one, ast.FunctionDef) and one.name == self.name)
        return super().get_short_help_str(limit)


class _Lazy(click.Group):
    """Lists its commands by name; a command's module is imported when the command is called or its own help is shown."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name, listed, rest = super().resolve_command(ctx, args)
        if name is None:
            return name, listed, rest
        return name, getattr(importlib.import_module(f"edgekit.cli.commands.{name}"), name), rest


@click.group(
    cls=_Lazy,
    commands=[_Listed(module.name) for module in pkgutil.iter_modules(commands.__path__)],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=EXIT_CODES,
)
@click.version_option(__version__, "--version", prog_name="edgekit")
def cli() -> None:
    """From a PyTorch checkpoint to .tflite files that were run and measured before they got their names."""
