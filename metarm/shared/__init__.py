"""What the processes share through Redis: all Redis commands but the PING of `metarm up`. No torch."""
