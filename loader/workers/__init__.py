"""Worker processes, and all that is done to an image in one."""
