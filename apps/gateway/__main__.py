"""`python -m apps.gateway` runs the service."""

from apps.gateway.app import create_app
from apps.gateway.settings import Settings
from apps.shared.server import main

main("gateway", Settings, create_app)
