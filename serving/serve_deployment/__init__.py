"""Applications of Ray Serve as deployments of the mesh. Design: docs/design/0014-ray-serve.md."""
