"""Settings of the property tests."""

from hypothesis import settings

settings.register_profile("loaded", deadline=None)  # the machine may be busy: time is no property here
settings.load_profile("loaded")
