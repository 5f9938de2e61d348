"""Datamodules whose loaders yield the same batches after a resume as without one."""

from framework.data.module import DataModule

__all__ = ["DataModule"]
