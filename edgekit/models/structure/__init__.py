"""What sources of each kind are made of, read without running anything of them, and without the frameworks that wrote them."""
