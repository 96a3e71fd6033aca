"""Collections: folders on disk, and one that needs no download."""
