"""Scored samples on their way to the log, and the retrain jobs that use them. No HTTP, no torch."""
