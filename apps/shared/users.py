"""What a user id is, for both services that take one."""

import re
from typing import Annotated

from pydantic import Field
from starlette.requests import Request

from apps.shared.problems import Problem

_ID = r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}"
UserId = Annotated[str, Field(pattern=f"^{_ID}$")]
_LEGAL = re.compile(_ID)


def user_id(request: Request) -> str:
    """Return the id in the path, or raise a `Problem` of status 400: nothing else gets into keys, paths or logs."""
    given = request.path_params["user_id"]
    if not _LEGAL.fullmatch(given):
        raise Problem(400, "a user id is 1 to 64 of A-Z a-z 0-9 . _ @ -, and begins with a letter or a digit")
    return str(given)
