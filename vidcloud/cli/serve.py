"""``vidcloud serve``."""

from pathlib import Path

import click

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--listen", default="127.0.0.1:8080", show_default=True, metavar="ADDRESS:PORT",
              help="Where to answer; 0.0.0.0:8080 for other machines, port 0 for a free one.")  # fmt: skip
@click.option("--cert", type=_FILE, metavar="FILE", help="Certificate in PEM: serve https, TLS 1.2 or later.")
@click.option("--key", type=_FILE, metavar="FILE", help="Its key in PEM, if it isn't in the same file.")
def serve(folder: Path, listen: str, cert: Path | None, key: Path | None) -> None:
    """Serve the files in DIR to instances: role scripts, bundles, inputs.

    Whoever reaches the port can read what is in DIR, if its name is known: there is no listing, nothing outside DIR,
    and nothing whose name begins with a dot. Ranges are given. ^C ends it.
    """
    from vidcloud import log
    from vidcloud.serve import open_server

    log.setup()
    with open_server(folder, listen, cert=cert, key=key) as server:
        click.echo(server.url)
        server.serve_forever()
