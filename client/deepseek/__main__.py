"""Runs the command line: ``python -m deepseek COMMAND``."""

from __future__ import annotations

from deepseek.cli import main

if __name__ == "__main__":
    main()
