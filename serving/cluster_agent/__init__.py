"""The cluster agent: one process per Ray cluster. Leases the cluster's record, starts and stops application masters.

`plan`, `judge` and `record` are pure. `ray_side` is the only module that imports Ray, `__main__` the process.
"""
