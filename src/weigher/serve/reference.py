"""The page /docs: the API described for people, made of its OpenAPI description; it loads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: .92em ui-monospace, monospace; } pre { overflow-x: auto; padding: .8rem; border: 1px solid #8886; }
section { border-top: 1px solid #8886; padding: .2rem 0 .6rem; } h2 { font-size: 1.05rem; margin: .6rem 0 .2rem; }
.method { display: inline-block; min-width: 4.5rem; color: #0072b2; } p { margin: .2rem 0; } .faint { opacity: .7; }
"""
_EXAMPLE = """curl -F audio=@meeting.wav -F max_speakers=4 http://127.0.0.1:7860/api/jobs    # {"id": "JOB", ...}
curl http://127.0.0.1:7860/api/jobs/JOB                                     # {"state": "running", "done": 3, ...}
curl "http://127.0.0.1:7860/api/jobs/JOB/result?format=rttm"
curl -X DELETE http://127.0.0.1:7860/api/jobs/JOB"""


def reference_page(described: Mapping[str, Any]) -> str:
    """Return the page as HTML.

    >>> "<code>/api/health</code>" in reference_page({"paths": {"/api/health": {"get": {"responses": {}}}}})
    True
    """
    sections = "".join(
        _section(method, path, operation)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>weigher: API</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style>'
        f'<h1>API</h1><p>For programs: <a href="openapi.json">openapi.json</a>. <a href="./">To the page</a>.</p>'
        f"<pre>{escape(_EXAMPLE)}</pre>{sections}</html>"
    )


def _section(method: str, path: str, operation: Mapping[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    form = content.get("multipart/form-data", {}).get("schema", {}).get("properties", {})
    fields = [*(f"{each['name']} ({each['in']})" for each in operation.get("parameters", ())), *form]
    if "application/json" in content:
        fields.append('{"name": ...} (body)')
    told = f'<p class="faint">Takes: {escape(", ".join(fields))}</p>' if fields else ""
    codes = ", ".join(sorted(operation["responses"]))
    return (
        f'<section><h2><span class="method">{escape(method.upper())}</span> <code>{escape(path)}</code></h2>'
        f'<p>{escape(operation.get("description", ""))}</p>{told}<p class="faint">Answers: {codes}</p></section>'
    )
