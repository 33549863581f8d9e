"""Where bytes are: files of this machine, objects in stores, members of archives."""
