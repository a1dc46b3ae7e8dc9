"""What runs inside the peers' own virtual environments: imports neither metarm nor the rest of bench."""
