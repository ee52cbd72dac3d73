"""`edgekit completion`."""

import click

from edgekit.cli import options


@options.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell: eval "$(edgekit completion bash)"."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is not None:
        click.echo(found(click.get_current_context().find_root().command, {}, "edgekit", "_EDGEKIT_COMPLETE").source())
