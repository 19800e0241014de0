"""The real world: Debian's openclipart pictures with their titles, two frozen towers, heads trained here."""
