"""profile: a user's profile with what auth says of them, also while auth cannot be asked."""
