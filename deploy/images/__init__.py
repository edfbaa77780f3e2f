"""Builds the container images: ``python -m deploy.images build``."""
