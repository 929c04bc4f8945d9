"""The environment from which all settings are read, here and in the services: completed by `.env`, or replaced."""

import os
from pathlib import Path

from dotenv import load_dotenv
from dotenv.parser import parse_stream

from apps.auth.settings import Settings as Auth
from apps.gateway.settings import Settings as Gateway
from apps.profile.settings import Settings as Profile
from apps.shared.settings import SettingsError, variables


def take(file: Path) -> None:
    """Take the file's settings into the environment, which beats it; no file is fine.

    Raises `SettingsError` if it cannot be read.
    """
    if not file.exists():
        return
    try:
        with file.open(encoding="utf-8") as text:
            bad = [one.original.line for one in parse_stream(text) if one.error]
        if bad:
            raise SettingsError(*(f"{file}: line {line} is not NAME=value" for line in bad))
        load_dotenv(file, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: cannot be read: {error}") from None


def replace(settings: dict[str, str]) -> None:
    """Take these for the settings of all services, whatever the environment says."""
    for kind in (Auth, Profile, Gateway):
        for name in variables(kind).values():
            os.environ.pop(name, None)
    os.environ.update(settings)
