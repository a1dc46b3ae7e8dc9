"""`python -m metarm`: the `metarm` command."""

from metarm.commands.main import main

main()
