"""``python -m deepseek_engine``: the engine process."""

from __future__ import annotations

import sys

from deepseek_engine.process import main

sys.exit(main())
