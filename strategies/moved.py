"""What a method written for version 0.1 imports, and where it is now."""

_MOVED = {
    "strategies.adapters": (
        "strategies.adapters.lora is now strategies.lora.adapters; "
        "strategies.adapters.shift, .sites and .positions are in strategies.shifts"
    ),
    "'adapters'": "LoRA's adapters are now in strategies.lora.adapters, shifts and sites in strategies.shifts",
    "averaging'": "strategies.averaging is now strategies.aggregation.mean",
    "robust'": "strategies.robust is now strategies.aggregation.robust",
    "stacking'": "strategies.stacking is now strategies.lora.merging",
    "evaluate_modules'": "strategies.evaluate_modules is now strategies.metrics.evaluate_modules",
    "from 'strategies.aggregation'": "the averages of R, W, b are now in strategies.shifts.averages",
    "from 'strategies.metrics'": "it is now in strategies.metrics.statistics",
    "from 'strategies.lora'": "LoRA's adapters are now in strategies.lora.adapters",
    "Visit'": "Visit is now TrainRequest, and its `kept` is `client_state`",
    "Trained'": "Trained is now TrainResult, and its `kept` is `client_state`",
    "fl_clients": "methods need nothing of fl_clients; what was fl_clients.backbone is in fl_clients.backbone.load",
}
"""Part of an error's message, and what to say."""


def moved_hint(error: Exception) -> str:
    """Return `"; …"` for the use of something that has moved since version 0.1, else `""`."""
    message = str(error)
    if not isinstance(error, ImportError | AttributeError) or not ("strategies" in message or "fl_clients" in message):
        return ""
    hints = [hint for needle, hint in _MOVED.items() if needle in message]
    return f"; {hints[0]}" if hints else ""
