"""The version of the mesh, also where it runs from a source tree that was never installed. `setup.py` reads it here."""

VERSION = "0.1.0"
