"""Turning weights into bundles: everything slow, risky or heavy that happens before serving.

This package's front (:mod:`deepseek_engine.prepare.api`) is light: it starts a child process that
imports torch, opens files from outside and measures, so that none of this ever happens in a
process that serves. Serving code must not import this package.
"""
