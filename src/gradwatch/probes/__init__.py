"""Questions put to a step while it trains: are its gradients correct, precise, reproducible; is its graph safe."""
