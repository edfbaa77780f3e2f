"""Made-up CT volumes with known masks, because no package ships real ones that may be used.

A phantom is a body of soft tissue in air with darker and brighter ellipsoids inside, blurred and
noisy, in Hounsfield units. Whoever judges a model for patients needs patients' data; these show
that a graph computes what its module computes, and give calibration plausible values.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from deepseek_engine.codec import Array

__all__ = ["AIR", "TISSUE", "Phantoms"]

AIR, TISSUE, ORGAN, LESION = -1000.0, 40.0, 160.0, 320.0
"""Hounsfield units."""
NOISE = 60.0
"""Standard deviation of the noise, in the same units."""


@dataclass(frozen=True, slots=True)
class Phantoms:
    """Volumes of one shape; the same seed gives the same ones."""

    shape: tuple[int, int, int]
    """Depth, height, width in voxels."""
    seed: int

    def make(self, count: int) -> tuple[Array, Array]:
        """Volumes FP32 ``[count, 1, D, H, W]`` and masks UINT8 ``[count, D, H, W]``.

        Classes of a mask: 0 everything else, 1 organ, 2 lesion (inside or beside the organ).
        """
        random = np.random.default_rng(self.seed)
        pairs = [self._one(random) for _ in range(count)]
        volumes = np.stack([volume for volume, _ in pairs])[:, None].astype(np.float32)
        return volumes, np.stack([mask for _, mask in pairs])

    def _one(self, random: np.random.Generator) -> tuple[Array, Array]:
        body = self._ellipsoid(random, centre=0.08, radius=(0.75, 0.95))
        organ = self._ellipsoid(random, centre=0.3, radius=(0.35, 0.6)) & body
        lesion = self._ellipsoid(random, centre=0.4, radius=(0.22, 0.36)) & body
        clean = np.where(body, TISSUE, AIR)
        clean = np.where(organ, ORGAN, clean)
        clean = np.where(lesion, LESION, clean)
        mask = np.where(lesion, 2, np.where(organ, 1, 0)).astype(np.uint8)
        volume = _blurred(clean) + random.normal(0.0, NOISE, self.shape)
        return volume, mask

    def _ellipsoid(
        self, random: np.random.Generator, *, centre: float, radius: tuple[float, float]
    ) -> Array:
        """A ball in a cube from -1 to 1 whose centre and half axes are drawn."""
        axes = [np.linspace(-1.0, 1.0, size) for size in self.shape]
        grid = np.meshgrid(*axes, indexing="ij")
        middle = random.uniform(-centre, centre, 3)
        half = random.uniform(*radius, 3)
        distance = sum(
            ((line - at) / size) ** 2 for line, at, size in zip(grid, middle, half, strict=True)
        )
        inside: Array = np.asarray(distance) <= 1.0
        return inside


def _blurred(volume: Array) -> Array:
    """The mean of each voxel and its neighbours along each axis: no scanner has sharp edges."""
    for axis in range(volume.ndim):
        padded = np.pad(volume, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        before = np.take(padded, np.arange(volume.shape[axis]), axis)
        after = np.take(padded, np.arange(2, volume.shape[axis] + 2), axis)
        volume = (before + 2.0 * volume + after) / 4.0
    return volume
