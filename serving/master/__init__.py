"""The application master: a detached Ray actor that makes its cluster look like the application's spec.

`names`, `model`, `phases`, `replica`, `crash_loop`, `rollout`, `plan` and `status` are pure. `ray_actors` and
`launcher` are the only modules that call Ray, `actor` the only one that Ray calls.
"""
