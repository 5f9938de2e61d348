"""Going on where a run was stopped, so that it ends as if it had not been."""

from framework.resume.checkpoint_io import AtomicCheckpointIO
from framework.resume.checkpoints import open_checkpoint
from framework.resume.point import ResumePoint, run_id_of
from framework.resume.signals import Interrupted, exit_code

__all__ = ["AtomicCheckpointIO", "Interrupted", "ResumePoint", "exit_code", "open_checkpoint", "run_id_of"]
