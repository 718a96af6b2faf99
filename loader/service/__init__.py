"""The service process: clients, streams, tickets, connections."""
