"""Going on where a run was stopped, so that it ends as if it had not been."""

from framework.resume.point import ResumePoint, run_id_of
from framework.resume.signals import Interrupted, exit_code

__all__ = ["Interrupted", "ResumePoint", "exit_code", "run_id_of"]
