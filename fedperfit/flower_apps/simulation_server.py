"""The ServerApp of a simulation."""

from fl_server.app import app

__all__ = ["app"]
