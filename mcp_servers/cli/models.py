"""`zonda models`: which models there are, and which are here."""

from __future__ import annotations

import typer

from runtime.config import load_config


def models() -> None:
    """List the models Zonda knows by name; any GGUF file works by its path."""
    config = load_config()
    from runtime.sources import MODELS, resolve_model

    width = max(len(name) for name in MODELS)
    for name, source in MODELS.items():
        path = resolve_model(name, config.cache_dir)
        place = f"in {path}" if path is not None else f"not here yet: zonda pull {name}"
        size_mb = source.size_bytes / 1e6
        marker = "*" if name == config.model else " "
        typer.echo(f"{marker} {name:<{width}}  {size_mb:5.0f} MB  {source.licence:<12}  {place}")
        typer.echo(f"  {'':<{width}}  {source.description}")
    typer.echo("* is the default; --model or ZONDA_MODEL choose another, also by path.")
