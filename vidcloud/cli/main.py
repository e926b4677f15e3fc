"""The entry point: the group of all commands, loaded when called, and the one place that catches errors."""

import os
import sys
from importlib import import_module
from typing import Any

import click

from vidcloud import __version__
from vidcloud.errors import EXIT_FAILURE, EXIT_INTERRUPTED, EXIT_USAGE, VidcloudError

_COMMANDS = {
    "run": ("vidcloud.cli.run", "run", "Filter a video on many nodes."),
    "plan": ("vidcloud.cli.plan", "plan", "Tell how long a video would take with how many nodes."),
    "scale": ("vidcloud.cli.jobs", "scale", "Add or remove processors while a job runs."),
    "status": ("vidcloud.cli.jobs", "status", "Show how a job stands."),
    "watch": ("vidcloud.cli.jobs", "watch", "Follow a job until it ends."),
    "logs": ("vidcloud.cli.jobs", "logs", "Show what the nodes of a job printed."),
    "audit": ("vidcloud.cli.jobs", "audit", "Show where a job's data went."),
    "ssh": ("vidcloud.cli.jobs", "ssh", "Log in to a node's host, or run a command there."),
    "cancel": ("vidcloud.cli.jobs", "cancel", "End a job and all it started."),
    "resume": ("vidcloud.cli.jobs", "resume", "Let a job go on that broke off."),
    "jobs": ("vidcloud.cli.jobs", "jobs", "List jobs."),
    "instances": ("vidcloud.cli.machines", "instances", "List machines in a cloud, of all jobs."),
    "reap": ("vidcloud.cli.machines", "reap", "End machines that nobody needs."),
    "verify": ("vidcloud.cli.verify", "verify", "Hold an output against its proof."),
    "filters": ("vidcloud.cli.filters", "filters", "List, start, test and preview filters."),
    "serve": ("vidcloud.cli.serve", "serve", "Serve a folder's files to instances."),
    "metal": ("vidcloud.cli.metal", "metal", "Reserve, install and give back bare-metal machines."),
    "collector": ("vidcloud.cli.roles", "collector", "The collector's role, for instances."),
    "processor": ("vidcloud.cli.roles", "processor", "The processor's role, for instances."),
    "supervise": ("vidcloud.cli.roles", "supervise", "The launcher's part after --detach."),
}
_HIDDEN = ("supervise",)


class _LazyGroup(click.Group):
    """Imports a command's module when the command is called: ``--help`` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in _COMMANDS if name not in _HIDDEN]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][2]) for name in self.list_commands(ctx)])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="vidcloud")
@click.option("--debug", is_flag=True, envvar="VIDCLOUD_DEBUG", help="Show tracebacks.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Filter a video on many machines, and get exactly the frames that one machine would have made."""
    ctx.obj = {"debug": debug}


def main(argv: list[str] | None = None) -> None:
    """Run a command; map errors to one line and an exit code."""
    # NumPy's BLAS would start a thread a core as it is imported, and let them spin: a role has one thread for that.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    arguments = sys.argv[1:] if argv is None else argv
    # --debug is taken anywhere on the line: it is added after something went wrong.
    debug = "--debug" in arguments or bool(os.environ.get("VIDCLOUD_DEBUG"))
    if "--debug" in arguments:
        arguments = ["--debug", *(a for a in arguments if a != "--debug")]
    try:
        code = cli.main(args=arguments, prog_name="vidcloud", standalone_mode=False)
    except click.exceptions.Exit as e:
        code = e.exit_code
    except click.exceptions.NoArgsIsHelpError as e:
        e.show()
        code = EXIT_USAGE
    except click.ClickException as e:
        _say(e.format_message(), f" (see `{e.ctx.command_path} --help`)" if getattr(e, "ctx", None) else "")  # type: ignore[attr-defined]
        code = EXIT_USAGE if isinstance(e, click.UsageError) else e.exit_code
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted")
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe went away: nothing to tell it. The interpreter's own flush must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_FAILURE
    except VidcloudError as e:
        if debug:
            raise
        _say(str(e))
        code = e.exit_code
    except OSError as e:
        if debug:
            raise
        _say(f"{e.filename or 'vidcloud'}: {e.strerror or e}")
        code = EXIT_FAILURE
    except Exception as e:
        if debug:
            raise
        _say(f"unexpected {type(e).__name__}: {e}; that is a fault of vidcloud's: `vidcloud --debug …` shows where")
        code = EXIT_FAILURE
    sys.exit(code if isinstance(code, int) else 0)


def _say(line: str, more: Any = "") -> None:
    click.echo(f"vidcloud: {' '.join(line.split())}{more}", err=True)


if __name__ == "__main__":
    main()
