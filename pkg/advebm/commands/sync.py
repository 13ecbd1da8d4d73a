"""Delivery of what MLflow did not take."""


def sync() -> None:
    """Send to MLflow what waits in state/outbox of stages that ran while it could not be reached."""
    from advebm.runtime import tracking

    print(f"sent what waited of {tracking.sync()} stages to {tracking.uri()}")
