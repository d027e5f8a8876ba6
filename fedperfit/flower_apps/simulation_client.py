"""The ClientApp of a simulation on Ray."""

from fl_clients.ray_app import app

__all__ = ["app"]
