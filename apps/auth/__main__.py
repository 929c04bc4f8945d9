"""`python -m apps.auth` runs the service."""

from apps.auth.app import create_app
from apps.auth.settings import Settings
from apps.shared.server import main

main("auth", Settings, create_app)
