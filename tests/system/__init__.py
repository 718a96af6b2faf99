"""Real processes, sockets, terminals and kills."""
