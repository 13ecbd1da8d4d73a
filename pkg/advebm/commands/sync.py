"""Sending of what MLflow has not received."""


def sync() -> None:
    """Send to MLflow the outbox of stages that ran while it could not be reached."""
    from advebm.runtime import tracking

    print(f"sent the outbox of {tracking.sync()} stages to {tracking.uri()}")
