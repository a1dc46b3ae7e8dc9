"""Programs for the peers' own virtual environments: they import neither metarm nor the rest of bench."""
