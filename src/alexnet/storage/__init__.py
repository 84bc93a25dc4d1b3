"""How bytes reach a disk and survive: whole files, whole folders, checksums."""
