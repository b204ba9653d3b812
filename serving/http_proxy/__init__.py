"""HTTP proxies of applications: what a gateway answers, for the models of one application.

`GatewayParts` (serving/gateway/parts.py) does the work; here is the replica around it that a master starts.
"""
