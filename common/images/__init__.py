"""Image files and stored images: the packages of the extra `images`."""
