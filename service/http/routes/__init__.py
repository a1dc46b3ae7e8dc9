"""The routes, a file for each resource: they turn bodies into domain objects and results into answers."""
