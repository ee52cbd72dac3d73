"""`edgekit demo`."""

import os
import webbrowser
from pathlib import Path

import click

from edgekit.cli import options
from edgekit.cli.console import print_json
from edgekit.cli.forked import in_child, timed
from edgekit.system.child import hushed


@options.command()
@click.argument("file", metavar="FILE.tflite", type=click.Path(path_type=Path))
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port on 127.0.0.1; left out, a free one.")
@click.option("--litertjs", type=click.Path(path_type=Path), help="Where LiteRT.js (npm) is installed, if not at its usual place.")
@click.option("--open", "show", is_flag=True, help="Open the page in the default browser.")
@options.threads_option
@options.common
def demo(file: Path, port: int, litertjs: Path | None, show: bool, threads: int, as_json: bool, quiet: bool, seed: int) -> None:
    """Serve a page that runs this very file in the browser, beside edgekit predict; Ctrl-C ends it."""
    from edgekit.deploy.browser.demo import Server, check_runs, find_runtime
    from edgekit.tflite.flatbuffer import check_exists

    check_exists(file)
    runtime = find_runtime(litertjs)
    read, write = os.pipe()
    # A browser that the child started would be confined as it is.
    in_child(file, listens=True, meanwhile=lambda: _open(read, write, show))
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from edgekit.workflows.predict import Predictor

    with hushed(), timed(file):
        predictor = Predictor(file, threads=threads)
    check_runs(predictor)
    with Server(predictor, runtime, port) as server:
        if as_json:
            print_json({"url": server.url, "file": file, "runtime": runtime})
        else:
            options.say(server.url)
        if not quiet:
            click.echo("Ctrl-C ends it.", err=True)
        os.write(write, server.url.encode())
        os.close(write)
        server.serve_forever(poll_interval=0.2)


def _open(read: int, write: int, show: bool) -> None:
    """Open the address that the child writes, once it serves there."""
    os.close(write)
    with os.fdopen(read) as stream:
        address = stream.read()
    if address and show:
        webbrowser.open(address)
