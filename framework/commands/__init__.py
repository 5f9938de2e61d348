"""The commands of ``python -m framework``: one file each, which reads the command line and calls the rest."""
