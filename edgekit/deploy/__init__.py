"""What takes a published file to where it runs."""
