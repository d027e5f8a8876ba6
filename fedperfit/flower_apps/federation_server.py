"""The ServerApp of a real federation."""

from simulations.federation.server_app import app

__all__ = ["app"]
