"""What ``python -m framework`` takes: a file for each command, which reads what was typed and calls the rest."""
