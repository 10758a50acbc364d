"""What the controller and every device agree on, and the way they talk."""
