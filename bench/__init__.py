"""Speed: benchmarks, each a command that prints a table; some write every measurement as JSON."""
