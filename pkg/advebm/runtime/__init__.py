"""What all commands use: progress bars, resuming, files, several processes, MLflow."""
