"""Reads handwritten digits from bytes: a class that prepares pixels and asks the model of another deployment."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from serving.errors import InvalidArgument
from serving.python_deployment import Handle, Request, Tensor

PIXELS = 64  # 8 x 8, row by row, from 0 (white) to 16


class Reader:
    """One image of 64 bytes per element; answers the digit and how sure the model is."""

    inputs = (Tensor("images", "BYTES", (-1,)),)
    outputs = (Tensor("digit", "INT64", (-1,)), Tensor("confidence", "FP32", (-1,)))

    def __init__(self) -> None:
        self.digits = Handle("digits")
        self.least = 0.0

    def reconfigure(self, config: dict[str, float]) -> None:
        self.least = config.get("least_confidence", 0.0)

    async def infer(self, request: Request) -> dict[str, NDArray[np.generic]]:
        images = request["images"].tolist()
        if any(len(image) != PIXELS for image in images):
            raise InvalidArgument(f"each image must have {PIXELS} bytes")
        pixels = np.frombuffer(b"".join(images), dtype=np.uint8).reshape(-1, PIXELS).astype(np.float32)
        probabilities = (await self.digits.infer({"image": pixels}))["probabilities"]
        digit, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
        return {"digit": np.where(confidence >= self.least, digit, -1), "confidence": confidence}
