"""Files written whole, checksums, the machine, timing: what every room may use."""
