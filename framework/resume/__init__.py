"""Going on where a run was stopped, so that it ends as if it had not been."""

from framework.resume.point import ResumePoint
from framework.resume.signals import Interrupted, exit_code

__all__ = ["Interrupted", "ResumePoint", "exit_code"]
