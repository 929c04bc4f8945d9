"""The console's page: a few files by fixed names, which load nothing from elsewhere and send nothing there."""

from importlib import resources

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from commontrip.starlette._answers import SAFE, Endpoint

_CONTENT = "; ".join(
    (
        *("default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "img-src 'self'"),
        *("base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"),
        *("require-trusted-types-for 'script'", "trusted-types 'none'"),
    )
)
_HEADERS = SAFE | {"Content-Security-Policy": _CONTENT, "Referrer-Policy": "no-referrer"}
_KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_FILES = ("index.html", "console.css", "console.js", "draw.js", "order.js", "icon.svg")


def page() -> list[Route]:
    """Return the routes of the page at `/console/`; its addresses are relative, so that any prefix will do."""
    return [
        Route("/console", _enter),
        *(Route(f"/console/{'' if name == 'index.html' else name}", _file(name)) for name in _FILES),
    ]


async def _enter(_: Request) -> Response:
    return Response(status_code=307, headers=SAFE | {"Location": "console/"})


def _file(name: str) -> Endpoint:
    content = (resources.files("commontrip.starlette") / "console" / name).read_bytes()
    kind = _KINDS[name.rpartition(".")[2]]

    async def file(_: Request) -> Response:
        return Response(content, headers=_HEADERS, media_type=kind)

    return file
