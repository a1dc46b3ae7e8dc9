"""The `metarm` command, and its subcommands that need neither the service nor the trainer."""
