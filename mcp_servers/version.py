"""Which version of Zonda this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def installed_version() -> str:
    """Return the installed distribution's version, "0" for a checkout that is not installed."""
    try:
        return version("zonda")
    except PackageNotFoundError:
        return "0"
