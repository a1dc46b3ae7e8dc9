"""What the processes share through Redis: the only code that sends Redis commands. No torch."""
