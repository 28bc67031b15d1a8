"""`oneseek serve`."""

from __future__ import annotations

import re
from pathlib import Path

import click

from oneseek.cli import options
from oneseek.server.log import LEVELS

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


def in_bytes(ctx: click.Context, param: click.Parameter, value: str) -> int:
    """A size as people write it: 20GB, 1.5 TB, 500000."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([kmgt]?b)?", value.strip().lower(), re.ASCII)
    if found is None:
        raise click.BadParameter(f"{value!r} is no size. Write it as 20GB or 500MB.", ctx, param)
    return int(float(found[1]) * _UNITS[found[2] or ""])


@click.command(params=options.places())
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=3001, show_default=True, help="0 takes a free one.")
@click.option("--certfile", type=click.Path(path_type=Path), help="TLS certificate, with its chain, in PEM.")
@click.option("--keyfile", type=click.Path(path_type=Path), help="TLS private key, in PEM.")
@click.option("--behind-proxy", is_flag=True, help="A proxy in front of it speaks TLS.")
@click.option("--public-url", metavar="URL", default="", help="Where that proxy is reached, as https://NAME.")
@click.option("--allowed-host", "allowed_hosts", metavar="NAME", multiple=True, help="Another name it is asked for by.")
@click.option(
    "--devices", metavar="NAME,...", default="", help="Where runs may train: cpu, cuda:0, …; all unless given."
)
@click.option(
    "--upload-limit",
    metavar="SIZE",
    default="20GB",
    show_default=True,
    callback=in_bytes,
    help="The largest dataset that it takes.",
)
@click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="What it logs.")
def serve(
    root: Path | None,
    models_dir: Path | None,
    host: str,
    port: int,
    certfile: Path | None,
    keyfile: Path | None,
    behind_proxy: bool,
    public_url: str,
    allowed_hosts: tuple[str, ...],
    devices: str,
    upload_limit: int,
    log_level: str,
) -> None:
    """Serve this home: datasets, models, runs and the ledger over HTTP, runs as they go on over WebSockets.

    As long as it has no administrator it prints a one-time link that makes one. Runs are processes of their own: they
    go on when the server ends, and the next one finds them. What it logs goes to standard error, one JSON object a
    line. An address that other machines can reach needs TLS, by --certfile and --keyfile or by a proxy.

    \b
    oneseek serve
    oneseek serve --home /srv/oneseek --devices cuda:0,cuda:1
    oneseek serve --behind-proxy --public-url https://oneseek.example.org
    """
    from oneseek.api import home
    from oneseek.config.schema import split_list
    from oneseek.server.serve import serve as answer  # FastAPI is imported where something is served

    answer(
        home(root, models_dir),
        host,
        port,
        certfile=certfile,
        keyfile=keyfile,
        behind_proxy=behind_proxy,
        public_url=public_url,
        allowed_hosts=allowed_hosts,
        devices=split_list(devices),
        largest_upload=upload_limit,
        log_level=log_level,
    )
