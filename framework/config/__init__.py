"""Configuration: composed from files and overrides, then interpolated, then type-checked."""
