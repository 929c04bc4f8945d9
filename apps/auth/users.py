"""The users, from a JSON file, and what auth says of them."""

from datetime import UTC, datetime
from pathlib import Path

from pydantic import AwareDatetime, BaseModel, ConfigDict, TypeAdapter, ValidationError

from apps.shared.problems import Problem
from apps.shared.settings import SettingsError
from apps.shared.users import UserId


class User(BaseModel):
    """One user as the file has it. No session token, ever: whoever keeps an answer keeps no key to anything."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    roles: tuple[str, ...] = ()
    blocked: bool = False
    valid_until: AwareDatetime | None = None

    def info(self, user_id: str) -> dict[str, object]:
        """Return what the caller may know, or raise a `Problem` of status 403.

        Validity is told as a duration too, so that no caller's clock matters.
        """
        left = (self.valid_until - datetime.now(UTC)).total_seconds() if self.valid_until else None
        if self.blocked or (left is not None and left <= 0):
            raise Problem(403, "the user is blocked" if self.blocked else "the user's validity is over")
        until = self.valid_until and self.valid_until.isoformat()
        return {"user_id": user_id, "roles": self.roles, "valid_until": until, "valid_for_seconds": left}


def load(path: Path) -> dict[str, User]:
    """Read the file, or raise `SettingsError` with what is wrong with it."""
    try:
        return TypeAdapter(dict[UserId, User]).validate_json(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"AUTH_USERS_PATH: cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        places = [(".".join(map(str, one["loc"])), one["msg"].lower()) for one in error.errors()]
        raise SettingsError(*(f"AUTH_USERS_PATH: {path}: {place}: {text}" for place, text in places)) from None
