"""Power cut under a real file system: every write and flush of a block device recorded, then put back as the disk may have kept it."""
