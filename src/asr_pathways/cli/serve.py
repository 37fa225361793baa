"""``serve``: a MODEL behind HTTP."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from asr_pathways.errors import PathwaysError


def serve(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Any MODEL.", show_default=False)],
    host: Annotated[
        str, typer.Option(help="Where to listen; 0.0.0.0: everywhere, for other machines too.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Requests that are recognised at once.", show_default="one a processor")
    ] = None,
    wyoming: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, metavar="PORT", help="Also serve Home Assistant (Wyoming) there.", show_default=False
        ),
    ] = None,
    max_streams: Annotated[int, typer.Option(min=1, help="Streams that are open at once.")] = 16,
    token: Annotated[
        str | None,
        typer.Option(envvar="ASR_PATHWAYS_TOKEN", help="What clients must send.", show_default=False),
    ] = None,
) -> None:
    """Serves a model: OpenAI's transcriptions, streams over WebSockets, Wyoming, and a page with live captions.

    Example: asr-pathways serve runs/small/small.asrp
    """
    wanted = ["starlette", "uvicorn", "websockets", "python_multipart"]
    for package in wanted if wyoming is None else [*wanted, "wyoming"]:
        if find_spec(package) is None:
            raise PathwaysError(f"serve needs the package {package}: pip install 'asr-pathways[serve]'")
    from asr_pathways.serve.run import serve as run
    from asr_pathways.serve.service import Options

    options = Options(threads or os.cpu_count() or 1, max_streams, token=token)
    run(model, host, port, options, lambda address: typer.echo(f"{address}: Ctrl-C ends it", err=True), wyoming)
