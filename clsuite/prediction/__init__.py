"""Loss laws: fit them to finished curves, predict the curve of another schedule."""
