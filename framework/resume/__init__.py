"""Saves and restores everything that a run needs to resume with the same result as without the stop."""

from framework.resume.point import ResumePoint
from framework.resume.signals import Interrupted, exit_code

__all__ = ["Interrupted", "ResumePoint", "exit_code"]
