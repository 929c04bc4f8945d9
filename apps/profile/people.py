"""Profile's own data: a JSON file of objects by user id."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from apps.shared.settings import SettingsError
from apps.shared.users import UserId

SAMPLE = Path(__file__).with_name("people.json")


def load(path: Path) -> dict[str, dict[str, Any]]:
    """Read the file, or raise `SettingsError` with what is wrong with it."""
    try:
        return TypeAdapter(dict[UserId, dict[str, Any]]).validate_json(path.read_bytes())
    except OSError as error:
        raise SettingsError(f"PROFILE_PEOPLE_PATH: cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        places = [(".".join(map(str, one["loc"])), one["msg"].lower()) for one in error.errors()]
        raise SettingsError(*(f"PROFILE_PEOPLE_PATH: {path}: {place}: {text}" for place, text in places)) from None
