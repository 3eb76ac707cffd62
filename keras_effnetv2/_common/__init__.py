"""Files written whole, checks of values, progress, the machine: what every room may use."""
