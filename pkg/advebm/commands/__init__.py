"""The Typer commands: what the stages of the pipeline run, usable on any folder without DVC. torch is imported inside."""
