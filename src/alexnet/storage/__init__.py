"""Safe writing of files and folders: atomic writes, locks, checksums."""
