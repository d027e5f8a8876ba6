"""The ClientApp of a real device."""

from fl_clients.device_app import app

__all__ = ["app"]
