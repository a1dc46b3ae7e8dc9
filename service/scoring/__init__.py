"""A request's samples → scores, by the version they are handed with."""
