"""`zonda models`: which models there are, which are here, and which fit this machine."""

from __future__ import annotations

import typer

from mcp_servers.cli.options import ConfigFile
from runtime.config import load_config

GIB = 1 << 30


def models(*, config_file: ConfigFile = None) -> None:
    """List the models Zonda knows by name; any GGUF file or model folder works by its path."""
    config = load_config(config_file=config_file)
    from runtime.memory import HEADROOM_BYTES, free_memory
    from runtime.sources import MODELS, resolve_model

    free_bytes = free_memory()
    width = max(len(name) for name in MODELS)
    for name, source in MODELS.items():
        path = resolve_model(name, config.cache_dir)
        place = f"in {path}" if path is not None else f"not here yet: zonda pull {name}"
        needed_bytes = source.size_bytes + HEADROOM_BYTES
        fits = "" if free_bytes is None or needed_bytes <= free_bytes else ", too big for now"
        marker = "*" if name == config.model else " "
        size_mb = source.size_bytes / 1e6
        typer.echo(f"{marker} {name:<{width}}  {size_mb:5.0f} MB  {source.licence:<12}  {place}")
        typer.echo(f"  {'':<{width}}  {source.description}; {needed_bytes / GIB:.1f} GiB{fits}")
    if free_bytes is not None:
        typer.echo(f"{free_bytes / GIB:.1f} GiB of memory are free; each needs what it says above")
        typer.echo("on a CPU, and room for its context.")
    typer.echo(
        "* is the default; --model or ZONDA_MODEL choose another: a name, hf:ORG/REPO[/FILE],"
    )
    typer.echo("a GGUF file, or a folder of safetensors.")
