"""Faults on the wire: a Kafka-aware proxy (proxy.py), and toxiproxy below it for bytes and time (toxi.py)."""
