"""What every command relies on: progress, resuming, files on the disk, several processes, MLflow."""
