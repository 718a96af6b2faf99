"""The protocol between clients and services, and the memory they share."""
