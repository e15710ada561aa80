"""The root of Zonda's exception tree, split by what the caller can do about it.

```
ZondaError
├── InvalidRequestError        what was asked cannot be done: change the request
│   ├── InvalidArgumentsError  arguments that do not match a tool's input schema
│   ├── UnknownToolError       no such tool; the message names the nearest ones
│   └── …                      runtime/errors.py: prompt too long, schema, model name
├── ConfigurationError         a file, flag or variable is wrong: the operator mends it
├── UnavailableError           not now: try again later
│   ├── ToolServerError        an external tool server is lost or silent
│   └── …                      runtime/errors.py: capacity, download
└── …                          runtime/errors.py: damaged or unsupported model file
```

Every message says what was wanted, what was found and what to try; it is fit to be shown
to a user or read by a model as it stands.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ZondaError(Exception):
    """Anything Zonda raises on purpose. `code` is a stable name for wire formats."""

    code = "internal_error"


class InvalidRequestError(ZondaError):
    """What was asked cannot be done as asked; the caller changes the request."""

    code = "invalid_request"


class InvalidArgumentsError(InvalidRequestError):
    """Arguments that do not match the tool's input schema."""

    code = "invalid_arguments"


class UnknownToolError(InvalidRequestError):
    """No tool of that name."""

    code = "unknown_tool"

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(f"no tool is named {name!r}{suggest(name, known)}")


class ConfigurationError(ZondaError):
    """A file, flag or environment variable is wrong; the operator mends it."""

    code = "configuration_error"


class UnavailableError(ZondaError):
    """Something is lost or full for now; the same request may succeed later."""

    code = "unavailable"


class ToolServerError(UnavailableError):
    """An external tool server is missing, lost or silent."""

    code = "tool_server_error"


def suggest(name: str, known: Iterable[str]) -> str:
    """End of a sentence that names what `name` may have meant: `; did you mean 'a'?`."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if near:
        return "; did you mean " + " or ".join(map(repr, near)) + "?"
    listed = ", ".join(map(repr, names[:12])) + (", …" if len(names) > 12 else "")
    return f"; known are {listed}" if names else "; there are none"
