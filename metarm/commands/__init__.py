"""The `metarm` command and those of its subcommands that need neither the service nor the trainer."""
