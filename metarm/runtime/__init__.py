"""What every process needs to run: settings, logs, traces, progress, its environment, cores and children."""
