"""gateway: the one door, a streaming reverse proxy by a table of routes."""
