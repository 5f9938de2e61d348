"""Methods that explain what networks compute, and change how they learn it."""
