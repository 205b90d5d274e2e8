"""What survives a restart: applications, models, current versions and their blobs."""
