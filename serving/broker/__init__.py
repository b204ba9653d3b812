"""Brokers keep requests until replicas have room for them, and results until clients fetch them (design note 0021)."""
