"""`python -m apps.shared.reload MODULE` runs a service, and starts it anew when its code changes; for development."""

import runpy
import sys
from pathlib import Path

from uvicorn import Config
from uvicorn.supervisors import ChangeReload

import apps


def run(sockets: object = None) -> None:  # noqa: ARG001 - uvicorn passes its own, of which there are none
    """Run the service; its arguments are not for it."""
    runpy.run_module(sys.argv[1], run_name="__main__")


if __name__ == "__main__":
    folder = str(Path(apps.__path__[0]).parent)
    ChangeReload(Config("", reload=True, reload_dirs=[folder]), target=run, sockets=[]).run()
