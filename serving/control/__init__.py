"""The loop that every controller of the mesh runs in, and its clock. No gRPC, no Ray, no etcd."""

from serving.control.backoff import Backoff
from serving.control.clock import Clock, ManualClock, SystemClock
from serving.control.controller import Controller, running_key
from serving.control.outcome import Done, GiveUp, LookAgain, Outcome, Retry
from serving.control.stats import ControllerStats

__all__ = [
    "Backoff",
    "Clock",
    "Controller",
    "ControllerStats",
    "Done",
    "GiveUp",
    "LookAgain",
    "ManualClock",
    "Outcome",
    "Retry",
    "SystemClock",
    "running_key",
]
