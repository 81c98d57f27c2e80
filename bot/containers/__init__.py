"""Containers through the Engine API of Docker and Podman: what the platforms docker and compose and the runner docker share."""
