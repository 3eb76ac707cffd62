"""The bytes of one picture become pixels, and pixels become a square."""
