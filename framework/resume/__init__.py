"""Going on where a run was stopped, so that it ends as if it had not been."""
