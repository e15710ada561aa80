"""Pictures of the server and its tools: line drawings of 24 by 24, as `data:` URIs."""

from __future__ import annotations

from urllib.parse import quote

from mcp_servers.toolset_server import Icons

_PATHS = {
    "zonda": "M3 8h11a3 3 0 1 0-3-3M3 12h15a3 3 0 1 1-3 3M3 16h7a2 2 0 1 1-2 2",
    "generate": "M4 6h16M4 12h16M4 18h9",
    "extract": "M8 4c-3 0-1 8-4 8 3 0 1 8 4 8M16 4c3 0 1 8 4 8-3 0-1 8-4 8",
    "choose": "M5 12l5 5 9-10",
    "generate_batch": "M4 5h10M4 10h10M4 15h10M18 5v10l3-3M18 15l-3-3",
    "embed": "M12 12l7-7M12 12L4 8M12 12l3 8M14 5h5v5",
    "chat": "M4 5h16v11H10l-4 4v-4H4z",
    "run_result": "M12 4a8 8 0 1 0 8 8M12 8v4l3 2",
    "agent_run": "M7 9h10v9H7zM12 5v4M10 13h.01M14 13h.01",
    "model_load": "M12 4v11M7 10l5 5 5-5M5 20h14",
    "model_unload": "M12 15V4M7 9l5-5 5 5M5 20h14",
}


def _draw(path: str) -> str:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" '
        f'stroke="#0b7285" stroke-width="2" stroke-linecap="round"><path d="{path}"/></svg>'
    )
    return "data:image/svg+xml," + quote(svg, safe=":/=")


ICONS = Icons(
    server=_draw(_PATHS["zonda"]),
    tools={name: _draw(path) for name, path in _PATHS.items() if name != "zonda"},
)
