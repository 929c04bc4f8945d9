"""`python -m apps.profile` runs the service."""

from apps.profile.app import create_app
from apps.profile.settings import Settings
from apps.shared.server import main

main("profile", Settings, create_app)
