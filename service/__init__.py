"""The scoring service: HTTP in, scores out, samples to the log; the current version swapped without a pause."""
