"""Local folders in the format of transformers."""

from __future__ import annotations

from typing import Any

LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""How a folder is opened: nothing is downloaded, and code that lies in it is never run, nor is one asked to let it."""
