"""The protocol between clients and services, and the memory they share: used by both sides."""
