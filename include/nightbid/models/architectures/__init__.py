"""One file per architecture; its name is the file's name."""
